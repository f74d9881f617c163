"""A causal language model in this process as an `Engine`: continuous batching over one key-value cache.

Owns the batch. A worker thread admits requests as they come, draws one token for every running row, and lets rows go
the moment they are done, so that nobody waits for anybody else's completion and the event loop is never blocked.
What a row gets does not depend on the rows beside it. Nothing is kept between two completions.
Refuses to know prompts, reasoning formats and trajectories; text is the tokenizer's.

Importing this module imports torch and transformers; nothing else in tessy imports it at its top.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessy.errors import CompletionError, DeadlineError, ModelError, RequestError, ServerError
from tessy.protocols import Completer, Completion, EngineStats, Prompt, Sampling, Tokenizer

try:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.cache_utils import Cache, DynamicLayer
    from transformers.utils.logging import disable_progress_bar
except ImportError as error:
    raise ModelError("a model in this process needs torch: pip install 'tessy[local]'") from error

PREFILL_TOKENS = 4096
"""Tokens of one prefill, padding included: bounds its memory and how long running rows wait for newcomers."""


@dataclass(slots=True, eq=False)
class _Row:
    """One request, from the queue to its completion."""

    prompt: list[int]
    max_tokens: int
    future: asyncio.Future[tuple[list[int], bool]]
    draws: random.Random
    ids: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def length(self) -> int:
        """Tokens in the cache: all but the last one, which the next step reads."""
        return len(self.prompt) + len(self.ids) - 1

    @property
    def most(self) -> int:
        """Tokens in the cache when its last token is drawn."""
        return len(self.prompt) + self.max_tokens - 1

    @property
    def last(self) -> int:
        """The token that the next step reads."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def done(self) -> bool:
        """There is nothing left to draw, or nobody waits for it any more."""
        return self.finished or len(self.ids) >= self.max_tokens or self.future.done()


_Outcome = tuple[_Row, CompletionError | None]


