"""A server on a real socket for tests: just enough HTTP/1.1, by hand and without a framework, with faults to order.

Cheap beside the client that is measured against it. Serves `/v1/models`, `/health` and what a subclass serves; counts
what it was asked. Not for the outside world.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, ClassVar, Self, cast

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fault:
    """What a server does instead of completing. Without more it answers `status` and `body`."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    """Never answer."""
    reset: bool = False
    """Reset the connection in the middle of the body."""
    after: int | None = None
    """In a stream: so many events are told first; then `body` as it stands, and the rest of the fault or the end."""

    @staticmethod
    def error(status: int, message: str, **headers: str) -> Fault:
        """An error as vLLM words it; a header `Retry-After` is given as `Retry_After`."""
        body = {"error": {"message": message, "type": "error", "param": None, "code": status}}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Fault(status, orjson.dumps(body), named)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A reply that is written event by event, as long as the connection is there."""

    events: Iterator[bytes]
    """Made when their time has come, so that what a client cuts off was never made."""
    fault: Fault | None = None
    """What comes instead after `fault.after` events."""


@dataclass(eq=False, kw_only=True)
class HttpServer(ABC):
    """`async with Subclass(…) as server:` serves at `server.base_url` until the block ends."""

    path: ClassVar[bytes]
    """What a subclass serves."""

    name: str = "scripted"
    latency: float = 0.0
    """Seconds that each completion takes; of a stream, until its first event."""
    pace: float = 0.0
    """Seconds between two events of a stream."""
    fault: Callable[[int], Fault | None] = lambda number: None
    """Asked with the number of each completion request, from 1: what to do instead, or None."""
    pages: Mapping[bytes, Fault] = field(default_factory=dict)
    """What it serves besides, by path (vLLM's `/metrics`, SGLang's `/server_info`)."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one; then the one that is used."""
    requests: int = 0
    """Completions asked for, faults included."""
    in_flight: int = 0
    max_in_flight: int = 0
    _last: bytes = b"{}"
    _server: asyncio.Server | None = None
    _connections: set[_Connection] = field(default_factory=set)

    @property
    def base_url(self) -> str:
        """Where it serves, with `/v1`."""
        return f"http://{self.host}:{self.port}/v1"

    @property
    def last(self) -> dict[str, Any]:
        """The last completion request, as it came."""
        request: dict[str, Any] = orjson.loads(self._last)
        return request

    @property
    @abstractmethod
    def api_key(self) -> str | None:
        """The key to show, if any."""

    @property
    @abstractmethod
    def max_model_len(self) -> int:
        """The length of the model's context in tokens."""

    @abstractmethod
    def reply(self, body: bytes) -> Fault | Streamed:
        """The reply to a completion request."""

    async def start(self) -> None:
        """Listen; after `stop`, on the same port again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from now on and reset those that are open: the server is dead."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.reset()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def answer(self, path: bytes, head: bytes, body: bytes) -> tuple[Fault | Streamed, float]:
        """What to answer a request, and after how many seconds."""
        if path == b"/health":
            return Fault(), 0.0
        if self.api_key and f"\r\nAuthorization: Bearer {self.api_key}\r\n".encode() not in head:
            return Fault.error(401, f"Unauthorized: {head.decode('latin-1')}"), 0.0
        if path == b"/v1/models":
            card = {"id": self.name, "object": "model", "max_model_len": self.max_model_len}
            return Fault(body=orjson.dumps({"object": "list", "data": [card]})), 0.0
        if path != self.path:
            return self.pages.get(path, Fault.error(404, "Not Found")), 0.0
        self.requests += 1
        fault = self.fault(self.requests)
        if fault is not None and not fault.reset and fault.after is None:
            return fault, self.latency
        self._last = body
        reply = self.reply(body)
        if fault is not None and isinstance(reply, Streamed):
            return replace(reply, fault=fault), self.latency
        if fault is not None and isinstance(reply, Fault):
            return replace(fault, body=fault.body or reply.body), self.latency
        return reply, self.latency


class _Connection(asyncio.Protocol):
    """One client's connection: a request at a time."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._pending: asyncio.TimerHandle | None = None
        self._busy = False
        """A completion is under way; the next request waits in the buffer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, and no subclass
        self._server._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self)
        if self._pending:
            self._pending.cancel()
        if self._busy:
            self._server.in_flight -= 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._serve()

    def reset(self) -> None:
        """Close at once, with an RST."""
        connection: socket.socket = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _serve(self) -> None:
        """Answer the request in the buffer, if it is whole."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[: end + 2])
        length = _LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < whole:
            return
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        server = self._server
        self._busy = True
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        reply, seconds = server.answer(head.split(b" ", 2)[1], head, body)
        if isinstance(reply, Fault) and reply.hang:
            return
        if seconds:
            self._later(seconds, self._reply, reply)
        else:
            self._reply(reply)

    def _later(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        self._pending = asyncio.get_running_loop().call_later(seconds, call, *arguments)

    def _reply(self, reply: Fault | Streamed) -> None:
        if isinstance(reply, Streamed):
            self._write(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n")
            self._write(b"Transfer-Encoding: chunked\r\n\r\n")
            self._tell(reply, 0)
            return
        headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: application/json\r\n{headers}"
        head += f"Content-Length: {len(reply.body)}\r\n\r\n"
        if reply.reset:
            self._write(head.encode() + reply.body[: len(reply.body) // 2])
            self._later(0.01, self.reset)
            return
        self._write(head.encode() + reply.body)
        self._done()

    def _tell(self, stream: Streamed, told: int) -> None:
        """Write the next event of a stream, and come back for the one after it."""
        fault = stream.fault
        if fault is not None and told >= (fault.after or 0):
            self._break_off(fault)
            return
        event = next(stream.events, b"")
        self._write(b"%x\r\n%b\r\n" % (len(event), event))
        if event:
            self._later(self._server.pace, self._tell, stream, told + 1)
        else:
            self._done()

    def _break_off(self, fault: Fault) -> None:
        if fault.body:
            self._write(b"%x\r\n%b\r\n" % (len(fault.body), fault.body))
        if fault.reset:
            self._later(0.01, self.reset)
        elif not fault.hang:
            self._write(b"0\r\n\r\n")
            self._done()

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _done(self) -> None:
        self._pending, self._busy = None, False
        self._server.in_flight -= 1
        self._serve()
