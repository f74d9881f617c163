"""One turn of a speaker as one streamed request, read chunk by chunk while the server goes on.

Holds the connection, the place at the replica's gate and the prompt that the next chunk must go on from; closing it is
all that it takes for the server to stop. Every token that came is counted, whether or not anybody took it. Knows
neither retries nor what the tokens are for.
"""

from __future__ import annotations

import time
from contextlib import suppress

from tessy.adapters.server.connection import Connection
from tessy.adapters.server.pool import Place
from tessy.adapters.server.sse import CompletionStream
from tessy.adapters.server.wire import Trouble
from tessy.protocols import Completion, Prompt


class Turn:
    """A streamed completion of `prompt` that is open, until it is closed."""

    def __init__(
        self, prompt: Prompt, place: Place, connection: Connection, stream: CompletionStream
    ) -> None:
        self._prompt = prompt
        self._length = len(prompt)
        self._last: tuple[int, ...] = ()
        self._place = place
        self._connection = connection
        self._stream = stream
        self._open = True
        self._sound = True
        self._heard: float | None = None
        """When the last chunk was there that somebody waited for."""
        self._written = 0
        """Tokens that were read by then."""
        self._counted = 0
        """Tokens that are in the books already."""

    @property
    def exhausted(self) -> bool:
        """There is nothing more to come."""
        return self._stream.exhausted

    def goes_on(self, prompt: Prompt) -> bool:
        """Whether `prompt` is what was asked with, grown by just what was taken.

        Prompts grow at their end only, so the same prompt of the right length that ends in the last chunk is that; to
        compare all of it would cost more the longer it is.
        """
        last = len(self._last)
        if not self._open or prompt is not self._prompt or len(prompt) != self._length:
            return False
        return not last or tuple(prompt.tail(last)) == self._last

    def holds(self, prompt: Prompt, count: int) -> bool:
        """Whether it goes on from `prompt`, and what `take` would give is there."""
        with suppress(Trouble):  # `take` tells of it
            return self._heard is not None and self._stream.has(count) and self.goes_on(prompt)
        return False

    def take_held(self, count: int) -> Completion:
        """As `take`, of what is there."""
        ids, finished = self._stream.take(count)
        self._last, self._length = ids, self._length + len(ids)
        self._count(self._stream.received)
        return Completion(ids, "", finished)

    async def take(self, count: int) -> Completion:
        """The next `count` tokens, or what comes before the end. No text: nobody says which token's it is.

        Raises:
            Trouble: the stream broke off, or says nothing sensible. Close it then.
        """
        try:
            if not self._stream.has(count):
                await self._connection.read(lambda data: self._feed(data, count))
            if not self._stream.has(count):
                self._stream.close()
        except Trouble as trouble:
            self._sound = False
            self._place.failed(trouble)
            raise
        if self._heard is None:
            self._place.answered()
            self._place.stats.requests += 1
        self._heard, self._written = time.monotonic(), self._stream.received
        return self.take_held(count)

    def close(self) -> None:
        """Stop it, at once. What came and was not taken is counted, and gone."""
        if not self._open:
            return
        self._open = False
        self._count(self._stream.count(self._connection.close()))
        if self._sound and self._heard is not None:
            self._place.succeeded(self._written, self._heard)
        self._place.leave()

    def _feed(self, data: bytes, count: int) -> int:
        """Go on by `data`; how many events are lacking at least until `count` tokens can be taken."""
        self._stream.feed(data)
        return self._stream.lacking(count)

    def _count(self, told: int) -> None:
        """So many tokens have come by now."""
        self._place.stats.generated += told - self._counted
        self._counted = told
