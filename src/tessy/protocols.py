"""With whom the core speaks: three small seams, and the records that cross them.

`Completer` and `BoundaryPredictor` are handed to `cooperate`, which never sees a URL, a retry or a file.
`Tokenizer` is what the core needs of a vocabulary. Adapters and tests implement these; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tessy.questions import Message


class Prompt(Protocol):
    """A token-id prompt that only ever grows at its end."""

    def __len__(self) -> int:
        """How many token ids."""
        ...

    @property
    def ids(self) -> Sequence[int]:
        """All token ids, first to last, at a cost proportional to their number."""
        ...

    def tail(self, count: int) -> Sequence[int]:
        """The last `count` ids, or all if there are fewer, at a cost proportional to what is asked for."""
        ...

    def json(self) -> Sequence[bytes]:
        """The ids as a JSON array, in pieces, at a cost proportional to what was added since the last call."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote. `ids` is None where a server does not tell them; `text` is then all there is.

    Where there are ids, `text` may be empty: part of a stream does not say which text is which token's.
    `finished` says that the model ended its turn itself (an end-of-sequence token, whether or not it is among
    `ids`), not the limit.
    """

    ids: tuple[int, ...] | None
    text: str
    finished: bool


class Completer(Protocol):
    """One model, for one trajectory: which server, which seed and which retries is its own affair."""

    async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
        """Continue `prompt` by at most `max_tokens` tokens.

        Args:
            prompt: what the model sees.
            max_tokens: how many tokens are wanted now.
            most: how many the turn may still have (None: no more than these). Where it is more, the model may
                already go on while the caller reads what came, for a next call with the same prompt grown by
                just that.

        Raises:
            CompletionError: the completion could not be had.
        """
        ...

    def let_go(self) -> None:
        """The turn is over, or nobody waits any more: stop what still goes on. Returns at once; may be repeated."""
        ...


class Mark(NamedTuple):
    """A token of the boundary predictor in a draft: its first character, and how sure it is that it is style."""

    start: int
    style: float


class BoundaryPredictor(Protocol):
    """Tells, for each of its own tokens in a draft, which kind of token it is."""

    async def __call__(self, context: str, draft: str) -> Sequence[Mark]:
        """Labels for `draft`, which follows `context` (the end of the thinking so far) directly.

        Marks are in order, one for each predictor token that *starts* inside the draft: `start` is the offset of
        its first character in `draft`, `style` the probability (0 to 1) that it is a style token. Fewer
        marks than tokens are allowed: an unlabelled token has the kind of the mark before it.

        Raises:
            ModelError: the predictor failed.
            CompletionError: the server that it runs behind could not be asked.
        """
        ...


class Tokenizer(Protocol):
    """What the core needs of a vocabulary."""

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of the special tokens (`<|im_end|>`, `<|return|>` …): none of them belongs in thinking or answer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no BOS, and `<|end|>` written in it is ordinary text."""
        ...

    def encode_markup(self, text: str) -> list[int]:
        """Ids of trusted text, in which control tokens are control tokens."""
        ...

    def render(self, messages: Sequence[Message], **template: object) -> list[int]:
        """The tokenizer's own chat template around `messages`, up to where the assistant begins."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included as they are spelled."""
        ...

    def offsets(self, before: Sequence[int], ids: Sequence[int]) -> tuple[str, list[int]]:
        """The text that `ids` add after `before`, and for each id the length of that text up to and with it.

        Control tokens are included as they are spelled. A character that is not complete yet adds nothing: its
        ids repeat the length so far, and the text stops before it. Linear in len(ids).
        """
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy. Defaults are the public TESSY code's."""

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    """0: no limit."""
    min_p: float = 0.0


@dataclass(slots=True)
class EngineStats:
    """What an engine has done so far; the live display and the summary read it."""

    requests: int = 0
    """Requests that brought something back: a completion, or a stream of which several were read."""
    retries: int = 0
    """Requests that were sent again."""
    generated: int = 0
    """Tokens that came back, those of a stream that nobody asked for any more included."""
    in_flight: int = 0
    """Requests at the model now."""
    limit: int = 0
    """Requests that may be in flight now (an engine lowers it for a server in trouble)."""


class Engine(Protocol):
    """A model that can be asked, wherever it runs: makes one `Completer` for each trajectory."""

    stats: EngineStats

    def completer(self, key: str, *, seed: int | None, deadline: float | None) -> Completer:
        """The completer of the trajectory `key`.

        `seed` makes its draws repeatable where the model can (None: no seed); `deadline` is a time of
        `time.monotonic()` after which it raises `DeadlineError` (None: none).
        """
        ...

    async def close(self) -> None:
        """Free what the engine holds. Completers must not be used afterwards."""
        ...
