"""Sends one HTTP request and brings its body back, or says in one `Trouble` why not.

Owns the connection pool, the API key and the bounds on time and size; all that aiohttp can raise and all that a status
can mean is mapped here, once. Follows no redirect: the key goes to nobody but the configured servers.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

from tessy.adapters.server.connection import Connection, Dialer
from tessy.adapters.server.http import broken_off, refusal, too_large
from tessy.adapters.server.options import ServerOptions
from tessy.adapters.server.wire import Trouble, one_line

KEEP_ALIVE = 2.0
"""Seconds that an idle connection is kept: less than the 5 after which uvicorn (vLLM, SGLang) closes it under us."""
ERROR_BYTES = 2**16
"""What is read of the body of an error."""
FOREIGN = (aiohttp.ClientError, TimeoutError, OSError)
"""What aiohttp raises."""


class _Body(aiohttp.Payload):
    """A JSON body that is sent piece by piece: joining the pieces would copy a long prompt twice for each request."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces, content_type="application/json")
        self._size = sum(map(len, pieces))

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in self._value:
            await writer.write(piece)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)


class Transport:
    """A connection pool as large as the concurrency. Opened at the first request, inside the running loop."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None
        self._patient = self._timeout(None)
        self._dialer = Dialer(options.connect_timeout, options.read_timeout, options.max_reply_bytes)
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "tessy"}
        self._heads: dict[URL, bytes] = {}
        """Of streamed requests, up to how long the body is."""
        if options.api_key:
            self._headers["Authorization"] = f"Bearer {options.api_key}"

    async def fetch(self, url: URL, body: Sequence[bytes] = (), seconds: float | None = None) -> bytes:
        """The body of the reply to a POST of the pieces of `body`, or to a GET without any.

        `seconds` bounds the whole exchange; without it only connecting and silence are bounded.

        Raises:
            Trouble: no reply with status 200 and a body of bearable size could be had.
        """
        try:
            async with await self._request(url, body, seconds) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                return await self._read(response)
        except FOREIGN as error:
            trouble = self._failure(error, seconds)
        raise trouble

    async def open(self, url: URL, body: Sequence[bytes]) -> Connection:
        """A connection on which the reply to a POST of the pieces of `body` comes; whoever gets it closes it.

        Raises:
            Trouble: no reply with status 200 could be had.
        """
        connection = await self._dialer.dial(url, (self._request_head(url, sum(map(len, body))), *body))
        try:
            await connection.head()
            reply = connection.reply
            if reply.status != 200:
                said = (await connection.read_whole(ERROR_BYTES))[:ERROR_BYTES]
                headers = CIMultiDict(reply.headers)
                raise refusal(reply.status, reply.reason, headers, said, self._options.api_key)
        except BaseException:
            connection.close()
            raise
        return connection

    def _request_head(self, url: URL, length: int) -> bytes:
        if url not in self._heads:
            fields = {
                "Host": url.raw_authority,
                **self._headers,
                "Accept": "text/event-stream",
                "Content-Type": "application/json",
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            self._heads[url] = f"POST {url.raw_path} HTTP/1.1\r\n{lines}".encode("latin-1")
        return b"%bContent-Length: %d\r\n\r\n" % (self._heads[url], length)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _request(
        self, url: URL, body: Sequence[bytes], seconds: float | None
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._open()
        return await self._session.request(
            "POST" if body else "GET",
            url,
            data=_Body(body) if body else None,
            allow_redirects=False,
            timeout=self._timeout(seconds) if seconds else self._patient,
        )

    def _open(self) -> aiohttp.ClientSession:
        options = self._options
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=options.concurrency, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=60
            ),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _timeout(self, seconds: float | None) -> aiohttp.ClientTimeout:
        silence = self._options.read_timeout
        return aiohttp.ClientTimeout(seconds, sock_connect=self._options.connect_timeout, sock_read=silence)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        most = self._options.max_reply_bytes
        chunks, size = [], 0
        while chunk := await response.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > most:
                raise too_large(most)
        return b"".join(chunks)

    async def _refusal(self, response: aiohttp.ClientResponse) -> Trouble:
        """What a status other than 200 means."""
        said = await response.content.read(ERROR_BYTES)
        return refusal(response.status, response.reason or "", response.headers, said, self._options.api_key)

    def _failure(self, error: Exception, seconds: float | None) -> Trouble:
        """What an exception of aiohttp means, with that as its cause."""
        trouble = self._meaning(error, seconds)
        # aiohttp keeps the headers of the request, and the key among them, in this kind of error.
        trouble.__cause__ = None if isinstance(error, aiohttp.ClientResponseError) else error
        return trouble

    def _meaning(self, error: Exception, seconds: float | None) -> Trouble:
        options = self._options
        match error:
            case aiohttp.ConnectionTimeoutError():
                return Trouble("connect_timeout", f"no connection within {options.connect_timeout:g} s")
            case TimeoutError():
                silence = min(options.read_timeout, seconds or options.read_timeout)
                return Trouble("timeout", f"no answer within {silence:g} s")
            case aiohttp.ClientConnectorDNSError():
                return Trouble("unknown_host", f"the host {one_line(error.host, 80)} is not known")
            case aiohttp.ClientSSLError():
                return Trouble("tls", f"no secure connection: {one_line(str(error), 120)}")
            case aiohttp.ClientConnectorError() if error.os_error.errno == errno.ECONNREFUSED:
                return Trouble("refused", "connection refused")
            case aiohttp.ClientConnectorError():
                return Trouble(
                    "unreachable", f"cannot connect: {one_line(error.os_error.strerror or '', 80)}"
                )
            case aiohttp.ClientResponseError():
                return Trouble("bad_http", f"the reply is no HTTP: {one_line(error.message, 80)}")
            case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | OSError():
                return broken_off()
            case _:
                return Trouble("transport", f"no exchange was possible ({type(error).__name__})")
