"""How a published boundary predictor is read: which class is style, its window, and its own vocabulary.

Owns what a classifier's config may say, and the one way from context + draft to the tokens that it reads and back to
marks; so a classifier in this process and the same one behind a server read the same window. Refuses to know
where the forward runs. Imports nothing of torch: a run between servers does without it.

`transformers` is imported when a vocabulary or a config is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessy.adapters.predictors.growing import Growing
from tessy.core.cut import shifted
from tessy.core.dialogue import STRIDE
from tessy.errors import ModelError
from tessy.protocols import Mark

WINDOW = 200
"""The most tokens that a classifier reads unless its config says otherwise (paper §2.2)."""

CHARACTERS_PER_TOKEN = 8
"""Tokens of prose and code have 3 to 5 characters: 8 fill the window nearly always, and what is tokenized for a draft
does not grow with the trajectory."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The end of context + draft, not tokenized yet."""

    text: str
    draft: int
    """Where the draft begins in `text`; negative where even the draft did not fit."""


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens that a classifier reads for one draft."""

    ids: list[int]
    starts: list[int]
    """For each token, the offset of its first character in the excerpt."""
    draft: int
    """Where the draft begins in the excerpt."""

    def marks(self, style: Sequence[float]) -> list[Mark]:
        """The draft's marks, from the head's probability of style at each token of the window."""
        return shifted(style, self.starts, self.draft)


@dataclass(frozen=True, slots=True)
class Reading:
    """How one classifier reads text: in its own vocabulary, its window in tokens, and its class of style."""

    name: str
    tokens_of: Growing
    window: int
    style: int

    @property
    def step(self) -> int:
        """Tokens by which the beginning of the window moves on, so that it does not with every draft."""
        return max(1, self.window // 3)

    def excerpt(self, context: str, draft: str) -> Excerpt:
        """What is looked at of `context` and `draft`, at a cost that does not grow with the context.

        It begins a multiple of `STRIDE` characters after the context does.

        Raises:
            ModelError: the text is not valid Unicode.
        """
        beyond = len(context) + len(draft) - self.window * CHARACTERS_PER_TOKEN
        skip = max(0, beyond) // STRIDE * STRIDE
        text = context[skip:] + draft[max(0, skip - len(context)) :]
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ModelError(f"the boundary predictor {self.name!r} cannot read a text with a lone surrogate")
        return Excerpt(text, len(text) - len(draft))

    def tokens(self, excerpt: Excerpt) -> Window:
        """The last tokens of an excerpt: all that the window holds, less than `step` left out.

        It begins a multiple of `step` tokens after the excerpt does: while the text grows by a few drafts, its window
        begins where it began, and what was computed of it holds. No BOS is added: it is a piece out of the middle.
        """
        ids, starts = self.tokens_of(excerpt.text)
        beyond = max(0, len(ids) - self.window)
        skip = -(-beyond // self.step) * self.step
        return Window(ids[skip:], starts[skip:], excerpt.draft)


def reading(name: str) -> Reading:
    """How the classifier `name`, a hub name or a folder, reads text. Its weights are not looked at.

    Raises:
        ModelError: transformers is missing, or its config or tokenizer cannot be loaded or interpreted.
    """
    config = load_config(name)
    return Reading(name, Growing(load_tokenizer(name)), window(name, config), style_class(name, config))


def style_class(name: str, config: Mapping[str, Any]) -> int:
    """Which of the two classes is style, by a classifier's config.json.

    Raises:
        ModelError: there are not two classes, or their names say something else.
    """
    labels = _labels(name, config)
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


def _labels(name: str, config: Mapping[str, Any]) -> dict[int, str]:
    """Names of the classes; without any, transformers' own for two."""
    given = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    try:
        return {int(i): str(label) for i, label in given.items()}
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"{name!r}: 'id2label' in its config is no table of class numbers and names"
        ) from error


def window(name: str, config: Mapping[str, Any]) -> int:
    """How many tokens the classifier reads: what its config.json says, at most what its positions allow.

    Raises:
        ModelError: the config's `tessy` table is wrong, or says that the head does not speak of the next token.
    """
    own = config.get("tessy") or {}
    if not isinstance(own, dict):
        raise ModelError(f"{name!r}: 'tessy' in its config is a {type(own).__name__}; expected a table")
    shift = own.get("shift", 1)
    if shift != 1:
        raise ModelError(
            f"{name!r} was trained with labels shifted by {shift}; tessy reads heads shifted by 1"
        )
    tokens = own.get("window", WINDOW)
    if type(tokens) is not int or tokens < 2:
        raise ModelError(
            f"{name!r}: 'tessy.window' in its config is {tokens!r}; expected a whole number above 1"
        )
    positions = config.get("max_position_embeddings")
    return min(tokens, positions) if isinstance(positions, int) and positions > 1 else tokens


def load_config(name: str) -> Mapping[str, Any]:
    """The config.json of a classifier, as it was published. AutoConfig would import torch.

    Raises:
        ModelError: transformers is missing, or there is no such config.
    """
    try:
        from transformers.utils import cached_file
    except ImportError as error:
        raise _no_transformers(name) from error
    try:
        config = json.loads(Path(cached_file(name, "config.json")).read_bytes())
    except Exception as error:  # whatever the hub's client raises; OSError, ValueError of the file
        raise cannot_load(name, error) from error
    if not isinstance(config, dict):
        raise ModelError(f"{name!r}: its config.json holds a {type(config).__name__}; expected a table")
    return config


def load_tokenizer(name: str) -> Any:
    """The `tokenizers.Tokenizer` of a classifier, as it was published.

    Raises:
        ModelError: transformers is missing, or there is no such tokenizer in a fast form.
    """
    try:
        from transformers import PreTrainedTokenizerFast
        from transformers.utils import cached_file
    except ImportError as error:
        raise _no_transformers(name) from error
    try:
        if cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False) is not None:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(name)
        else:  # rebuilt from the files that there are; this imports torch where it is installed
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # somebody else's files: OSError, ValueError, KeyError, Rust's bare Exception
        raise cannot_load(name, error) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"{name!r} has no fast tokenizer (a tokenizer.json), which is needed to place its labels"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def cannot_load(name: str, error: Exception) -> ModelError:
    """What a foreign error at loading means, in one line."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return ModelError(f"cannot load the boundary predictor {name!r} (a folder or a hub name): {reason}")


def _no_transformers(name: str) -> ModelError:
    return ModelError(f"the boundary predictor {name!r} needs transformers: pip install 'tessy[hf]'")
