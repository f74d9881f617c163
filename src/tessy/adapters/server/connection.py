"""One request on a connection of its own, whose reply is read while it is written.

By hand, and not by the HTTP client that all other requests use: what comes is handed on where it arrives, without
waking anybody before there is enough; and closing it is all that it takes to stop a server. Owns its socket, its
timeouts and its buffer. Refuses to know what a reply says.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import cast

from yarl import URL

from tessy.adapters.server.http import ReplyReader, broken_off, too_large
from tessy.adapters.server.wire import Trouble, one_line

BUFFER = 2**15
"""Bytes that may wait to be read; then the server is no longer listened to."""
EVENT, WHOLE_EVENTS = b"data:", b"\n\n\r\n"
"""Server-sent events in HTTP's chunks: how each begins, and how bytes end that are whole events and not the reply's
end. Looked for before the bytes are looked at; where they stand for something else, those are looked at early."""


class Connection(asyncio.Protocol):
    """A connection from its request to the end of its reply."""

    def __init__(self, request: Sequence[bytes], silence: float, most: int) -> None:
        """`silence`: seconds that the server may be silent while somebody waits; `most`: bytes of the body."""
        self.reply = ReplyReader()
        self._request = request
        self._silence = silence
        self._most = self._left = most
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] = []
        """What came and was not looked at yet."""
        self._held_bytes = 0
        self._body = b""
        """What was looked at and not handed on."""
        self._paused = False
        self._trouble: Trouble | None = None
        self._feed: Callable[[bytes], int] | None = None
        """Who waits."""
        self._lacking = 0
        """Events that must come at least before that is told again."""
        self._waiter: asyncio.Future[None] | None = None
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def head(self) -> None:
        """Wait until the reply has a status.

        Raises:
            Trouble: it breaks off, is silent for too long, or is no HTTP.
        """
        await self.read(self._begun)

    async def read(self, feed: Callable[[bytes], int]) -> None:
        """Hand what comes of the body to `feed` until that says that nothing is lacking, or the body ends.

        `feed` says how many events must come at least before it is of use to tell it of more. It is told first
        of what is there, if anything is.

        Raises:
            Trouble: the body breaks off, is too large, or the server is silent for too long; or `feed` raised it.
        """
        body = self._body + self._look()
        self._body = b""
        self._listen(True)
        self._lacking = feed(body)
        if self._lacking:
            await self._wait(feed)

    async def read_whole(self, most: int) -> bytes:
        """The whole body, or at least `most` bytes of it.

        Raises:
            Trouble: as `read`.
        """
        pieces: list[bytes] = []

        def collect(data: bytes) -> int:
            pieces.append(data)
            return int(sum(map(len, pieces)) < most)

        await self.read(collect)
        return b"".join(pieces)

    def close(self) -> bytes:
        """Close it, at once. What had come and was not read, HTTP's own lines between its chunks included."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._trouble = self._trouble or broken_off()
        self._done()
        rest = b"".join((self._body, *self._held))
        # Or all of it would be read when the connection is gone.
        self._body, self._held, self._held_bytes = b"", [], 0
        return rest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, and no subclass
        self._transport.writelines(self._request)
        self._request = ()

    def data_received(self, data: bytes) -> None:
        """Hand on what has come if it may be enough, else keep it: looking at each token costs more than the token."""
        self._heard = self._loop.time()
        self._held.append(data)
        self._held_bytes += len(data)
        if self._waiter is None:
            if self._held_bytes > BUFFER:
                self._listen(False)
            return
        events = data.count(EVENT) if self._lacking > 1 and data.endswith(WHOLE_EVENTS) else 0
        self._lacking -= events
        if not events or self._lacking <= 0:
            self._hand_on()

    def eof_received(self) -> None:
        """The server has said all it will."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, with an error or after the last byte."""
        try:
            if self._waiter is not None:
                self._hand_on()
            self._body += self._look()
            self.reply.close()
        except Trouble as trouble:
            self._fail(trouble)
        self._done()

    async def _wait(self, feed: Callable[[bytes], int]) -> None:
        if self._trouble is None and not self.reply.complete:
            self._heard = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._silence, self._check)
            self._feed, self._waiter = feed, self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._feed = self._waiter = None
        if self._trouble is not None:
            raise self._trouble

    def _begun(self, body: bytes) -> int:
        self._body += body
        return int(not self.reply.status)

    def _look(self) -> bytes:
        """What is held, as body."""
        data = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        body = self.reply.feed(data)
        self._left -= len(body)
        if self._left < 0:
            raise too_large(self._most)
        return body

    def _hand_on(self) -> None:
        """Tell who waits what is held."""
        assert self._feed is not None
        try:
            self._lacking = self._feed(self._look())
            if not self._lacking or self.reply.complete:
                self._done()
        except Trouble as trouble:
            self._fail(trouble)

    def _listen(self, listen: bool) -> None:
        """Go on taking what the server sends, or leave it where it is."""
        if self._transport is None or listen is not self._paused:
            return
        self._paused = not listen
        if listen:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _check(self) -> None:
        """Has the server been silent for too long while somebody waited?"""
        self._timer = None
        if self._waiter is None:
            return
        left = self._heard + self._silence - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
            return
        self._hand_on()  # an error may have been told, and nothing after it
        if not self._waiter.done():
            self._fail(Trouble("timeout", f"no answer within {self._silence:g} s"))

    def _fail(self, trouble: Trouble) -> None:
        self._trouble = self._trouble or trouble
        self._done()

    def _done(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Dialer:
    """Opens connections to servers, and remembers where they are: names are looked up once, until one fails."""

    def __init__(self, connect_timeout: float, silence: float, most: int) -> None:
        """Times in seconds; `most`: bytes of a reply's body."""
        self._connect_timeout = connect_timeout
        self._silence = silence
        self._most = most
        self._addresses: dict[str, str] = {}
        self._tls: ssl.SSLContext | None = None

    async def dial(self, url: URL, request: Sequence[bytes]) -> Connection:
        """A connection to the server of `url`, on which `request` is sent.

        Raises:
            Trouble: it cannot be had.
        """
        host, loop = url.host or "", asyncio.get_running_loop()
        secure = url.scheme == "https"
        try:
            async with asyncio.timeout(self._connect_timeout):
                transport, connection = await loop.create_connection(
                    lambda: Connection(request, self._silence, self._most),
                    self._addresses.get(host, host),
                    url.port or 0,
                    ssl=self._context() if secure else None,
                    server_hostname=host if secure else None,
                )
        except (TimeoutError, OSError) as error:
            self._addresses.pop(host, None)
            trouble = self._failure(error, host)
            trouble.__cause__ = error
        else:
            if host not in self._addresses:
                self._addresses[host] = transport.get_extra_info("peername")[0]
            return connection
        raise trouble

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _failure(self, error: OSError, host: str) -> Trouble:
        match error:
            case TimeoutError():
                return Trouble("connect_timeout", f"no connection within {self._connect_timeout:g} s")
            case socket.gaierror():
                return Trouble("unknown_host", f"the host {one_line(host, 80)} is not known")
            case ssl.SSLError():
                return Trouble("tls", f"no secure connection: {one_line(str(error), 120)}")
            case ConnectionRefusedError():
                return Trouble("refused", "connection refused")
            case ConnectionResetError():
                return broken_off()
            case _:
                return Trouble("unreachable", f"cannot connect: {one_line(error.strerror or str(error), 80)}")
