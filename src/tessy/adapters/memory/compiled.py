"""What `reading` does, by ONNX Runtime: a forward is one call, and attention is part of the graph.

For models so small that their modules' calling one another costs more than what they compute, on a CPU. Texts that go
on by a similar number of tokens are padded to one batch, and what is known of them is copied for it, which is cheap as
long as it is a window. Refuses to know what the texts are and what is made of the logits.

The graph is made of the model itself when it is loaded (https://docs.pytorch.org/docs/stable/onnx_export.html), which
takes some seconds; nothing is stored.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tessy.adapters.memory.places import Places, Strand
from tessy.adapters.memory.reading import Part, alike, key_shape
from tessy.errors import ModelError

try:
    import numpy as np
    import onnxruntime
    import onnxscript  # noqa: F401  what torch exports with, and misses late
    import torch
    from transformers.modeling_utils import AttentionInterface
except ImportError as error:
    raise ModelError("predictor_runtime onnx needs ONNX Runtime: pip install 'tessy[onnx]'") from error

_ATTENTION = "tessy_compiled"
_GIVEN = ("ids", "positions", "unknown", "later")
_MOST_BYTES = 2**31 - 1
"""Of a graph with its weights: https://protobuf.dev/programming-guides/proto-limits/."""
_CLOSE = 1e-3
"""By how much the logits of the graph may differ from the model's, relative to the largest: rounding in float32 is far
below, another attention than the one that is assumed far above."""


