"""Boundary predictors in this process: a two-class token classifier, and a lexicon that needs no model.

Owns how a published classifier is read (which class is style, its window, its own vocabulary), and the batching of
concurrent requests: one worker thread takes whatever is waiting, so that a forward never blocks the event loop
and a lone request never waits for others. Refuses to know what is done with the labels; the shift by one token
is `tessy.core.cut`'s.

`torch` and `transformers` are imported when a classifier is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tessy.core.cut import shifted
from tessy.errors import ModelError
from tessy.protocols import Mark

WINDOW = 200
"""Tokens that a classifier reads unless its config says otherwise (paper §2.2)."""

CHARACTERS_PER_TOKEN = 8
"""Tokens of prose and code have 3 to 5 characters: 8 fill the window nearly always, and what is tokenized for a draft
does not grow with the trajectory."""


@dataclass(frozen=True, slots=True)
class _Request:
    text: str
    """The end of context + draft."""
    context: int
    """Where the draft begins in `text`; negative where even the draft did not fit."""
    future: asyncio.Future[list[Mark]]


@dataclass(frozen=True, slots=True)
class _Window:
    request: _Request
    ids: list[int]
    starts: list[int]


_Result = tuple[_Request, list[Mark] | ModelError]


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
        max_batch: int = 64,
        max_tokens: int = 8192,
    ) -> None:
        """Load `name`, a hub name or a folder.

        Args:
            name: where the model and its tokenizer are; HF_TOKEN is honoured.
            device: a torch device, or "auto": the first GPU if there is one.
            dtype: a torch floating type by name, or "auto": float32 on a CPU, bfloat16 elsewhere.
            max_batch: rows of one forward.
            max_tokens: tokens of one forward, padding included.

        Raises:
            ModelError: torch is missing, it cannot be loaded, or it is no two-class token classifier.
        """
        self.name = name
        self._torch, self._model, self._tokenizer = _load(name, device, dtype)
        self._style = style_class(name, self._model.config)
        self.window = window(name, self._model.config)
        self._max_batch = max_batch
        self._max_tokens = max_tokens
        self._waiting: deque[_Request] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"classifier {name}", daemon=True)
        self._thread.start()

    async def __call__(self, context: str, draft: str) -> list[Mark]:
        """Marks of `draft` after `context`. See `protocols.BoundaryPredictor`.

        Raises:
            ModelError: the forward failed, or the classifier is closed.
        """
        if not draft:
            return []
        limit = self.window * CHARACTERS_PER_TOKEN
        before = context[-max(limit - len(draft), 1) :]
        text = (before + draft)[-limit:]
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ModelError(f"the boundary predictor {self.name!r} cannot read a text with a lone surrogate")
        request = _Request(text, len(text) - len(draft), asyncio.get_running_loop().create_future())
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
        while taken := self._take():
            try:
                with self._torch.inference_mode():
                    for batch in self._batches(taken):
                        _deliver(self._forward(batch))
            except Exception as error:  # noqa: BLE001  whatever torch raises, it is the callers' to hear
                self._fail(taken, f"failed: {' '.join(str(error).split())[:300]}")
        self._fail(self._waiting, "is closed")

    def _take(self) -> list[_Request]:
        """What is waiting, up to a batch; nothing once it is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            count = 0 if self._closed else min(self._max_batch, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)]

    def _fail(self, requests: Iterable[_Request], what: str) -> None:
        message = f"the boundary predictor {self.name!r} {what}"
        _deliver([(request, ModelError(message)) for request in requests])

    def _batches(self, requests: Sequence[_Request]) -> Iterator[list[_Window]]:
        """Windows of similar length together, so that little is padding, and no batch above the token budget."""
        windows = [self._read(request) for request in requests if not request.future.done()]
        pending = iter(sorted(windows, key=lambda row: len(row.ids), reverse=True))
        while longest := next(pending, None):
            count = max(1, self._max_tokens // max(1, len(longest.ids)))
            yield [longest, *islice(pending, count - 1)]

    def _read(self, request: _Request) -> _Window:
        """The last tokens of a request's text. No BOS is added: the window is a piece out of the middle."""
        encoding = self._tokenizer.encode(request.text, add_special_tokens=False)
        starts = [start for start, _ in encoding.offsets[-self.window :]]
        return _Window(request, encoding.ids[-self.window :], starts)

    def _forward(self, rows: Sequence[_Window]) -> list[_Result]:
        """One forward. Rows are padded on the right, which a causal model does not see from the left."""
        torch, device = self._torch, self._model.device
        width = max(1, *(len(row.ids) for row in rows))
        ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=device)
        mask = torch.tensor(
            [[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device
        )
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        style = logits.float().softmax(-1)[..., self._style].tolist()
        return [
            (row.request, shifted(probabilities, row.starts, row.request.context))
            for row, probabilities in zip(rows, style, strict=True)
        ]


def style_class(name: str, config: Any) -> int:
    """Which of the two classes is style.

    Raises:
        ModelError: there are not two classes, or their names say something else.
    """
    labels = {int(i): str(label) for i, label in config.id2label.items()}
    if len(labels) != 2:
        raise ModelError(
            f"{name!r} has {len(labels)} classes; a boundary predictor has two, style and capability"
        )
    named = {label.lower(): i for i, label in labels.items()}
    if set(named) == {"style", "capability"}:
        return named["style"]
    if labels == {0: "LABEL_0", 1: "LABEL_1"}:
        return 1
    raise ModelError(
        f"{name!r} names its classes {sorted(labels.values())}; expected 'style' and 'capability', "
        "or no names (then class 1 is style)"
    )


def window(name: str, config: Any) -> int:
    """How many tokens the classifier reads: what its config says, at most what its positions allow.

    Raises:
        ModelError: the config's `tessy` table is wrong, or says that the head does not speak of the next token.
    """
    own = getattr(config, "tessy", None) or {}
    if not isinstance(own, dict):
        raise ModelError(f"{name!r}: 'tessy' in its config is a {type(own).__name__}; expected a table")
    shift = own.get("shift", 1)
    if shift != 1:
        raise ModelError(
            f"{name!r} was trained with labels shifted by {shift}; tessy reads heads shifted by 1"
        )
    tokens = own.get("window", WINDOW)
    if not isinstance(tokens, int) or tokens < 2:
        raise ModelError(
            f"{name!r}: 'tessy.window' in its config is {tokens!r}; expected a whole number above 1"
        )
    return min(tokens, getattr(config, "max_position_embeddings", None) or tokens)


def _load(name: str, device: str, dtype: str) -> tuple[Any, Any, Any]:
    """torch, the model and its backend tokenizer."""
    try:
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer
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
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = AutoModelForTokenClassification.from_pretrained(
            name, dtype=getattr(torch, dtype), output_loading_info=True
        )
        model = model.eval().to(device)
    except Exception as error:  # somebody else's files: OSError, ValueError, KeyError, RuntimeError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(
            f"cannot load the boundary predictor {name!r} (a folder or a hub name): {reason}"
        ) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])[0]
        raise ModelError(f"{name!r} is no trained token classifier: it has no weights for {missing!r}")
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"{name!r} has no fast tokenizer (a tokenizer.json), which is needed to place its labels"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return torch, model, backend


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


