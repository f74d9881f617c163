"""The forward of a token classifier in this process: windows of tokens in, probabilities of style out.

Windows of one trajectory begin alike for some drafts; what was computed of such a beginning is kept (`memory`) and
found again by its tokens, so that nobody has to say whose window it is. A classifier that cannot read on from there (an
encoder, a model with sliding windows) reads each window anew. Refuses to know texts, marks and who waits.

Importing this module imports torch and transformers; `classifier` does so when one is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tessy.errors import ModelError

try:
    import torch

    from tessy.adapters.memory import Part, Places, Strand, common
except ImportError as error:
    raise ModelError(
        "a boundary predictor in this process needs torch: pip install 'tessy[local]'"
    ) from error

HEAD = 8
"""Tokens by which windows that may begin alike are looked up."""

Windows = Sequence[Sequence[int]]


class Reads(Protocol):
    """`Memory`, or what does the same."""

    @property
    def places(self) -> Places:
        """Where it puts what it reads."""

    def read_all(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """See `Memory.read_all`."""


class _Seen(Strand):
    """A window that was read, with the probability of style after each of its tokens."""

    __slots__ = ("style",)

    def __init__(self) -> None:
        super().__init__()
        self.style: list[float] = []


class _Index:
    """What was read, by how it begins."""

    def __init__(self) -> None:
        self._alike: dict[tuple[int, ...], list[_Seen]] = {}
        self._count = 0
        """What was put since all was looked through, and what there was then."""

    def take(self, window: Sequence[int]) -> _Seen:
        """What is known of a window, taken out of the index.

        Nothing, where more would have to be forgotten than is kept: that is another trajectory's, which begins alike.
        """
        key = tuple(window[:HEAD])
        alike = [seen for seen in self._alike.get(key, ()) if seen.place >= 0]
        if alike:
            most, n = max((common(seen.ids, window), n) for n, seen in enumerate(alike))
            if 2 * most >= len(alike[n].ids):
                found = alike.pop(n)
                self._alike[key] = alike
                return found
        return _Seen()

    def put(self, seen: Iterable[_Seen], most: int) -> None:
        """Put back what was read; of what was forgotten nothing is held once it is as much again as `most`."""
        for each in seen:
            self._alike.setdefault(tuple(each.ids[:HEAD]), []).append(each)
            self._count += 1
        if self._count > 2 * most:
            held = {key: [each for each in alike if each.place >= 0] for key, alike in self._alike.items()}
            self._alike = {key: alike for key, alike in held.items() if alike}
            self._count = sum(map(len, self._alike.values()))


class Remembering:
    """Reads what is new in each window, after what it has read of it before."""

    def __init__(self, memory: Reads, style: int, *, window: int, max_tokens: int) -> None:
        """Read with `memory`, which has room for one window or more.

        Args:
            memory: of a token classifier.
            style: the number of its class of style.
            window: tokens of the longest window.
            max_tokens: most tokens of one forward, but one window is always read.
        """
        self._memory = memory
        self._style = style
        self._window = window
        self._max_tokens = max_tokens
        self._max_rows = max(1, memory.places.limit // window)
        self._index = _Index()

    def __call__(self, windows: Windows) -> list[list[float]]:
        """For each window, none of them empty, the probability after each of its tokens that the next one is style."""
        shares: list[list[float]] = []
        turn: list[tuple[_Seen, Sequence[int]]] = []
        left = self._max_tokens
        for window in windows:
            seen = self._index.take(window)
            new = len(window) - seen.recall(window)
            if turn and (new > left or len(turn) == self._max_rows):
                shares += self._read(turn)
                turn, left = [], self._max_tokens
            turn.append((seen, window))
            left -= new
        return shares + self._read(turn) if turn else shares

    def clear(self) -> None:
        """Forget all that was read."""
        self._memory.places.clear()
        self._index = _Index()

    def _read(self, turn: Sequence[tuple[_Seen, Sequence[int]]]) -> list[list[float]]:
        self._memory.places.reserve([seen for seen, _ in turn], self._window)
        parts = [Part(seen, window[len(seen.ids) :]) for seen, window in turn]
        known = [len(seen.ids) for seen, _ in turn]
        logits = torch.cat(self._memory.read_all(parts))
        style: list[float] = logits.float().softmax(-1)[:, self._style].tolist()
        first = 0
        for (seen, _), before, part in zip(turn, known, parts, strict=True):
            seen.style[before:] = style[first : first + len(part.new)]
            first += len(part.new)
        self._index.put((seen for seen, _ in turn), self._memory.places.rows)
        return [list(seen.style) for seen, _ in turn]


def anew(model: Any, style: int, windows: Windows, max_tokens: int) -> list[list[float]]:
    """What `Remembering` gives, from a forward over each whole window, of similar length together.

    Padding is on the right, where a causal model does not see it; `max_tokens` of one forward include it.
    """
    order = sorted(range(len(windows)), key=lambda n: len(windows[n]), reverse=True)
    shares: list[list[float]] = [[] for _ in windows]
    while order:
        width = len(windows[order[0]])
        count = max(1, max_tokens // width)
        group, order = order[:count], order[count:]
        ids = [[*windows[n], *[0] * (width - len(windows[n]))] for n in group]
        mask = [[1] * len(windows[n]) + [0] * (width - len(windows[n])) for n in group]
        output = model(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            use_cache=False,
        )
        for n, row in zip(group, output.logits.float().softmax(-1)[..., style].tolist(), strict=True):
            shares[n] = row[: len(windows[n])]
    return shares