class LocalEngine:
    """Implements `Engine` with the weights of `name`. Make it once for each model; its completers are cheap."""

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        sampling: Sampling | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        max_batch: int = 64,
        cache_tokens: int = 65_536,
    ) -> None:
        """Load `name`, a hub name or a folder.

        Args:
            name: where the model is; HF_TOKEN is honoured.
            tokenizer: the model's own, for the text of completions.
            sampling: how tokens are drawn (None: `Sampling()`).
            device: a torch device, or "auto": the first GPU if there is one.
            dtype: a torch floating type by name, or "auto": float32 on a CPU, the weights' own type elsewhere.
            threads: CPU threads of one operation (None: torch's default). Two engines in one process do best
                with half of the cores each; torch keeps this number for the whole process.
            max_batch: rows that run at a time.
            cache_tokens: most tokens in the key-value cache, over all rows: its memory is allocated as needed
                up to this.

        Raises:
            ModelError: it cannot be loaded, or is no model that can be batched here.
        """
        self.name = name
        self.stats = EngineStats(limit=max_batch)
        self._tokenizer = tokenizer
        self._model = _load(name, device, dtype)
        self._vocabulary = self._model.get_input_embeddings().num_embeddings
        text_config = self._model.config.get_text_config()
        self._context = min(
            getattr(text_config, "max_position_embeddings", None) or cache_tokens, cache_tokens
        )
        self._batch = _Batch(self._model, sampling or Sampling(), max_batch, cache_tokens)
        self._threads = threads
        self._waiting: deque[_Row] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name=f"model {name}", daemon=True)
        self._worker.start()

    def completer(self, key: str, *, seed: int | None, deadline: float | None) -> Completer:
        """The completer of the trajectory `key`. See `protocols.Engine`.

        With a seed, a completion depends on nothing but the seed, the prompt, its length, and how often it was
        asked for: what came back empty is drawn anew.
        """
        asked = (-1, 0)

        async def complete(prompt: Prompt, max_tokens: int) -> Completion:
            nonlocal asked
            ids = list(prompt.ids)
            asked = (len(ids), asked[1] + 1 if len(ids) == asked[0] else 0)
            draws = random.Random(None if seed is None else f"{seed} {asked}")
            return await self._complete(ids, max_tokens, draws, deadline)

        return complete

    async def close(self) -> None:
        """Stop the worker. What still runs or waits gets a ServerError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._worker.join)

    async def _complete(
        self, prompt: list[int], max_tokens: int, draws: random.Random, deadline: float | None
    ) -> Completion:
        self._check(prompt, max_tokens)
        room = self._context - len(prompt)
        future = asyncio.get_running_loop().create_future()
        row = _Row(prompt, min(max_tokens, room), future, draws)
        self.stats.in_flight += 1
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                self._submit(row)
                ids, finished = await future
        except TimeoutError as error:
            raise DeadlineError(
                f"{self.name}: the deadline has passed", where=self.name, kind="deadline"
            ) from error
        finally:
            self.stats.in_flight -= 1
        self.stats.requests += 1
        self.stats.generated += len(ids)
        text = self._tokenizer.decode(ids[:-1] if finished else ids)
        return Completion(tuple(ids), text, finished)

    def _check(self, prompt: Sequence[int], max_tokens: int) -> None:
        wrong = None
        if not prompt or max_tokens < 1:
            wrong = f"a prompt of {len(prompt)} tokens and {max_tokens} to write; expected at least 1 of each"
        elif len(prompt) >= self._context:
            wrong = f"a prompt of {len(prompt)} tokens; the model's context holds {self._context}"
        elif max(prompt) >= self._vocabulary:
            wrong = f"token id {max(prompt)} in the prompt; the model has ids below {self._vocabulary}"
        if wrong:
            raise RequestError(f"{self.name}: {wrong}", where=self.name, kind="request")

    def _submit(self, row: _Row) -> None:
        with self._wake:
            if self._closed:
                raise self._failure("it is closed")
            self._waiting.append(row)
            self._wake.notify()

    def _failure(self, reason: str) -> ServerError:
        return ServerError(f"{self.name} in this process: {reason}", where=self.name, kind="local")

    def _work(self) -> None:
        """The worker thread: admit, draw, let go, until it is closed."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while not self._closed:
                self._turn(self._admissible())
        self._deliver((row, self._failure("it is closed")) for row in (*self._batch.rows, *self._waiting))

    def _turn(self, newcomers: list[_Row]) -> None:
        try:
            self._batch.admit(newcomers)
            self._deliver((row, None) for row in self._batch.step())
        except Exception as error:  # noqa: BLE001  whatever torch raises, it is the callers' to hear
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            self._deliver((row, self._failure(reason)) for row in {*newcomers, *self._batch.rows})
            self._batch.clear()

    def _admissible(self) -> list[_Row]:
        """Who can join now, first come first served. Waits while there is nothing to do."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._batch.rows or self._closed)
            rows: list[_Row] = []
            while self._waiting and self._batch.has_room(rows, self._waiting[0]):
                row = self._waiting.popleft()
                rows += [] if row.done else [row]
            return rows

    def _deliver(self, outcomes: Iterable[_Outcome]) -> None:
        """Hand outcomes to their event loops, in one call for each loop."""
        loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
        for outcome in outcomes:
            loops.setdefault(outcome[0].future.get_loop(), []).append(outcome)
        for loop, mine in loops.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, mine)


class _Batch:
    """The running rows and their keys and values: row n of the batch is row n of every layer's buffers.

    A row's tokens stand at its own positions from 0 on; what lies beyond its length is masked. A row that leaves is
    replaced by the last one, so that a step reads a contiguous piece of the buffers and copies nothing.
    """

    def __init__(self, model: Any, sampling: Sampling, max_batch: int, cache_tokens: int) -> None:
        self.rows: list[_Row] = []
        self._model = model
        self._sampling = sampling
        self._max_batch = max_batch
        self._cache_tokens = cache_tokens
        self._ends = _end_ids(model)
        self._slots = _Slots()

    def has_room(self, newcomers: Sequence[_Row], row: _Row) -> bool:
        """Whether `row` can join beside those that run and `newcomers`."""
        rows = (*self.rows, *newcomers, row)
        return len(rows) <= self._max_batch and len(rows) * max(r.most for r in rows) <= self._cache_tokens

    def admit(self, newcomers: Sequence[_Row]) -> None:
        """Read the newcomers' prompts, all but the last token, which is their first step's."""
        if not newcomers:
            return
        every = (*self.rows, *newcomers)
        self._slots.reserve(len(every), max(row.most for row in every), self._cache_tokens)
        for group in _alike(newcomers):
            width = max(1, *(row.length for row in group))
            padded = [(row.prompt[:-1] + [0] * width)[:width] for row in group]
            ids = torch.tensor(padded, device=self._model.device)
            # Padding is on the right, where a causal model does not look back from; the head is not needed.
            read = self._model.base_model(input_ids=ids, use_cache=True).past_key_values
            self._slots.fill(len(self.rows), read)
            self.rows += group

    def step(self) -> list[_Row]:
        """Draw one token for every row. Returns those that are done, which have left."""
        if not self.rows:
            return []
        device, dtype = self._model.device, self._model.dtype
        lengths = torch.tensor([row.length for row in self.rows], device=device)
        width = max(row.length for row in self.rows) + 1
        beyond = torch.arange(width, device=device) > lengths[:, None]
        mask = torch.zeros(beyond.shape, dtype=dtype, device=device).masked_fill_(
            beyond, torch.finfo(dtype).min
        )
        logits = self._model(
            input_ids=torch.tensor([[row.last] for row in self.rows], device=device),
            position_ids=lengths[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=self._slots.at(lengths, width),
            use_cache=True,
        ).logits[:, -1]
        if logits.isnan().any():  # it would stay in the buffers, and spoil the rows that come after
            raise ArithmeticError("the model computed NaN; another dtype may help")
        for row, drawn in zip(
            self.rows, draw(logits, self._sampling, [r.draws for r in self.rows]), strict=True
        ):
            row.ids.append(drawn)
            row.finished = drawn in self._ends
        return self._leave()

    def clear(self) -> None:
        """Forget all rows and free the buffers."""
        self.rows.clear()
        self._slots = _Slots()

    def _leave(self) -> list[_Row]:
        gone: list[_Row] = []
        for n in reversed(range(len(self.rows))):
            if self.rows[n].done:
                gone.append(self.rows[n])
                last = self.rows.pop()
                if n < len(self.rows):
                    self._slots.move(len(self.rows), n, last.length)
                    self.rows[n] = last
        return gone


class _Slots:
    """Keys and values of all layers, each a buffer of [rows, heads, tokens, size of a head]."""

    def __init__(self) -> None:
        self._layers: list[_Layer] = []
        self._shape = (0, 0)

    def reserve(self, rows: int, tokens: int, limit: int) -> None:
        """Make room for `rows` rows of `tokens` tokens; rows * tokens is within `limit`."""
        if rows <= self._shape[0] and tokens <= self._shape[1]:
            return
        # Round steps, since growing copies; and never back, unless that is what keeps it within the limit.
        grown = (max(-(-rows // 8) * 8, self._shape[0]), max(-(-tokens // 256) * 256, self._shape[1]))
        self._shape = grown if grown[0] * grown[1] <= limit else (rows, tokens)
        for layer in self._layers:
            layer.resize(*self._shape)

    def fill(self, first: int, read: Any) -> None:
        """Take over the keys and values of a prefill as rows `first` and following."""
        if not self._layers:
            self._layers = [_Layer(layer.keys, layer.values, *self._shape) for layer in read.layers]
        for mine, theirs in zip(self._layers, read.layers, strict=True):
            for buffer, new in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                buffer[first : first + new.shape[0], :, : new.shape[2]] = new

    def move(self, source: int, target: int, tokens: int) -> None:
        """Row `source` becomes row `target`."""
        for layer in self._layers:
            for buffer in (layer.keys, layer.values):
                buffer[target, :, :tokens] = buffer[source, :, :tokens]

    def at(self, lengths: torch.Tensor, width: int) -> Any:
        """The cache of a step that adds one token to each row, at position `lengths`; `width` is the longest then."""
        for layer in self._layers:
            layer.lengths, layer.width = lengths, width
        return Cache(layers=list(self._layers))


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's buffers, in the form in which a model's forward asks for a cache."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: int, tokens: int) -> None:
        super().__init__()
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys[:0, :, :0], values[:0, :, :0]
        self.lengths = torch.zeros(0)
        self.width = 0
        self.resize(rows, tokens)

    def resize(self, rows: int, tokens: int) -> None:
        self.keys, self.values = (_resized(buffer, rows, tokens) for buffer in (self.keys, self.values))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the model: put one token into each row, and show all of them."""
        rows = torch.arange(len(self.lengths), device=self.device)
        self.keys[rows, :, self.lengths] = key_states[:, :, 0]
        self.values[rows, :, self.lengths] = value_states[:, :, 0]
        return self.keys[: len(rows), :, : self.width], self.values[: len(rows), :, : self.width]


