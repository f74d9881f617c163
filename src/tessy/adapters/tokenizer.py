"""A published tokenizer (a hub name or a local folder) as `protocols.Tokenizer`.

Owns the line between text and control tokens: text that comes from models, questions and servers can never
become a control token, whether or not the vocabulary calls it "special" (Qwen3's `</think>` is not). Also owns the
incremental decoding of ids, byte by byte. Never runs code from the hub.
Refuses to know reasoning formats, models and servers.

`transformers` is imported on the first load, and only the part of it that does not import torch: a run between
two servers holds two vocabularies in memory and no framework.
"""

from __future__ import annotations

import codecs
import json
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

from tessy.errors import ModelError
from tessy.questions import Message

PADDING_IDS = 1024
"""Models pad their embedding matrix beyond the vocabulary (Qwen3: 267 rows, DeepSeek: 465). Such an id has no text."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PRIVATE_USE = range(0xE000, 0xF900)


class HFTokenizer:
    """One vocabulary and its chat template. Safe to use from several threads.

    Attributes:
        name: the hub name or folder it was loaded from.
        control_ids: ids of all control tokens: every added token, special or not, that is not mere white space
            (Gemma adds runs of line breaks, which are ordinary text).
    """

    def __init__(self, name: str) -> None:
        """Load `name` from the hub (HF_TOKEN is honoured) or from a local folder.

        Raises:
            ModelError: transformers is missing, there is no such tokenizer, or it is not a fast one.
        """
        self.name = name
        self._hf = _load(name)
        self._backend = self._hf.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._control = _make_special(self._backend, self._hf.unk_token)
        self.control_ids = frozenset(self._control.values())
        self._byte_of = _byte_alphabet(self._backend.decoder)
        self._bytes: dict[int, bytes] = {}
        self._whole: dict[int, str] = {}
        """Texts of ids that are whole characters, and no byte of an open one: whatever comes before them stands."""
        self._size: int = max(self._backend.get_vocab_size(), 1 + max(self.control_ids, default=0))
        self._encoding = threading.Lock()  # `encode_special_tokens` is a switch on the shared backend

    @property
    def size(self) -> int:
        """One more than the largest id that has a text."""
        return self._size

    @property
    def end_of_turn(self) -> int:
        """The id that ends a turn of the assistant: the vocabulary's end of sequence.

        Raises:
            ModelError: it names none.
        """
        end: int | None = self._hf.eos_token_id
        if end is None:
            raise ModelError(f"the tokenizer {self.name!r} names no token that ends a turn (eos_token)")
        return end

    def id_of(self, text: str) -> int | None:
        """The id of the control token spelled `text`; None where this vocabulary has no such control token."""
        return self._control.get(text)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no BOS, no control token even where `text` spells one.

        Raises:
            ModelError: the text is not valid Unicode.
        """
        ids: list[int] = self._encode(text, plain=True).ids
        if self.control_ids.isdisjoint(ids):
            return ids
        # A word-level or unigram model can find a control token's spelling in its own vocabulary.
        return [i for char in text for i in self._encode(char, plain=True).ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """What `encode` gives for each of `texts`, on all cores.

        Raises:
            ModelError: a text is not valid Unicode.
        """
        with self._encoding:
            self._backend.encode_special_tokens = True
            try:
                encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            except (TypeError, UnicodeError) as error:
                raise ModelError(f"{self.name!r} cannot encode a text with a lone surrogate in it") from error
        found = (encoding.ids for encoding in encodings)
        return [
            ids if self.control_ids.isdisjoint(ids) else self.encode(text)
            for ids, text in zip(found, texts, strict=True)
        ]

    def encode_markup(self, text: str) -> list[int]:
        """Ids of trusted text, in which control tokens are control tokens; no BOS is added.

        Raises:
            ModelError: the text is not valid Unicode.
        """
        ids: list[int] = self._encode(text, plain=False).ids
        return ids

    def render(self, messages: Sequence[Message], **template: object) -> list[int]:
        """The tokenizer's own chat template around `messages`, up to where the assistant begins.

        Equal to `apply_chat_template(messages, add_generation_prompt=True, **template)`, except that a control
        token spelled in a role or in a content is plain text there.

        Raises:
            ModelError: there is no chat template, or it fails on these messages.
        """
        hidden = _Hidden(str(self._hf.chat_template) + "".join(m.role + m.content for m in messages))
        chat = [
            {"role": self._hide(m.role, hidden), "content": self._hide(m.content, hidden)} for m in messages
        ]
        ids = self._render(chat, hidden, template)
        # Templates drop the thinking of earlier answers, which they find by its markers: let them see those, as
        # long as no control token comes through.
        bare = [
            {**turn, "content": m.content} if m.role == "assistant" else turn
            for turn, m in zip(chat, messages, strict=True)
        ]
        if bare != chat:
            seen = self._render(bare, hidden, template)
            if self._controls(seen) == self._controls(ids):
                return seen
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens as they are spelled, incomplete characters as U+FFFD.

        Raises:
            ModelError: an id is far outside the vocabulary.
        """
        self._check(ids)
        text: str = self._backend.decode(list(ids), skip_special_tokens=False)
        return text

    def offsets(self, before: Sequence[int], ids: Sequence[int]) -> tuple[str, list[int]]:
        """The text that `ids` add after `before`, and for each id the length of that text up to and with it.

        Linear in len(ids); of `before` only the end is read. See `protocols.Tokenizer.offsets`.

        Raises:
            ModelError: an id is far outside the vocabulary.
        """
        if before:
            known = self._whole
            # Nothing of a character is open, before or within: as nearly always, and for each token of a run.
            texts = [known.get(i) for i in (before[-1], *ids)]
            if None not in texts:
                del texts[0]
                return "".join(texts), list(accumulate(map(len, texts)))  # type: ignore[arg-type]
        self._check(ids)
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for i in before[-8:]:  # a character has at most 4 bytes: enough to know which of them are open
            utf8.decode(self._bytes_of(i))
        parts: list[str] = []
        lengths: list[int] = []
        total = 0
        for position, i in enumerate(ids):
            part = utf8.decode(self._bytes_of(i) if before or position else self._opening_bytes(i))
            parts.append(part)
            total += len(part)
            lengths.append(total)
        return "".join(parts), lengths

    def _encode(self, text: str, *, plain: bool) -> Any:
        with self._encoding:
            self._backend.encode_special_tokens = plain
            try:
                return self._backend.encode(text, add_special_tokens=False)
            except (TypeError, UnicodeError) as error:
                raise ModelError(f"{self.name!r} cannot encode a text with a lone surrogate in it") from error

    def _hide(self, text: str, hidden: _Hidden) -> str:
        """`text` with a stand-in for whatever the backend would take for a control token."""
        encoding = self._encode(text, plain=False)
        parts: list[str] = []
        done = 0
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if i in self.control_ids:
                parts += [text[done:start], hidden.stand_in(text[start:end])]
                done = end
        return "".join(parts) + text[done:]

    def _render(
        self, chat: Sequence[Mapping[str, str]], hidden: _Hidden, template: Mapping[str, object]
    ) -> list[int]:
        """Ids of a rendered chat: the control tokens that the template wrote, and plain text between them."""
        try:
            rendered = self._hf.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, **template
            )
        except Exception as error:  # a template is somebody else's program: anything can come
            roles = ", ".join(turn["role"] for turn in chat)
            raise ModelError(
                f"the chat template of {self.name!r} fails on roles [{roles}]: {_line(error)}"
            ) from error
        encoding = self._encode(rendered, plain=False)
        if not hidden:
            return list(encoding.ids)
        ids: list[int] = []
        done = 0
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if i in self.control_ids:
                ids += [*self.encode(hidden.restored(rendered[done:start])), i]
                done = end
        return ids + self.encode(hidden.restored(rendered[done:]))

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in self.control_ids]

    def _check(self, ids: Sequence[int]) -> None:
        if ids and (min(ids) < 0 or max(ids) >= self._size + PADDING_IDS):
            wrong = max(ids) if min(ids) >= 0 else min(ids)
            raise ModelError(
                f"token id {wrong} is not in the vocabulary of {self.name!r} (0 to {self._size - 1}): "
                "is this the tokenizer of that model?"
            )

    def _bytes_of(self, i: int) -> bytes:
        """What id `i` adds in the middle of a text, in UTF-8; b"" for a padding id."""
        known = self._bytes.get(i)
        if known is None:
            known = self._bytes[i] = self._find_bytes(i)
            with suppress(UnicodeDecodeError):
                if known:
                    self._whole[i] = known.decode()
        return known

    def _opening_bytes(self, i: int) -> bytes:
        """What id `i` adds at the very start of a text, where SentencePiece decoders drop a space."""
        alone = self.decode([i])
        return self._bytes_of(i) if self._byte_of or "\ufffd" in alone else alone.encode()

    def _find_bytes(self, i: int) -> bytes:
        token = self._backend.id_to_token(i)
        if token is None:
            return b""
        if self._byte_of:
            known = [self._byte_of.get(char) for char in token]
            return token.encode() if None in known else bytes(byte for byte in known if byte is not None)
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(byte[1])
        # Twice the same token: what the second one adds, whatever the decoder does to the first word of a text.
        once = self._backend.decode([i], skip_special_tokens=False)
        twice = self._backend.decode([i, i], skip_special_tokens=False)
        return str(twice)[len(once) :].encode()


class _Hidden:
    """Spellings of control tokens in untrusted text, each hidden behind a character that occurs nowhere else."""

    def __init__(self, used: str) -> None:
        self._free = (char for char in map(chr, _PRIVATE_USE) if char not in used)
        self._stand_ins: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._stand_ins)

    def stand_in(self, spelling: str) -> str:
        if spelling not in self._stand_ins:
            char = next(self._free, None)
            if char is None:
                raise ModelError("a question spells control tokens and uses all private-use characters")
            self._stand_ins[spelling] = char
        return self._stand_ins[spelling]

    def restored(self, text: str) -> str:
        return text.translate({ord(char): spelling for spelling, char in self._stand_ins.items()})


def _load(name: str) -> Any:
    """The transformers object behind `name`, whose backend is a `tokenizers.Tokenizer`."""
    try:
        from transformers import PreTrainedTokenizerFast
        from transformers.utils import cached_file
    except ImportError as error:
        raise ModelError(f"the tokenizer {name!r} needs transformers: pip install 'tessy[hf]'") from error
    try:
        if cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False) is not None:
            # Read as it was published. AutoTokenizer would import torch, and rebuilds the tokenizer from the
            # class that a config names, which is the wrong one for DeepSeek (a byte-level "LlamaTokenizerFast").
            return PreTrainedTokenizerFast.from_pretrained(name)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # somebody else's files: OSError, ValueError, KeyError, Rust's bare Exception
        raise ModelError(
            f"cannot load the tokenizer {name!r} (a folder or a hub name; private ones need HF_TOKEN): {_line(error)}"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(f"the tokenizer {name!r} has no fast form (a tokenizer.json), which tessy needs")
    return tokenizer


def _make_special(backend: Any, unknown: str | None) -> dict[str, int]:
    """Make every control token special in `backend`, so that one switch decides whether text can spell them.

    Returns:
        Spelling and id of each. The unknown token is none: plain text may well become it.
    """
    from tokenizers import AddedToken

    found = {
        i: token
        for i, token in backend.get_added_tokens_decoder().items()
        if token.content.strip() and token.content != unknown
    }
    backend.add_special_tokens(
        [
            AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=True,
            )
            for token in found.values()
            if not token.special
        ]
    )
    return {token.content: i for i, token in found.items()}


def _byte_alphabet(decoder: Any) -> dict[str, int]:
    """The byte each character stands for in a byte-level vocabulary (GPT-2's table); {} for any other vocabulary."""
    if decoder is None or '"ByteLevel"' not in json.dumps(json.loads(decoder.__getstate__())):
        return {}
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _line(error: Exception) -> str:
    """The first line of a foreign error."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
