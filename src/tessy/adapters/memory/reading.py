"""One forward over the new tokens of many texts, side by side, whose earlier keys and values are kept.

The tokens of all texts are packed one after another, so that nothing is padded but attention, and that only among texts
that go on by a similar number of tokens. The model's attention is replaced by one that knows where each text's
keys and values are, and a norm of several calls of torch by one that gives the same; all else is the model's own.
Refuses to know what the texts are and what is made of the logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, repeat
from typing import Any, NamedTuple

from tessy.adapters.memory.places import Places, Strand
from tessy.errors import ModelError

try:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import AttentionInterface
except ImportError as error:
    raise ModelError("a model in this process needs torch: pip install 'tessy[local]'") from error

_ATTENTION = "tessy_memory"
_ROUNDING = 4
"""By how much a norm in one call may differ from the model's own, in units of its type's rounding of the largest."""
_Where = tuple[torch.Tensor | int, slice, torch.Tensor | slice]


class Part(NamedTuple):
    """How a text goes on: by at least one token."""

    strand: Strand
    new: Sequence[int]


class Memory:
    """Reads with one model, whose attention it takes over, into `places`."""

    def __init__(self, model: Any, limit: int) -> None:
        """Remember what `model`, of which `reads_on` is true, has read, in at most `limit` tokens' room."""
        model.set_attn_implementation(_ATTENTION)
        _norms_in_one_call(model)
        self.places = Places(limit, model.config.get_text_config().num_hidden_layers)
        self._model = model
        # A model looks through its parameters for them each time.
        self._device, self._dtype = model.device, model.dtype

    def read(self, parts: Sequence[Part]) -> torch.Tensor:
        """Read on; there must be room for it (`Places.reserve`).

        Returns:
            The logits after the last token of each part, [parts, vocabulary].
        """
        turn = self._turn(parts)
        last = torch.tensor([stop - 1 for _, stop in turn.spans], device=self._device)
        return self._forward(parts, turn, logits_to_keep=last)

    def read_all(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """Read on, as `read` does.

        Returns:
            For each part the logits after each of its tokens, [tokens, classes].
        """
        turn = self._turn(parts)
        logits = self._forward(parts, turn)
        return [logits[start:stop] for start, stop in turn.spans]

    def _forward(self, parts: Sequence[Part], turn: _Turn, **options: Any) -> torch.Tensor:
        output = self._model(
            input_ids=turn.ids[None], position_ids=turn.positions[None], use_cache=False, turn=turn, **options
        )
        for strand, new in parts:
            self.places.note(strand, new)
        logits: torch.Tensor = output.logits[0]
        return logits

    def _turn(self, parts: Sequence[Part]) -> _Turn:
        """Lay the parts out, those that go on by a similar number of tokens next to one another."""
        groups: list[_Group] = []
        rows: list[tuple[int, int, int]] = []
        spans = [(0, 0)] * len(parts)
        first = 0
        # One alone is read where it is, once the others have been moved.
        for members in sorted(alike(parts), key=len, reverse=True):
            if len(members) > 1:
                self.places.bring([parts[n].strand for n in members], first)
                first += len(members)
            members.sort(key=lambda n: parts[n].strand.place)
            groups.append(_group([parts[n] for n in members], len(rows), self._device, self._dtype))
            for n in members:
                strand, new = parts[n]
                spans[n] = (len(rows), len(rows) + len(new))
                rows += zip(
                    new, range(len(strand.ids), self.places.width), repeat(strand.place), strict=False
                )
        ids, positions, places = torch.tensor(rows, device=self._device).unbind(1)
        where: _Where = (places, slice(None), positions)
        if len(parts) == 1:
            ((_, position, place), count) = rows[0], len(rows)
            where = (place, slice(None), slice(position, position + count))
        return _Turn(self.places, ids, positions, where, spans, groups)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One forward: the new tokens of all texts, one after another."""

    memory: Places
    ids: torch.Tensor
    positions: torch.Tensor
    where: _Where
    """Where in a layer's buffers its tokens' keys and values go: for each of them its place and position; of one text
    alone its place and a piece of it, which is quicker and has the heads first."""
    spans: Sequence[tuple[int, int]]
    """Where each part's tokens are among them."""
    groups: Sequence[_Group]


@dataclass(frozen=True, slots=True)
class _Group:
    """Texts at neighbouring places that go on by a similar number of tokens: their attention is one call."""

    places: slice
    tokens: slice
    """Theirs among those of the turn."""
    shape: tuple[int, int]
    """Texts, and the most tokens by which one goes on."""
    end: int
    """The length of the longest text, new tokens included."""
    seen: torch.Tensor | None
    """[texts, 1, new tokens, end]: 0 where a new token sees, -inf elsewhere; None: one text, from its beginning
    or by its last token alone."""
    padded: torch.Tensor | None
    """[texts, new tokens]: which token of the turn it is; None where all go on by equally many."""
    real: torch.Tensor | None
    """Which of the padded ones are there."""

    def attend(
        self, module: Any, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, options: Any
    ) -> torch.Tensor:
        """Attention of the group's tokens, [tokens, heads, size], to all that was read of their texts."""
        own = query[:, self.tokens].unflatten(1, self.shape) if self.padded is None else query[:, self.padded]
        keys, values = (each[self.places, :, : self.end] for each in (keys, values))
        out, _ = sdpa_attention_forward(module, own.transpose(0, 1), keys, values, self.seen, **options)
        flat: torch.Tensor = out.flatten(0, 1)
        return flat if self.real is None else flat[self.real]


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    *,
    turn: _Turn,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What the model calls in each layer, with the new tokens of all texts in a row, [1, heads, tokens, size]."""
    del attention_mask  # each group has its own
    keys, values = turn.memory.layer(module.layer_idx, key, value)
    alone = isinstance(turn.where[0], int)
    for buffer, new in ((keys, key), (values, value)):
        buffer[turn.where] = new[0] if alone else new[0].transpose(0, 1)
    parts = [group.attend(module, query[0], keys, values, options) for group in turn.groups]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


AttentionInterface.register(_ATTENTION, _attention)


def alike(parts: Sequence[Part]) -> Iterator[list[int]]:
    """The numbers of parts that go on by a similar number of tokens; those by one alone, as they are the most."""
    group: list[int] = []
    shortest = 0
    for n in sorted(range(len(parts)), key=lambda n: len(parts[n].new)):
        new = len(parts[n].new)
        if group and new > (2 * shortest if shortest > 1 else 1):
            yield group
            group = []
        if not group:
            shortest = new
        group.append(n)
    yield group


def _group(parts: Sequence[Part], start: int, device: torch.device, dtype: torch.dtype) -> _Group:
    """Texts at places one after the other, whose new tokens begin at `start` of the turn."""
    first = parts[0].strand.place
    new = [len(part.new) for part in parts]
    known = [len(part.strand.ids) for part in parts]
    width, end = max(new), max(map(sum, zip(known, new, strict=True)))
    seen = padded = real = None
    if len(parts) > 1 or (known[0] and width > 1):
        positions = torch.tensor(known, device=device)[:, None] + torch.arange(width, device=device)
        beyond = (torch.arange(end, device=device) > positions[:, :, None])[:, None]
        # Added to scores, which attention would otherwise make of it again in each layer.
        seen = torch.zeros(beyond.shape, dtype=dtype, device=device).masked_fill_(beyond, -torch.inf)
    if min(new) < width:
        starts = list(accumulate(new, initial=start))[:-1]
        padded = torch.tensor(
            [[at + min(n, count - 1) for n in range(width)] for at, count in zip(starts, new, strict=True)],
            device=device,
        )
        real = torch.tensor(
            [n * width + i for n, count in enumerate(new) for i in range(count)], device=device
        )
    tokens = slice(start, start + sum(new))
    return _Group(slice(first, first + len(new)), tokens, (len(new), width), end, seen, padded, real)


def _norms_in_one_call(model: Any) -> None:
    """Let RMS norms of a weight and an epsilon be one call of torch, where that gives what they give.

    They are six calls or seven, four times a layer: of a small model a fifth of the forward, and each call is a chance
    to wait for Python's lock.
    """
    with torch.inference_mode():
        for module in model.modules():
            weight, epsilon = (getattr(module, name, None) for name in ("weight", "variance_epsilon"))
            if isinstance(weight, torch.Tensor) and isinstance(epsilon, float):
                one = partial(torch.rms_norm, normalized_shape=weight.shape, weight=weight, eps=epsilon)
                example = torch.linspace(-2, 3, weight.numel(), dtype=weight.dtype, device=weight.device)
                expected = module(example)
                off = (one(example) - expected).abs().max()
                if off <= _ROUNDING * torch.finfo(weight.dtype).eps * expected.abs().max():
                    module.forward = one


def reads_on(model: Any) -> bool:
    """Whether a text can be read piece by piece: causal full attention in every layer, told by position ids."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = None if hasattr(config, "layer_types") else getattr(config, "sliding_window", None)
    attentions = [
        module for module in model.modules() if hasattr(module, "layer_idx") and hasattr(module, "is_causal")
    ]
    return (
        kinds == {"full_attention"}
        and (window is None or window >= config.max_position_embeddings)
        and bool(getattr(model, "_supports_attention_backend", False))
        and "position_ids" in inspect.signature(model.forward).parameters
        and bool(attentions)
        and all(module.is_causal for module in attentions)
    )


def key_shape(model: Any) -> tuple[int, int]:
    """Heads of a layer's keys, and the size of one; values are alike."""
    config = model.config.get_text_config()
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return heads, size


def token_bytes(model: Any) -> int:
    """Bytes of the keys and values of one token in all layers."""
    heads, size = key_shape(model)
    layers: int = model.config.get_text_config().num_hidden_layers
    return 2 * layers * heads * size * int(model.dtype.itemsize)