class Compiled:
    """Reads with a graph of one model, in float32 and on the CPU, into `places`."""

    def __init__(self, model: Any, limit: int) -> None:
        """Make a graph of `model`, of which `reads_on` is true, and remember what it has read in `limit` tokens' room.

        The model itself is not what it was afterwards. The graph computes with as many threads as torch does now.

        Raises:
            ModelError: no graph can be made of it, or it would be too large, or does not give what the model gives.
        """
        self.places = Places(limit, model.config.get_text_config().num_hidden_layers)
        example = torch.arange(12)[None] % model.config.get_text_config().vocab_size
        with torch.no_grad():
            expected = model.float()(input_ids=example, use_cache=False).logits[0]
        self._session = _session(_graph(model))
        known = {each.name: each.shape for each in self._session.get_inputs()[len(_GIVEN) :]}
        self._names = list(known)
        # What a layer's buffers are made like: keys of each layer, after which come its values.
        self._empty = [torch.zeros(1, heads, 1, size) for _, heads, _, size in list(known.values())[::2]]
        self._check(example, expected)

    def read_all(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """Read on; there must be room for it (`Places.reserve`).

        Returns:
            For each part the logits after each of its tokens, [tokens, classes].
        """
        found = [torch.empty(0)] * len(parts)
        for group in alike(parts):
            logits = self._read([parts[n] for n in group])
            for row, n in enumerate(group):
                found[n] = logits[row, : len(parts[n].new)]
        return found

    def _read(self, parts: Sequence[Part]) -> torch.Tensor:
        """One call: logits [parts, tokens, classes], of which those of padding say nothing."""
        known = np.array([[len(part.strand.ids)] for part in parts])
        new = np.array([[len(part.new)] for part in parts])
        steps = np.arange(int(new.max()))
        positions = known + steps
        ids = np.zeros(positions.shape, np.int64)
        for row, part in zip(ids, parts, strict=True):
            row[: len(part.new)] = part.new
        places = [part.strand.place for part in parts]
        # Whole rows: they are not copied where there is one, and not looked at where nothing is known.
        width = self.places.width if known.any() else 0
        chosen = slice(places[0], places[0] + 1) if len(places) == 1 else places
        buffers = [
            buffer.numpy()
            for layer, empty in enumerate(self._empty)
            for buffer in self.places.layer(layer, empty, empty)
        ]
        given = (
            ids,
            positions,
            _hidden(np.arange(width) >= known),
            _hidden(steps > steps[:, None]),
        )
        feed = dict(zip(_GIVEN, given, strict=True))
        feed |= {
            name: buffer[chosen][:, :, :width] for name, buffer in zip(self._names, buffers, strict=True)
        }
        logits, *read = self._session.run(None, feed)
        rows, columns = (steps < new).nonzero()
        where = np.array(places)[rows], slice(None), positions[rows, columns]
        for buffer, each in zip(buffers, read, strict=True):
            buffer[where] = each[rows, :, columns]
        for strand, tokens in parts:
            self.places.note(strand, tokens)
        return torch.from_numpy(logits)

    def _check(self, example: torch.Tensor, expected: torch.Tensor) -> None:
        """Read a text in two pieces, beside another one."""
        ids = example[0].tolist()
        strand, other = Strand(), Strand()
        self.places.reserve([strand, other], len(ids))
        first = self.read_all([Part(strand, ids[:7]), Part(other, ids[:6])])[0]
        found = torch.cat([first, self.read_all([Part(strand, ids[7:])])[0]])
        self.places.clear()
        worst = float((found - expected).abs().max() / expected.abs().max())
        if not worst < _CLOSE:
            raise ModelError(f"its graph for predictor_runtime onnx is off by {worst:.1g}: expected torch")


class _Stateless(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """The model as a function of what was read before, which is what a graph is made of."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        unknown: torch.Tensor,
        later: torch.Tensor,
        known: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Logits [rows, tokens, classes], then keys and values of the new tokens for each layer.

        Args:
            ids: the new tokens [rows, tokens], padded; positions likewise.
            unknown: [rows, width], -inf where nothing is known, else 0.
            later: [tokens, tokens], -inf where a new token comes after another, else 0.
            known: keys and values of each layer, [rows, heads, width, size].
        """
        new: list[torch.Tensor] = []
        rows, tokens = ids.shape
        hidden = torch.cat([unknown[:, None].expand(-1, tokens, -1), later.expand(rows, -1, -1)], -1)
        output = self.model(
            input_ids=ids, position_ids=positions, use_cache=False, hidden=hidden, known=known, new=new
        )
        return output.logits, *new


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    *,
    hidden: torch.Tensor,
    known: Sequence[torch.Tensor],
    new: list[torch.Tensor],
    scaling: float,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What the model calls in each layer while its graph is made. Never copies what is known to where the new is."""
    del attention_mask, options  # `hidden` is the mask; what the rest would change, `_check` sees
    keys, values = known[2 * module.layer_idx : 2 * module.layer_idx + 2]
    new += key, value
    rows, heads, tokens, size = query.shape
    # Heads of queries that share keys are rows of one matrix: [rows, heads of keys, sharing * tokens, size].
    query = query.reshape(rows, keys.shape[1], -1, size) * scaling
    scores = torch.cat([query @ keys.transpose(2, 3), query @ key.transpose(2, 3)], -1)
    scores = scores.view(rows, heads, tokens, -1) + hidden[:, None]
    shares = scores.softmax(-1).view(rows, keys.shape[1], -1, scores.shape[-1])
    out = shares[..., : keys.shape[2]] @ values + shares[..., keys.shape[2] :] @ value
    return out.view(rows, heads, tokens, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)


def _graph(model: Any) -> bytes:
    """The model in ONNX, with its weights."""
    if 4 * sum(weights.numel() for weights in model.parameters()) > _MOST_BYTES:
        raise ModelError("predictor_runtime onnx takes up to 2 GB of weights in float32: expected torch")
    heads, size = key_shape(model)
    layers = model.config.get_text_config().num_hidden_layers
    names = [f"{kind}{layer}" for layer in range(layers) for kind in ("keys", "values")]
    # Sizes of which none is like another by accident: the exporter takes equal ones for the same.
    rows, tokens, width = 2, 3, 7
    example = (
        torch.zeros(rows, tokens, dtype=torch.long),
        torch.arange(width, width + tokens).repeat(rows, 1),
        torch.zeros(rows, width),
        torch.zeros(tokens, tokens),
        [torch.zeros(rows, heads, width, size) for _ in names],
    )
    free = torch.export.Dim.DYNAMIC
    model.set_attn_implementation(_ATTENTION)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Stateless(model).eval(),
                example,
                input_names=[*_GIVEN, *names],
                dynamic_shapes=(*[{0: free, 1: free}] * len(_GIVEN), [{0: free, 2: free} for _ in names]),
                dynamo=True,
                verbose=False,
            )
        graph: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # somebody else's model: whatever the exporter raises
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"no graph for predictor_runtime onnx can be made of it: {said}") from error
    return graph


def _session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    options.enable_mem_pattern = False  # it would keep a plan for every shape that it has seen
    # Threads that wait by turning round take the cores of everything else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _hidden(where: np.typing.NDArray[np.bool_]) -> np.typing.NDArray[np.float32]:
    return np.where(where, np.float32(-np.inf), np.float32(0))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of operators that nobody here uses."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
