"""The words of HTTP, as far as a reply that is read while it is written needs them: head, body and what a status means.

Bytes in, in pieces of any size; bytes of the body out. Bounded, and does no I/O. Knows nothing of completions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from tessy.adapters.server.wire import Trouble, error_message, one_line, retry_after

MAX_HEAD = 2**16
"""Bytes of a head, or of the line that says how long a chunk is."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r\n")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;.*)?", re.DOTALL)


class ReplyReader:
    """Reads one reply of HTTP/1.1: its status and headers (names in small letters), and its body as it comes."""

    def __init__(self) -> None:
        self.status = 0
        """0: the head is not complete yet."""
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.complete = False
        """All of it is there."""
        self._rest = b""
        self._chunked = False
        self._left: int | None = None
        """Bytes of the body, or of the chunk, that are still to come; of a chunk -2 to 0 then count what ends it. None:
        the body ends with the connection."""

    def feed(self, data: bytes) -> bytes:
        """What `data` holds of the body.

        Raises:
            Trouble: `bad_http`.
        """
        if not self.status:
            data = self._head(self._rest + data)
        if self.complete or not data:
            return b""
        if self._chunked:
            return self._chunks(data)
        if self._left is None:
            return data
        body = data[: self._left]
        self._left -= len(body)
        self.complete = not self._left
        return body

    def close(self) -> None:
        """The connection is closed.

        Raises:
            Trouble: `reset`: before the reply was complete.
        """
        self.complete = self.complete or bool(self.status and self._left is None and not self._chunked)
        if not self.complete:
            raise broken_off()

    def _head(self, data: bytes) -> bytes:
        """Read the head if it is complete; what follows it."""
        status = _STATUS.match(data)
        end = data.find(b"\r\n\r\n")
        other = status is None and (b"\n" in data or not b"HTTP/".startswith(data[:5]))
        if other or (len(data) if end < 0 else end) > MAX_HEAD:
            raise _bad(data)
        if status is None or end < 0:
            self._rest = data
            return b""
        head, self._rest = data[status.end() : end], b""
        if status[1].startswith(b"1"):  # before the reply itself
            return self._head(data[end + 4 :])
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()
        self.status, self.reason = int(status[1]), (status[2] or b"").decode("latin-1")
        self._frame(data)
        return data[end + 4 :]

    def _frame(self, data: bytes) -> None:
        """How the body's end is told."""
        if self.headers.get("content-encoding", "identity") != "identity":
            raise Trouble("bad_http", "the reply is packed, although that was not asked for")
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        length = self.headers.get("content-length")
        if self._chunked:
            self._left = 0
        elif length is not None:
            if not re.fullmatch(r"\d{1,18}", length):
                raise _bad(data)
            self._left = int(length)
            self.complete = not self._left

    def _chunks(self, data: bytes) -> bytes:
        """What `data` holds of a body in chunks."""
        if not self._left and not self._rest and (whole := _whole_chunks(data)):
            return whole
        data, at, body = self._rest + data, 0, list[bytes]()
        left = self._left or 0
        while at < len(data) and not self.complete:
            if left > 0:
                body.append(data[at : at + left])
                at += len(body[-1])
                left -= len(body[-1])
                left = left or -2
            elif left < 0:  # the line's end after a chunk
                step = min(-left, len(data) - at)
                left += step
                at += step
            else:
                end = data.find(b"\r\n", at)
                size = _SIZE.fullmatch(data, at, end) if end >= 0 else None
                if end < 0 and len(data) - at <= MAX_HEAD:
                    break
                if size is None:
                    raise _bad(data[at:])
                at, left = end + 2, int(size[1], 16)
                self.complete = not left
        self._rest, self._left = data[at:], left
        return b"".join(body)


def _whole_chunks(data: bytes) -> bytes:
    """The body in `data` where that is whole chunks without line ends in them, as nearly always; else nothing."""
    if not data.endswith(b"\r\n"):  # seen without a search: the first chunk may be long
        return b""
    *sizes_and_chunks, _ = data.split(b"\r\n")
    chunks = sizes_and_chunks[1::2]
    if len(sizes_and_chunks) % 2:
        return b""
    try:
        sizes = [int(size, 16) for size in sizes_and_chunks[::2]]
    except ValueError:
        return b""
    return b"".join(chunks) if sizes == list(map(len, chunks)) and all(sizes) else b""


def broken_off() -> Trouble:
    """The connection was closed too early."""
    return Trouble("reset", "the connection was closed before the reply was complete")


def too_large(most: int) -> Trouble:
    """A reply has more than `most` bytes."""
    return Trouble("too_large", f"the reply has more than {most} bytes", refused=True)


def refusal(status: int, reason: str, headers: Mapping[str, str], body: bytes, secret: str | None) -> Trouble:
    """What a status other than 200 means. `headers` are looked up by their usual names."""
    if 300 <= status < 400:
        host = urlsplit(headers.get("Location", "")).netloc.rpartition("@")[2]
        detail = f"redirects to {one_line(host, 80) or 'another address'}; give the final address as base_url"
        return Trouble("redirect", f"HTTP {status}: {detail}", refused=True)
    detail = f"HTTP {status}: {error_message(body, secret) or one_line(reason, 80) or 'no message'}"
    if status == 429 or status >= 500:
        wait = retry_after(headers.get("Retry-After"), datetime.now(UTC))
        return Trouble("rate_limited" if status == 429 else f"http_{status}", detail, retry_after=wait)
    if status < 300:
        return Trouble("wrong_shape", f"expected HTTP 200, found {status}")
    return Trouble(f"http_{status}", detail, refused=True)


def _bad(data: bytes) -> Trouble:
    start = one_line(data[:60].decode("latin-1"), 60)
    return Trouble("bad_http", f"the reply is no HTTP: it begins with {start!r}")
