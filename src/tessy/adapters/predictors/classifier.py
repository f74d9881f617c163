"""A boundary predictor in this process: a two-class token classifier.

Owns the batching of concurrent requests: one worker thread takes whatever is waiting, so that a forward never blocks
the event loop and a lone request never waits for others. Refuses to know what a window is (`published`), how it is
computed (`rereading`) and what is done with the labels; the shift by one token is `tessy.core.cut`'s.

`torch` and `transformers` are imported when a classifier is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from tessy.adapters.predictors.published import Excerpt, cannot_load, reading
from tessy.errors import ModelError
from tessy.protocols import Mark

if TYPE_CHECKING:
    from tessy.adapters.predictors.rereading import Reads


CACHE_TOKENS = 32_768
"""Tokens whose keys and values are kept whatever they take."""
CACHE_BYTES = 2**30
"""What the keys and values of more than that may take."""
ENDED = 0.5
"""Windows that have ended, for each that goes on: they go when they are the longest unused."""


@dataclass(frozen=True, slots=True)
class _Request:
    excerpt: Excerpt
    future: asyncio.Future[list[Mark]]


Runtime = Literal["torch", "onnx"]
"""What computes a classifier."""
_Result = tuple[_Request, list[Mark] | ModelError]
Windows = Sequence[Sequence[int]]
Shares = list[list[float]]


class TokenClassifier:
    """Any two-class Hugging Face token classifier whose head at token j speaks of token j+1.

    Class 1 is style, unless the config's `id2label` names `style` and `capability`. A config may have a table
    `tessy` with `window` (tokens read) and `shift` (which must be 1).
    """

    def __init__(
        self,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        runtime: Runtime = "torch",
        max_batch: int = 64,
        max_tokens: int = 8192,
        in_flight: int = 64,
        cache_tokens: int | None = None,
    ) -> None:
        """Load `name`, a hub name or a folder.

        Args:
            name: where the model and its tokenizer are; HF_TOKEN is honoured.
            device: a torch device, or "auto": the first GPU if there is one.
            dtype: a torch floating type by name, or "auto": float32 on a CPU, bfloat16 elsewhere.
            runtime: what computes: "torch", or "onnx": ONNX Runtime, in float32 on the CPU. That takes some
                seconds more to load, and a fraction of the time for each draft where the model is small.
            max_batch: windows that are read together.
            max_tokens: tokens of one forward, padding included.
            in_flight: trajectories that ask it in turn.
            cache_tokens: most tokens whose keys and values are kept between drafts (None: what those in flight
                need, as long as it is no more than `CACHE_TOKENS` or takes no more than `CACHE_BYTES`). With more
                trajectories than there is room for nearly every window is read anew; with 0 every one.

        Raises:
            ModelError: torch (or ONNX Runtime) is missing, it cannot be loaded, it is no two-class token
                classifier, or ONNX Runtime cannot compute it as asked.
        """
        self.name = name
        if runtime == "onnx":
            device, dtype = _for_onnx(name, device, dtype)
        self._torch, model = _load(name, device, dtype)
        self._reading = reading(name)
        self._max_batch = max_batch
        memory = _memory(name, model, runtime, self._reading.window, in_flight, cache_tokens)
        self._shares, self._forget = _forward(
            model, memory, self._reading.style, window=self._reading.window, max_tokens=max_tokens
        )
        self._waiting: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"classifier {name}", daemon=True)
        self._thread.start()

    @property
    def window(self) -> int:
        """Tokens that it reads."""
        return self._reading.window

    async def __call__(self, context: str, draft: str) -> list[Mark]:
        """Marks of `draft` after `context`. See `protocols.BoundaryPredictor`.

        Raises:
            ModelError: the forward failed, or the classifier is closed.
        """
        if not draft:
            return []
        excerpt = self._reading.excerpt(context, draft)
        request = _Request(excerpt, asyncio.get_running_loop().create_future())
        with self._wake:
            if self._closed:
                raise ModelError(f"the boundary predictor {self.name!r} is closed")
            self._waiting.append(request)
            self._wake.notify()
        return await request.future

    async def close(self) -> None:
        """Stop the worker; what still waits gets a ModelError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        """The worker thread: batch after batch, until it is closed."""
        with self._torch.inference_mode():
            while taken := self._take():
                try:
                    _deliver(self._read(taken))
                except Exception as error:  # noqa: BLE001  whatever torch raises, it is the callers' to hear
                    self._forget()
                    self._fail(taken, f"failed: {' '.join(str(error).split())[:300]}")
        self._fail(self._waiting, "is closed")
        self._forget()

    def _take(self) -> list[_Request]:
        """What is waiting, up to a batch; nothing once it is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            count = 0 if self._closed else min(self._max_batch, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)]

    def _fail(self, requests: Iterable[_Request], what: str) -> None:
        message = f"the boundary predictor {self.name!r} {what}"
        _deliver([(request, ModelError(message)) for request in requests])

    def _read(self, requests: Sequence[_Request]) -> list[_Result]:
        wanted = [request for request in requests if not request.future.done()]
        windows = [self._reading.tokens(request.excerpt) for request in wanted]
        shares = iter(self._shares([window.ids for window in windows if window.ids]))
        return [
            (request, window.marks(next(shares) if window.ids else ()))
            for request, window in zip(wanted, windows, strict=True)
        ]


def _for_onnx(name: str, device: str, dtype: str) -> tuple[str, str]:
    """The device and type of what ONNX Runtime computes."""
    if device not in ("auto", "cpu") or dtype not in ("auto", "float32"):
        raise ModelError(
            f"the boundary predictor {name!r}: predictor_runtime onnx computes in float32 on the CPU, "
            f"expected device auto or cpu and dtype auto or float32, found {device} and {dtype}"
        )
    return "cpu", "float32"


def _memory(
    name: str, model: Any, runtime: Runtime, window: int, in_flight: int, cache_tokens: int | None
) -> Reads | None:
    """What reads windows on; None where they are read anew each time."""
    from tessy.adapters.memory import Memory, reads_on

    on = (cache_tokens is None or cache_tokens > 0) and reads_on(model)
    if runtime == "onnx" and not on:
        raise ModelError(
            f"the boundary predictor {name!r} cannot read on after what it has read, "
            "which predictor_runtime onnx needs: expected torch"
        )
    if not on:
        return None
    limit = max(_room(model, window, in_flight) if cache_tokens is None else cache_tokens, window)
    if runtime == "torch":
        return Memory(model, limit)
    try:
        from tessy.adapters.memory.compiled import Compiled

        return Compiled(model, limit)
    except ModelError as error:
        raise ModelError(f"the boundary predictor {name!r}: {error}") from error


def _room(model: Any, window: int, in_flight: int) -> int:
    """Tokens to keep for the windows of so many trajectories."""
    from tessy.adapters.memory import place_width, token_bytes

    wanted = round((1 + ENDED) * in_flight * place_width(window))
    return max(CACHE_TOKENS, min(wanted, CACHE_BYTES // token_bytes(model)))


def _forward(
    model: Any, memory: Reads | None, style: int, *, window: int, max_tokens: int
) -> tuple[Callable[[Windows], Shares], Callable[[], None]]:
    """How windows are computed, and how to forget what is kept of them."""
    from tessy.adapters.predictors.rereading import Remembering, anew

    if memory:
        remembering = Remembering(memory, style, window=window, max_tokens=max_tokens)
        return remembering, remembering.clear
    return partial(anew, model, style, max_tokens=max_tokens), lambda: None


def _load(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    """torch and the model."""
    try:
        import torch
        from transformers import AutoModelForTokenClassification
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise ModelError(
            f"the boundary predictor {name!r} needs torch: pip install 'tessy[local]'"
        ) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    disable_progress_bar()  # it would run through the run's own display
    try:
        model, info = AutoModelForTokenClassification.from_pretrained(
            name, dtype=getattr(torch, dtype), output_loading_info=True
        )
        model = model.eval().to(device)
    except Exception as error:  # somebody else's files: OSError, ValueError, KeyError, RuntimeError
        raise cannot_load(name, error) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])[0]
        raise ModelError(f"{name!r} is no trained token classifier: it has no weights for {missing!r}")
    return torch, model


def _deliver(results: Iterable[_Result]) -> None:
    """Hand results to their event loops, in one call for each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Result]] = {}
    for result in results:
        loops.setdefault(result[0].future.get_loop(), []).append(result)
    for loop, mine in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, mine)


def _settle(results: Sequence[_Result]) -> None:
    for request, result in results:
        if request.future.done():  # cancelled meanwhile
            continue
        if isinstance(result, ModelError):
            request.future.set_exception(result)
        else:
            request.future.set_result(result)