def _resized(buffer: torch.Tensor, rows: int, tokens: int) -> torch.Tensor:
    resized = buffer.new_zeros((rows, buffer.shape[1], tokens, buffer.shape[3]))
    kept = (min(rows, buffer.shape[0]), min(tokens, buffer.shape[2]))
    resized[: kept[0], :, : kept[1]] = buffer[: kept[0], :, : kept[1]]
    return resized


def _alike(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows of similar length together, longest first: little padding, and few tokens at a time."""
    group: list[_Row] = []
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        full = group and (len(group) + 1) * group[0].length > PREFILL_TOKENS
        if group and (full or row.length < 0.8 * group[0].length):
            yield group
            group = []
        group.append(row)
    yield group


def draw(logits: torch.Tensor, sampling: Sampling, draws: Sequence[random.Random]) -> list[int]:
    """One token id for each row of `logits` [rows, vocabulary].

    The order is vLLM's: temperature, then top-k, top-p over what it left, min-p relative to the likeliest. Each row
    uses one number of its own generator, so that what it gets does not depend on its neighbours.
    """
    if sampling.temperature == 0:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    size = logits.shape[-1]
    scores, ids = logits.float().topk(min(sampling.top_k or size, size))
    likely = (scores / sampling.temperature).softmax(-1)
    kept = (likely.cumsum(-1) - likely < sampling.top_p) & (likely >= sampling.min_p * likely[:, :1])
    kept[:, 0] = True
    mass = (likely * kept).cumsum(-1)
    point = torch.tensor([[each.random()] for each in draws], device=mass.device) * mass[:, -1:]
    # Both conditions keep a prefix of the sorted tokens: rounding must not carry the draw beyond it.
    chosen = (mass <= point).sum(-1, keepdim=True).minimum(kept.sum(-1, keepdim=True) - 1)
    drawn: list[int] = ids.gather(-1, chosen)[:, 0].tolist()
    return drawn


def _settle(outcomes: Sequence[_Outcome]) -> None:
    for row, failure in outcomes:
        if row.future.done():  # cancelled meanwhile
            continue
        if failure:
            row.future.set_exception(failure)
        else:
            row.future.set_result((row.ids, row.finished))


def _load(name: str, device: str, dtype: str) -> Any:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    disable_progress_bar()  # it would run through the run's own display
    try:
        model, info = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True)
        model = model.eval().to(device)
    except Exception as error:  # somebody else's files: OSError, ValueError, KeyError, RuntimeError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(f"cannot load the model {name!r} (a folder or a hub name): {reason}") from error
    if info["missing_keys"]:
        raise ModelError(
            f"{name!r} has no weights for {sorted(info['missing_keys'])[0]!r}: it is no causal model"
        )
    _check_attention(name, model)
    return model


def _check_attention(name: str, model: Any) -> None:
    """Refuse models whose rows cannot stand side by side in one plain cache."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = None if hasattr(config, "layer_types") else getattr(config, "sliding_window", None)
    short = window is not None and window < config.max_position_embeddings
    if (
        kinds != {"full_attention"}
        or short
        or "position_ids" not in inspect.signature(model.forward).parameters
    ):
        raise ModelError(
            f"{name!r} does not use plain full attention with position ids, which a model in this process must; "
            "serve it (vLLM, SGLang) and give its base_url"
        )


def _end_ids(model: Any) -> frozenset[int]:
    """The ids that end a turn: what the generation config says, one or several."""
    ends = model.generation_config.eos_token_id
    ends = model.config.eos_token_id if ends is None else ends
    return frozenset([ends] if isinstance(ends, int) else ends or [])
