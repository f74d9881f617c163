"""A completion server on a real socket: a scripted model in vLLM's dialect, with faults to order.

Speaks just enough HTTP/1.1, by hand and without a framework, to cost little beside the client that is measured
against it. Serves `/v1/completions`, `/v1/models` and `/health`; counts what it was asked. Not for the outside world.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson

from tessy.adapters.fakes.model import LOOK_BACK, ScriptedModel
from tessy.protocols import Completion

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PROMPT = b'"prompt":['
_PROMPT_BYTES = 10 * LOOK_BACK
"""The end of a prompt's JSON that holds at least the ids that the model reads."""
_KNOWN = frozenset({"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs", "n", "stop"})
"""Fields of OpenAI's own API; the rest are vLLM's and SGLang's."""


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

    @staticmethod
    def error(status: int, message: str, **headers: str) -> Fault:
        """An error as vLLM words it; a header `Retry-After` is given as `Retry_After`."""
        body = {"error": {"message": message, "type": "error", "param": None, "code": status}}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Fault(status, orjson.dumps(body), named)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a server can and cannot do, to stand for other servers than vLLM."""

    takes_ids: bool = True
    returns_token_ids: bool = True
    """Heeds `return_token_ids`."""
    logprobs_as_ids: bool = True
    """Heeds `return_tokens_as_token_ids`."""
    refuses_unknown: bool = False
    """400 for any field that is not OpenAI's."""
    refuses_logprobs: bool = False
    adds_bos: bool = False
    """Puts a BOS before a text prompt, even before one that begins with it."""
    api_key: str | None = None
    max_model_len: int = 40_960


@dataclass(eq=False)
class FakeServer:
    """`async with FakeServer(model) as server:` serves at `server.base_url` until the block ends."""

    model: ScriptedModel
    name: str = "scripted"
    latency: float = 0.0
    """Seconds that each completion takes."""
    fault: Callable[[int], Fault | None] = lambda number: None
    """Asked with the number of each completion request, from 1: what to do instead, or None."""
    traits: Traits = Traits()
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one; then the one that is used."""
    requests: int = 0
    """Completions asked for, faults included."""
    generated: int = 0
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

    def answer(self, path: bytes, head: bytes, body: bytes) -> tuple[Fault, float]:
        """What to answer a request, and after how many seconds."""
        if path == b"/health":
            return Fault(), 0.0
        if (
            self.traits.api_key
            and f"\r\nAuthorization: Bearer {self.traits.api_key}\r\n".encode() not in head
        ):
            return Fault.error(401, f"Unauthorized: {head.decode('latin-1')}"), 0.0
        if path == b"/v1/models":
            card = {"id": self.name, "object": "model", "max_model_len": self.traits.max_model_len}
            return Fault(body=orjson.dumps({"object": "list", "data": [card]})), 0.0
        if path != b"/v1/completions":
            return Fault.error(404, "Not Found"), 0.0
        self.requests += 1
        fault = self.fault(self.requests)
        if fault is not None and not fault.reset:
            return fault, self.latency
        self._last = body
        request, length = _read_request(body)
        reply = self._refusal(request, length) or Fault(body=self._complete(request, length))
        return (reply if fault is None else Fault(body=reply.body, reset=True)), self.latency

    def _refusal(self, request: dict[str, Any], length: int) -> Fault | None:
        unknown = sorted(request.keys() - _KNOWN)
        prompt = request["prompt"]
        if request["model"] != self.name:
            return Fault.error(404, f"The model `{request['model']}` does not exist.")
        if unknown and self.traits.refuses_unknown:
            return Fault.error(400, f"Unrecognized request argument supplied: {unknown[0]}")
        if "logprobs" in request and self.traits.refuses_logprobs:
            return Fault.error(422, "logprobs are not supported")
        if not isinstance(prompt, str) and not self.traits.takes_ids:
            return Fault.error(400, "prompt: Input should be a valid string")
        if length + request["max_tokens"] > self.traits.max_model_len:
            return Fault.error(400, f"maximum context length is {self.traits.max_model_len} tokens")
        return None

    def _complete(self, request: dict[str, Any], length: int) -> bytes:
        tokenizer = self.model.tokenizer
        ids = request["prompt"]
        if isinstance(ids, str):
            ids = tokenizer.encode_markup(ids)
            if self.traits.adds_bos and request.get("add_special_tokens", True) and tokenizer.bos:
                ids = tokenizer.encode_markup(tokenizer.bos) + ids
            length = len(ids)
        completion = self.model.write(ids, request["max_tokens"])
        self.generated += len(completion.ids or ())
        choice = self._choice(completion, ids, request)
        written = len(completion.ids or ())
        usage = {"prompt_tokens": length, "completion_tokens": written, "total_tokens": length + written}
        body = {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": self.name}
        return orjson.dumps({**body, "choices": [choice], "usage": usage})

    def _choice(
        self, completion: Completion, prompt: Sequence[int], request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The choice of a completion, as vLLM words it."""
        ids = completion.ids or ()
        with_ids = bool(request.get("return_token_ids")) and self.traits.returns_token_ids
        logprobs = None
        if "logprobs" in request:
            as_ids = request.get("return_tokens_as_token_ids") and self.traits.logprobs_as_ids
            logprobs = {
                "tokens": [f"token_id:{token}" if as_ids else f"<{token}>" for token in ids],
                "token_logprobs": [-0.5] * len(ids),
            }
        return {
            "index": 0,
            "text": completion.text,
            "logprobs": logprobs,
            "finish_reason": "stop" if completion.finished else "length",
            "stop_reason": None,
            "token_ids": ids if with_ids else None,
            "prompt_token_ids": prompt if with_ids else None,
        }


def _read_request(body: bytes) -> tuple[dict[str, Any], int]:
    """A request and the length of its prompt. Of a long prompt only the end is read, as the model does:
    parsing 30,000 ids would cost more than all the rest of a request.
    """
    start = body.find(_PROMPT) + len(_PROMPT)
    end = body.find(b"]", start)
    tail = body.rfind(b",", start, max(start, end - _PROMPT_BYTES)) + 1
    if start < len(_PROMPT) or not tail or b'"return_token_ids"' in body[:start]:
        request = orjson.loads(body)
        return request, len(request["prompt"])
    return orjson.loads(body[:start] + body[tail:]), body.count(b",", start, end) + 1


class _Connection(asyncio.Protocol):
    """One client's connection: a request at a time."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._pending: asyncio.TimerHandle | None = None
        self._busy = False
        """A completion is under way; the next request waits in the buffer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
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
        if reply.hang:
            return
        if seconds:
            self._pending = asyncio.get_running_loop().call_later(seconds, self._reply, reply)
        else:
            self._reply(reply)

    def _reply(self, reply: Fault) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: application/json\r\n{headers}"
        head += f"Content-Length: {len(reply.body)}\r\n\r\n"
        self._pending, self._busy = None, False
        self._server.in_flight -= 1
        if reply.reset:
            self._transport.write(head.encode() + reply.body[: len(reply.body) // 2])
            asyncio.get_running_loop().call_later(0.01, self.reset)
            return
        self._transport.write(head.encode() + reply.body)
        self._serve()