# --- rules ----------------------------------------------------------------------------------------------------

_ALONE = (
    "okay|ok|alright|all right|right|well|hmm|hm|oh|ah|aha|yeah|yes|wait|hold on|so|now|but|but wait|and so|"
    "anyway|first|next|then|finally|therefore|thus|hence|however|actually|alternatively|again|also|similarly|"
    "in fact|of course|in other words|on the other hand|嗯|好|好的|哦|等等|等一下|那么|所以|不过|首先|接下来|然后|"
    "现在|其实"
)
_ANNOUNCING = (
    "let me|let's|let us|let's see|i need to|i should|i think|i want to|i wonder|i guess|we need to|we should|"
    "maybe|perhaps|it seems|it looks like|that makes sense|sounds good|让我|让我们|我们来|我需要|我想|也许|看来"
)
_MARKERS = dict.fromkeys(_ALONE.split("|"), 0) | dict.fromkeys(_ANNOUNCING.split("|"), 4)
"""Marker, and how many words after it are style with it, up to the end of the clause."""

_CJK = "\u3400-\u9fff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_EDGES = "\"'“”‘’()[]*_.,:;!?…—-，。：；！？、"
_CLOSING = re.compile(r"[.,:;!?…—，。：；！？、]['\"”’)\]*_]*$")
_SUBSTANCE = re.compile(r"[0-9=+<>^\\/{}()$`_]")
_RULE_CONTEXT = 240


class RuleBoundary:
    """A lexicon of discourse markers, for a first look without a model. See `rule_marks`."""

    async def __call__(self, context: str, draft: str) -> list[Mark]:
        """Marks of `draft` after `context`. See `protocols.BoundaryPredictor`."""
        return rule_marks(context, draft)

    async def close(self) -> None:
        """There is nothing to free."""


def rule_marks(context: str, draft: str) -> list[Mark]:
    """One mark for each word of `draft`: 1.0 for style, 0.0 for capability.

    A clause (up to a comma, full stop, colon or line break) that starts with a discourse marker is style: the marker
    alone ("So", "Wait"), or a few more words after one that announces ("Let me", "I think"), until something
    that looks like substance (a digit, an operator, code). Everything else is capability.
    """
    text = context[-_RULE_CONTEXT:] + draft
    edge = len(text) - len(draft)
    words = list(_TOKEN.finditer(text))
    plain = [word[0].lower().replace("’", "'").strip(_EDGES) for word in words]
    opening = len(context) <= _RULE_CONTEXT  # otherwise the first words are in the middle of a clause
    style = 0
    marks: list[Mark] = []
    for n, word in enumerate(words):
        if opening and (length := _marker(plain[n : n + 4])):
            style = length + _MARKERS[_joined(plain[n : n + length])]
        if _SUBSTANCE.search(word[0]):
            style = 0
        if word.start() >= edge:
            marks.append(Mark(word.start() - edge, float(style > 0)))
        if _closes(word[0], text[word.end() : word.end() + 2]):
            opening, style = True, 0
        else:
            opening = opening and (style == 1 or not plain[n])
            style = max(0, style - 1)
    return marks


def _marker(words: Sequence[str]) -> int:
    """How many of `words` are a marker; 0 if they do not start with one."""
    return next((n for n in range(len(words), 0, -1) if _joined(words[:n]) in _MARKERS), 0)


def _joined(words: Sequence[str]) -> str:
    return "".join(words) if re.match(f"[{_CJK}]", words[0]) else " ".join(words)


def _closes(word: str, after: str) -> bool:
    return bool(_CLOSING.search(word)) or "\n" in after


def load_predictor(name: str, *, device: str = "auto", dtype: str = "auto") -> TokenClassifier | RuleBoundary:
    """The boundary predictor that a config names: `rules`, or the hub name or folder of a classifier.

    Raises:
        ModelError: see `TokenClassifier`.
    """
    return RuleBoundary() if name == "rules" else TokenClassifier(name, device=device, dtype=dtype)
