"""The words of the completions API: addresses, request bodies, replies and the errors in them. Does no I/O.

A reply is untrusted: its shape and types are checked, its messages are shortened and stripped before anyone prints
them. What a server can do is a `Dialect`; `LADDER` lists them from the richest to the plainest.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import orjson

from tessy.errors import ConfigError
from tessy.protocols import Completion, Sampling

T = TypeVar("T")

MAX_ID = 2**31
_NAME = "token_id:"
_A: dict[type, str] = {str: "a string", list: "a list"}
ECHO = b'"prompt_token_ids":['
BOS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[BOS]")
"""How model families spell the beginning of a text."""


class Trouble(Exception):  # noqa: N818 - why one attempt failed; the engine turns it into a CompletionError
    """One attempt failed. `kind` is a short stable word; `refused`: asking again is useless."""

    def __init__(
        self, kind: str, detail: str, *, refused: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.refused = refused
        self.retry_after = retry_after
        self.where = ""
        """The server, where it is not the one that was asked."""

    def blot(self, secret: str | None) -> None:
        """Make `secret` unreadable in it."""
        if secret:
            self.detail = self.detail.replace(secret, "***")
            self.args = (self.detail,)


def api_root(base_url: str) -> str:
    """The address up to and with `/v1`, from one that ends in `/v1`, in `/v1/…completions` or in neither.

    Raises:
        ConfigError: it is no plain http(s) address. What it holds is not repeated: it may hold a password.
    """
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname or "", parts.port
        plain = bool(host.encode("idna")) and not any(map(str.isspace, host))
    except ValueError:
        plain = False
    if not plain or parts.scheme not in ("http", "https"):
        raise ConfigError(
            "base_url must be http://HOST:PORT/v1 or https://HOST/v1, optionally with a path before /v1"
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "base_url must hold no user name or password; give an API key by environment variable"
        )
    if parts.query or parts.fragment:
        raise ConfigError("base_url must hold no query (?…) and no fragment (#…)")
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/v1/chat").rstrip("/")
    if path.rpartition("/")[2] != "v1":
        path += "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


class IdsOut(StrEnum):
    """How a server tells the ids of the tokens it wrote."""

    LOGPROBS = "logprobs"
    """As names of tokens in `logprobs` (vLLM's `return_tokens_as_token_ids`)."""
    TOKEN_IDS = "token_ids"  # noqa: S105 - no password
    """As `token_ids`, with the whole prompt's ids beside them (vLLM's and SGLang's `return_token_ids`)."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server understands."""

    ids_in: bool = True
    """It takes token ids as a prompt; else it is sent their text."""
    ids_out: IdsOut = IdsOut.LOGPROBS
    extensions: bool = True
    """It takes vLLM's and SGLang's own fields. Without them top_k and min_p cannot be heeded."""
    adds_bos: bool = False
    """It puts a BOS before a text prompt, so that one at the beginning of the text must go."""


LADDER = tuple(
    Dialect(ids_in, ids_out, extensions)
    for ids_in in (True, False)
    for ids_out, extensions in (
        (IdsOut.LOGPROBS, True),
        (IdsOut.TOKEN_IDS, True),
        (IdsOut.NONE, True),
        (IdsOut.NONE, False),
    )
)


STREAMED_IDS = (IdsOut.TOKEN_IDS, IdsOut.LOGPROBS, IdsOut.NONE)
"""Ways in which a stream may tell ids, the best first; with the last one nothing is streamed.

Other than in `LADDER`: in a stream the prompt's ids come once a turn, log probabilities with every token.
"""


def request_head(model: str, sampling: Sampling, dialect: Dialect, *, stream: bool = False) -> bytes:
    """The constant part of a request body, up to where the prompt's JSON follows.

    Neutral values are said too: what is left out, vLLM and SGLang take from the model's generation_config.json.
    """
    fields: dict[str, Any] = {"model": model, "temperature": sampling.temperature, "top_p": sampling.top_p}
    if dialect.extensions:
        fields |= {"top_k": sampling.top_k or -1, "min_p": sampling.min_p, "repetition_penalty": 1.0}
        # Servers drop special tokens from the text unless told not to, and with them ends of thinking.
        fields["skip_special_tokens"] = False
        if not dialect.ids_in:
            fields["add_special_tokens"] = False
    if dialect.ids_out is IdsOut.LOGPROBS:
        fields |= {"logprobs": 0, "return_tokens_as_token_ids": True}
    elif dialect.ids_out is IdsOut.TOKEN_IDS:
        fields["return_token_ids"] = True
    if stream:
        fields["stream"] = True
    return orjson.dumps(fields)[:-1] + b',"prompt":'


def request_body(
    head: bytes, prompt: Iterable[bytes], max_tokens: int, seed: int | None
) -> tuple[bytes, ...]:
    """A request body in pieces; `prompt`, which is JSON in pieces and may be long, is not copied."""
    end = (
        b',"max_tokens":%d}' % max_tokens
        if seed is None
        else b',"max_tokens":%d,"seed":%d}' % (max_tokens, seed)
    )
    return head, *prompt, end


class Reply(NamedTuple):
    """A completion, and how many tokens were generated for it, as far as the server tells (else 0)."""

    completion: Completion
    generated: int


class TokenCount(NamedTuple):
    """How a server tokenizes a prompt: its ids where it tells them, their number where it tells that."""

    ids: tuple[int, ...] | None
    total: int | None


class ServedModel(NamedTuple):
    """A model that a server offers, and the length of its context in tokens where the server tells it."""

    name: str
    max_model_len: int | None


def read_reply(body: bytes, max_tokens: int, ids_out: IdsOut) -> Reply:
    """The reply to a completion request.

    Raises:
        Trouble: `not_json`, `wrong_shape`, or `aborted` (a finish_reason other than stop and length).
    """
    data = parse(without_echo(body))
    choice = only_choice(data)
    text = field_of(choice, "text", str)
    finished = is_finished(choice)
    ids = None if ids_out is IdsOut.NONE else read_ids(choice, ids_out)
    if ids is not None and (len(ids) > max_tokens or (text and not ids)):
        found = f"{len(ids)} token ids for {len(text)} characters"
        raise Trouble("wrong_shape", f"{found}, where at most {max_tokens} tokens were asked for")
    generated = count_of(data, "completion_tokens") if ids is None else len(ids)
    return Reply(Completion(ids, text, finished), generated or 0)


def read_token_count(body: bytes) -> TokenCount:
    """How the server tokenized the prompt of the request that `body` answers.

    Raises:
        Trouble: `not_json` or `wrong_shape`.
    """
    data = parse(body)
    ids = only_choice(data).get("prompt_token_ids")
    return TokenCount(
        None if ids is None else _checked(field_of(only_choice(data), "prompt_token_ids", list)),
        count_of(data, "prompt_tokens"),
    )


def read_models(body: bytes) -> list[ServedModel]:
    """The reply to `/v1/models`.

    Raises:
        Trouble: `not_json` or `wrong_shape`.
    """
    models = []
    for card in field_of(parse(body), "data", list):
        if not isinstance(card, dict):
            raise _wrong("objects in `data`", card)
        length = card.get("max_model_len")
        models.append(ServedModel(field_of(card, "id", str), length if type(length) is int else None))
    return models


def error_message(body: bytes, secret: str | None) -> str:
    """What a server says in an error, wherever it says it: one short line, with `secret` blotted out."""
    said: Any = body.decode("utf-8", "replace")
    with suppress(orjson.JSONDecodeError):
        said = orjson.loads(body)
        for name in ("error", "message", "detail"):
            if isinstance(said, dict):
                said = said.get(name, said)
    text = said if isinstance(said, str) else orjson.dumps(said).decode()
    return one_line(text.replace(secret, "***") if secret else text)


def one_line(text: str, most: int = 300) -> str:
    """`text` on one line of at most `most` characters, without anything that a terminal would obey."""
    text = " ".join(text[: 8 * most].split())
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= most else text[: most - 1] + "…"


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date); None without a sensible one."""
    if not value:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())


def backoff(attempt: int, base: float, cap: float, asked: float | None, jitter: float) -> float:
    """Seconds to wait before attempt `attempt` + 1: doubling from `base`, up to `cap`, of which half is jitter.

    What the server `asked` for (Retry-After) is the least, `cap` the most. `jitter` is drawn from 0 to 1.
    """
    own = min(cap, base * 2.0 ** min(attempt - 1, 30))
    return max(own * (0.5 + 0.5 * jitter), min(cap, (asked or 0.0) + base * jitter if asked else 0.0))


def without_bos(text: str) -> str:
    """`text` without a BOS at its beginning, for a server that puts its own there."""
    bos = next((bos for bos in BOS if text.startswith(bos)), "")
    return text[len(bos) :]


def without_echo(body: bytes) -> bytes:
    """A whole reply without the ids of the prompt, which may be 40,000 and of which nothing is wanted.

    These bytes cannot stand inside a JSON string, where a quotation mark is escaped.
    """
    start = body.find(ECHO) + len(ECHO)
    end = body.find(b"]", start)
    return body[:start] + body[end:] if start >= len(ECHO) and end >= 0 else body


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object that a reply is.

    Raises:
        Trouble: `not_json` or `wrong_shape`.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        start = one_line(body[:200].decode("utf-8", "replace"), 60)
        raise Trouble(
            "not_json", f"expected JSON, found {len(body)} bytes that begin with {start!r}"
        ) from None
    if not isinstance(data, dict):
        raise _wrong("an object", data)
    return data


def only_choice(data: dict[str, Any]) -> dict[str, Any]:
    """The only choice of a completion.

    Raises:
        Trouble: `wrong_shape`.
    """
    if "choices" not in data and "error" in data:
        raise Trouble("wrong_shape", f"the reply is an error: {one_line(str(data['error']))}")
    choices = field_of(data, "choices", list)
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise Trouble("wrong_shape", f"expected one object in `choices`, found {len(choices)}")
    choice: dict[str, Any] = choices[0]
    return choice


def is_finished(choice: dict[str, Any]) -> bool:
    """Whether the model ended its turn itself, not the limit.

    Raises:
        Trouble: `wrong_shape`, or `aborted` (a finish_reason other than stop and length).
    """
    reason = field_of(choice, "finish_reason", str)
    if reason not in ("stop", "length"):
        raise Trouble(
            "aborted", f"the server ended the completion with finish_reason {one_line(reason, 40)!r}"
        )
    return reason == "stop"


def field_of(data: dict[str, Any], name: str, kind: type[T]) -> T:
    """The field `name`, which is a string, a list or an object (`kind`).

    Raises:
        Trouble: `wrong_shape`.
    """
    value = data.get(name)
    if not isinstance(value, kind):
        raise _wrong(f"{_A.get(kind, 'an object')} as `{name}`", value)
    return value


def _wrong(expected: str, found: object) -> Trouble:
    what = "nothing" if found is None else f"{type(found).__name__} {one_line(reprlib.repr(found), 60)}"
    return Trouble("wrong_shape", f"expected {expected} in the reply, found {what}")


def count_of(data: dict[str, Any], name: str) -> int | None:
    """A number of tokens in `usage`; None where it is not told."""
    usage = data.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None


def tells_no_ids(choice: dict[str, Any]) -> bool:
    """Whether a choice leaves out the ids of tokens altogether."""
    return not choice.get("token_ids") and not choice.get("logprobs")


def read_ids(choice: dict[str, Any], ids_out: IdsOut) -> tuple[int, ...]:
    """The ids of the tokens written, where the dialect `ids_out` (not NONE) has them.

    Raises:
        Trouble: `wrong_shape`.
    """
    if ids_out is IdsOut.TOKEN_IDS:
        return _checked(field_of(choice, "token_ids", list))
    logprobs = choice.get("logprobs")
    names = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    if not isinstance(names, list):
        raise _wrong("a list as `logprobs.tokens`", names)
    try:
        ids = [int(name[len(_NAME) :]) for name in names if name.startswith(_NAME)]
    except (AttributeError, ValueError):
        ids = []
    if len(ids) != len(names):  # texts of tokens, or nonsense
        raise _wrong(f"names like {_NAME}17 in `logprobs.tokens`", names)
    return _checked(ids)


def _checked(ids: list[Any]) -> tuple[int, ...]:
    """The ids as a tuple, if they are ids."""
    if ids and not (set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < MAX_ID):
        raise _wrong("token ids", next(i for i in ids if type(i) is not int or not 0 <= i < MAX_ID))
    return tuple(ids)
