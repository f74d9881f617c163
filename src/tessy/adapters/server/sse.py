"""Server-sent events as servers stream completions: bytes in, in pieces of any size, token ids out. Does no I/O.

`EventReader` finds the events, `CompletionStream` reads what they say in the words of the completions API. Both are
bounded, and cost time in proportion to the bytes alone. What is said is untrusted, as in `wire`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import orjson

from tessy.adapters.server.wire import (
    ECHO,
    MAX_ID,
    IdsOut,
    Trouble,
    error_message,
    field_of,
    is_finished,
    only_choice,
    parse,
    read_ids,
    tells_no_ids,
)

MAX_EVENT = 2**24
"""Bytes of one event, which holds a few tokens."""
DONE = b"[DONE]"
_SOME_IDS, _NO_IDS = b'"token_ids":[', b'"token_ids":[]'
"""In an event as servers spell it; these bytes cannot stand inside a JSON string."""


def _plain_events(data: bytes, most: int) -> list[bytes]:
    """The data of events, where all of them are whole and have one line, as nearly always; else nothing."""
    if len(data) > most or not data.endswith(b"\n\n") or b"\r" in data:
        return []
    first, *others = data[:-2].split(b"\n\ndata: ")
    plain = first.startswith(b"data: ") and data.count(b"\n") == 2 + 2 * len(others)
    return [first[6:], *others] if plain else []


class EventReader:
    """Finds events in a byte stream. Lines end in LF or CRLF; comments and fields other than `data` are skipped."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max = max_event
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0
        """Bytes of the event that is not complete yet."""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that `data` completes.

        Raises:
            Trouble: `too_large`.
        """
        if not self._size and (whole := _plain_events(data, self._max)):
            return whole
        self._size += len(data)
        if b"\n" not in data:
            self._rest.append(data)
            self._check()
            return []
        *lines, rest = b"".join((*self._rest, data)).split(b"\n")
        self._rest = [rest]
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6 if line[5:6] == b" " else 5 :].removesuffix(b"\r"))
            elif line in (b"", b"\r"):
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
                self._size = len(rest)
        self._check()
        return events

    def _check(self) -> None:
        if self._size > self._max:
            raise Trouble(
                "too_large", f"an event of the stream has more than {self._max} bytes", refused=True
            )


class _Echo:
    """Takes the prompt's ids out of the bytes of a stream, whose first event may repeat them (`wire.without_echo`).

    There they are most of all that comes, more the longer the trajectory is: here they are looked at once, by a search
    for one byte, and not taken apart, copied and parsed with their event.
    """

    def __init__(self) -> None:
        self._inside = False
        self._rest = b""
        """What may be its beginning."""

    @property
    def open(self) -> bool:
        """It has begun, or may have: what comes next goes through here."""
        return self._inside or bool(self._rest)

    def drop(self, data: bytes) -> bytes:
        """`data` and what was held back, without it."""
        if self._inside:
            start = 0
        else:
            data, self._rest = self._rest + data, b""
            start = data.find(ECHO) + len(ECHO)
            if start < len(ECHO):
                return self._hold_back(data)
        end = data.find(b"]", start)
        self._inside = end < 0
        return data[:start] if end < 0 else data[:start] + data[end:]

    def _hold_back(self, data: bytes) -> bytes:
        for size in range(len(ECHO) - 1, 0, -1):
            if data.endswith(ECHO[:size]):
                self._rest = data[-size:]
                return data[:-size]
        return data


class CompletionStream:
    """What a streamed completion has said so far: ids that wait to be taken, and whether and how it ended.

    Events are kept as they came until their tokens are wanted: of what a server writes in vain nothing is read.
    """

    def __init__(self, max_tokens: int, ids_out: IdsOut, secret: str | None = None) -> None:
        """`ids_out`: how ids are told (not NONE); `secret`: never to be repeated in a message."""
        self.received = 0
        """Token ids read, taken or not."""
        self.ended = False
        """The server has said all it will."""
        self._finished = False
        self._max_tokens = max_tokens
        self._ids_out = ids_out
        self._secret = secret
        self._events = EventReader()
        self._echo = _Echo()
        self._unread: deque[bytes] = deque()
        self._waiting: deque[int] = deque()
        self._most_told = 1
        """Ids that an event told at most."""
        self._trouble: Trouble | None = None

    def has(self, count: int) -> bool:
        """Whether `count` tokens can be taken, or all there will be.

        Raises:
            Trouble: `not_json`, `wrong_shape`, `aborted`, or `stream_error`: the server says what is wrong. Again each
                time, once it is found.
        """
        self._look(count + 1)  # the end may be told by itself, after the last of them
        return self.ended or len(self._waiting) >= count

    def lacking(self, count: int) -> int:
        """How many events it takes at least, as events have been so far, until `count` tokens can be taken.

        Raises:
            Trouble: as `has`.
        """
        return 0 if self.has(count) else -(-(count - len(self._waiting)) // self._most_told)

    def take(self, count: int) -> tuple[tuple[int, ...], bool]:
        """The next `count` ids, or what is left; and whether the model ended its turn with the last of them.

        Raises:
            Trouble: as `has`, which may be asked before.
        """
        self._look(count + 1)
        waiting = self._waiting
        ids = tuple([waiting.popleft() for _ in range(min(count, len(waiting)))])
        return ids, self._finished and not waiting

    @property
    def exhausted(self) -> bool:
        """All is taken that there will be, as far as was read."""
        return not self._waiting and (self.ended or self.received == self._max_tokens)

    def feed(self, data: bytes) -> None:
        """Go on by `data`.

        Raises:
            Trouble: `too_large`.
        """
        if not self.received or self._echo.open:
            data = self._echo.drop(data)
        self._unread += self._events.feed(data)

    def count(self, rest: bytes) -> int:
        """How many token ids were told, read or not; `rest` is what came after what was fed.

        HTTP's own lines may stand in it: they are no lines of an event. Where an event tells one token, as nearly
        always, events are counted and not read.
        """
        if self._ids_out is IdsOut.TOKEN_IDS and self._most_told == 1 and self.received:
            told = b"".join((*self._unread, rest))
            return min(self._max_tokens, self.received + told.count(_SOME_IDS) - told.count(_NO_IDS))
        with suppress(Trouble):  # of which nobody waits to hear
            self.feed(rest)
            self._look(MAX_ID)
        return self.received

    def close(self) -> None:
        """The bytes have ended.

        Raises:
            Trouble: before the completion had: `reset`, or `wrong_shape` where nothing was told at all; or as `has`.
        """
        self._look(MAX_ID)
        if self.ended:
            return
        if not self.received:
            raise Trouble("wrong_shape", "expected a stream of events, found none that tells a token")
        raise Trouble("reset", "the stream ended before the completion did")

    def _look(self, count: int) -> None:
        """Read events until `count` tokens wait, or there are no more. What comes after the end is not read."""
        if self._trouble is not None:
            raise self._trouble
        unread, waiting = self._unread, self._waiting
        try:
            while unread and not self.ended and len(waiting) < count:
                most = -(-(count - len(waiting)) // self._most_told) if self.received else 1
                events = [unread.popleft() for _ in range(min(most, len(unread)))]
                if self.received and self._ids_out is IdsOut.TOKEN_IDS and (ids := _plain_ids(events)):
                    self._take_in(ids, 1)
                    continue
                for event in events:
                    if not self.ended:
                        self._read(event)
        except Trouble as trouble:
            trouble.blot(self._secret)
            self._trouble = trouble
            raise

    def _read(self, event: bytes) -> None:
        if event == DONE:
            raise Trouble("wrong_shape", "the stream is done, but no finish_reason was told")
        data = parse(event)
        if "error" in data and "choices" not in data:
            raise Trouble("stream_error", f"in the stream: {error_message(orjson.dumps(data), None)}")
        if data.get("choices") == []:  # the usage
            return
        choice = only_choice(data)
        text = field_of(choice, "text", str)
        if choice.get("finish_reason") is not None:
            self._finished, self.ended = is_finished(choice), True
        # The last event may tell nothing but the end.
        ids = () if self.ended and not text and tells_no_ids(choice) else read_ids(choice, self._ids_out)
        if text and not ids:
            raise Trouble(
                "wrong_shape", f"expected token ids in the stream, found only {len(text)} characters"
            )
        self._take_in(ids, len(ids))

    def _take_in(self, ids: Sequence[int], told: int) -> None:
        """`told`: how many of them an event told at most."""
        self._most_told = max(self._most_told, told)
        self.received += len(ids)
        if self.received > self._max_tokens:
            found = f"{self.received} token ids in the stream"
            raise Trouble("wrong_shape", f"{found}, where at most {self._max_tokens} tokens were asked for")
        self._waiting.extend(ids)


def _plain_ids(events: Sequence[bytes]) -> list[int] | None:
    """The ids that events tell if all are of the most common kind: one token of the completion each, and no more.

    What it is not sure of it leaves to the careful way. All of them are parsed in one go, since what is done for each
    event is done for each token.
    """
    try:
        told = orjson.loads(b"[%b]" % b",".join(events))
    except orjson.JSONDecodeError:
        return None
    ids: list[int] = []
    try:
        for data in told:
            (choice,) = data["choices"]
            (i,) = choice["token_ids"]
            if type(i) is not int or choice["finish_reason"] is not None or type(choice["text"]) is not str:
                return None
            ids.append(i)
    except (KeyError, TypeError, ValueError):
        return None
    sound = len(ids) == len(events) and min(ids) >= 0 and max(ids) < MAX_ID
    return ids if sound else None


def read_stream(ids_out: IdsOut, body: bytes) -> tuple[int, ...]:
    """The ids of a whole stream.

    Raises:
        Trouble: it is none, as `CompletionStream` has it.
    """
    stream = CompletionStream(MAX_EVENT, ids_out)
    stream.feed(body)
    ids, _ = stream.take(MAX_EVENT)
    if not stream.ended or not ids:
        raise Trouble("wrong_shape", "expected a stream of events with token ids and a finish_reason")
    return ids
