"""An `Engine` over one or several replicas of a model behind OpenAI-compatible completion servers.

Puts together what a trajectory asks for and how the servers want to be asked. Knows no HTTP (`transport`), no JSON
(`wire`), and neither retries nor replicas (`pool`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

import orjson

from tessy.adapters.server import wire
from tessy.adapters.server.options import ServerOptions
from tessy.adapters.server.pool import PROBE_SECONDS, Negotiation, Pool, Way, as_error
from tessy.adapters.server.replica import Replica
from tessy.adapters.server.sse import CompletionStream, read_stream
from tessy.adapters.server.stream import Turn
from tessy.adapters.server.wire import Dialect, IdsOut, ServedModel, TokenCount, Trouble
from tessy.errors import DeadlineError
from tessy.protocols import Completion, Prompt, Tokenizer

PROBE_TEXT = "A student and a teacher."
PROBE_TOKENS = 2
NO_STREAM = frozenset({"wrong_shape", "not_json", "aborted", "stream_error", "http_501"})
"""Troubles that speak of a server that cannot stream, in answer to a question whether it can."""
AHEAD_TOKENS, AHEAD_CHUNKS = 512, 8
"""A stream is opened for the larger of these, if the turn may have so much: turns are shorter, but for a speaker alone,
and a server may set memory aside for what is asked for (SGLang does)."""


def ahead(chunk: int, most: int) -> int:
    """Tokens to open a stream for: all of the turn, or a bounded number of whole chunks."""
    bound = max(AHEAD_TOKENS, AHEAD_CHUNKS * chunk)
    return most if most <= bound else bound - bound % chunk


class ServerEngine:
    """Implements `Engine`. Opens its connections at the first request, inside the running loop."""

    def __init__(
        self,
        options: ServerOptions,
        tokenizer: Tokenizer | None = None,
        *,
        dialects: Sequence[Dialect] = wire.LADDER,
    ) -> None:
        """`tokenizer` is the model's own; without it a server must take token ids. `dialects` are tried in this order.

        Raises:
            ConfigError: a base URL is none.
        """
        self.options = options
        self.pool = Pool(options)
        self.stats = self.pool.stats
        self.replicas = self.pool.replicas
        self._tokenizer = tokenizer
        self._dialect: Dialect | None = None
        self._head = b""
        rungs = [rung for rung in dialects if rung.ids_in or tokenizer]
        self._negotiation = Negotiation(self.pool, rungs, self._try)
        self._streams: IdsOut | None = None if options.stream else IdsOut.NONE
        self._stream_head = b""
        self._stream_negotiation = Negotiation(self.pool, wire.STREAMED_IDS, self._try_stream)

    def completer(self, key: str, *, seed: int | None, deadline: float | None) -> ServerCompleter:
        """The completer of the trajectory `key`; `ServerCompleter` says what it does with seed and deadline."""
        return ServerCompleter(self, seed, deadline)

    async def close(self) -> None:
        """Close all connections."""
        await self._negotiation.close()
        await self._stream_negotiation.close()
        await self.pool.close()

    async def negotiate(self) -> Dialect:
        """What all replicas that answer understand: found out once, then remembered.

        Raises:
            ServerError: none answers.
            RequestError: one refuses even the plainest request (a wrong model name, a wrong key …).
        """
        try:
            return await self._speak()
        except Trouble as trouble:
            raise as_error(trouble, trouble.where) from trouble

    async def models(self, base_url: str) -> list[ServedModel]:
        """What the server at `base_url` (one of the options') serves. One attempt.

        Raises:
            CompletionError: it cannot be asked, or does not answer in the shape of the API.
        """
        replica = self.pool.replica(base_url)
        try:
            return await self.pool.exchange(replica.models, (), wire.read_models, PROBE_SECONDS)
        except Trouble as trouble:
            raise as_error(trouble, replica.where) from trouble

    async def count_tokens(self, text: str, base_url: str) -> TokenCount:
        """How the server at `base_url` tokenizes a text prompt, without a BOS where it can be told so.

        Spelled-out control tokens become control tokens there. One attempt; one token is generated.

        Raises:
            CompletionError: it cannot be asked, or does not answer in the shape of the API.
        """
        dialect = await self.negotiate()
        replica = self.pool.replica(base_url)
        fields = {"model": self.options.model, "prompt": text, "max_tokens": 1, "temperature": 0.0}
        if dialect.extensions:
            fields |= {"add_special_tokens": False, "return_token_ids": True}
        try:
            body = [orjson.dumps(fields)]
            return await self.pool.exchange(replica.completions, body, wire.read_token_count, PROBE_SECONDS)
        except Trouble as trouble:
            raise as_error(trouble, replica.where) from trouble

    async def ask(self, replica: Replica, prompt: Prompt, max_tokens: int, seed: int | None) -> Completion:
        """One attempt at a completion, when the gate of `replica` lets it through.

        Raises:
            Trouble: it failed.
        """
        dialect = self._dialect or await self._speak()

        async def send() -> tuple[Completion, int]:
            json = prompt.json() if dialect.ids_in else (self._text(prompt.ids, dialect),)
            body = wire.request_body(self._head, json, max_tokens, seed)
            return await self.pool.exchange(
                replica.completions, body, lambda raw: wire.read_reply(raw, max_tokens, dialect.ids_out)
            )

        return await self.pool.attempt(replica, send)

    async def open(
        self, replica: Replica, prompt: Prompt, chunk: int, most: int, seed: int | None
    ) -> Turn | None:
        """One attempt at a stream of as many chunks as `most` tokens allow; None where servers do not stream.

        Raises:
            Trouble: it failed.
        """
        ids_out = self._streams or await self._find_streams()
        if ids_out is IdsOut.NONE:
            return None
        place = await self.pool.enter(replica)
        try:
            body = wire.request_body(self._stream_head, prompt.json(), ahead(chunk, most), seed)
            connection = await self.pool.open(replica.completions, body)
        except BaseException as error:
            if isinstance(error, Trouble):
                place.failed(error)
            place.leave()
            raise
        stream = CompletionStream(ahead(chunk, most), ids_out, self.options.api_key)
        return Turn(prompt, place, connection, stream)

    async def _find_streams(self) -> IdsOut:
        dialect = await self._speak()
        plain = not (dialect.ids_in and dialect.extensions)
        ids_out = IdsOut.NONE if plain else await self._stream_negotiation.settle()
        self._stream_head = self._streaming(dialect, ids_out)
        self._streams = ids_out
        return ids_out

    def _streaming(self, dialect: Dialect, ids_out: IdsOut) -> bytes:
        spoken = replace(dialect, ids_out=ids_out)
        return wire.request_head(self.options.model, self.options.sampling, spoken, stream=True)

    async def _try_stream(self, replica: Replica, ids_out: IdsOut) -> IdsOut:
        """Ask for two tokens in a stream, and see whether their ids are told."""
        if ids_out is IdsOut.NONE:
            return ids_out
        ids = self._tokenizer.encode(PROBE_TEXT) if self._tokenizer else [1, 2]
        head = self._streaming(await self._speak(), ids_out)
        body = wire.request_body(head, (orjson.dumps(ids),), PROBE_TOKENS, None)
        try:
            await self.pool.exchange(replica.completions, body, partial(read_stream, ids_out), PROBE_SECONDS)
        except Trouble as trouble:
            # It understood the same request without a stream: what it refuses or garbles now is the stream.
            if trouble.refused or trouble.kind in NO_STREAM:
                raise Trouble("wrong_shape", trouble.detail) from None
            raise
        return ids_out

    async def _speak(self) -> Dialect:
        if self._dialect is None:
            dialect = await self._negotiation.settle()
            self._head = wire.request_head(self.options.model, self.options.sampling, dialect)
            self._dialect = dialect
        return self._dialect

    async def _try(self, replica: Replica, rung: Dialect) -> Dialect:
        """Ask for one token in a dialect; with text, see whether a BOS is put before it."""
        ids = self._tokenizer.encode(PROBE_TEXT) if self._tokenizer else [1, 2]
        prompt = orjson.dumps(ids if rung.ids_in else PROBE_TEXT)
        head = wire.request_head(self.options.model, self.options.sampling, rung)
        body = wire.request_body(head, (prompt,), 1, None)

        def understood(raw: bytes) -> Dialect:
            wire.read_reply(raw, 1, rung.ids_out)
            total = None if rung.ids_in else wire.read_token_count(raw).total
            return replace(rung, adds_bos=not rung.ids_in and total in (None, len(ids) + 1))

        return await self.pool.exchange(replica.completions, body, understood, PROBE_SECONDS)

    def _text(self, ids: Sequence[int], dialect: Dialect) -> bytes:
        """The prompt as JSON text, for a server that takes no ids: decoded whole, at a cost that grows with it."""
        assert self._tokenizer is not None
        text = self._tokenizer.decode(ids)
        return orjson.dumps(wire.without_bos(text) if dialect.adds_bos else text)


class _Asked(NamedTuple):
    """What is asked of a completer at a time."""

    prompt: Prompt
    chunk: int
    most: int
    seed: int | None


class ServerCompleter:
    """One trajectory's way to the model: a `Completer`.

    It asks one replica all the time, and another one only if that dies. With a `seed`, each request has one of its own,
    drawn from it, from the length of the prompt and from how often just that prompt was asked: so a trajectory
    that goes on after a restart draws as it would have, and asking again after an empty completion
    draws anew. A stream has the seed of its first chunk. The deadline bounds waiting for the gate, backing off,
    connecting and reading.

    Where more may be wanted than is asked for, it opens a stream, and reads on in it as long as each prompt is the one
    before and what came; so the server writes while the predictor reads. What breaks off is asked for again from the
    present prompt.
    """

    def __init__(self, engine: ServerEngine, seed: int | None, deadline: float | None) -> None:
        self._engine = engine
        self._turn: Turn | None = None
        self._seed = seed
        self._deadline = deadline
        self._way = Way(engine.pool)
        self._asked = (0, 0)

    async def __call__(self, prompt: Prompt, max_tokens: int, most: int | None = None) -> Completion:
        """Continue `prompt` by at most `max_tokens` tokens. What is empty comes back empty.

        Raises:
            ServerError: every attempt failed.
            RequestError: the server refused the request.
            DeadlineError: the deadline passed.
        """
        self._note(len(prompt))
        if self._turn is not None and self._turn.holds(prompt, max_tokens):  # nothing to wait for, or to fail
            completion = self._turn.take_held(max_tokens)
            if self._turn.exhausted:
                self.let_go()
            return completion
        asked = _Asked(prompt, max_tokens, most or max_tokens, self._request_seed())
        self._way.trouble = None
        asking = self._way.persist(lambda replica: self._attempt(replica, asked))
        if self._deadline is None:
            return await asking
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                return await asking
        except TimeoutError:
            raise self._too_late() from self._way.trouble

    def let_go(self) -> None:
        """Close the stream that is open, if one is."""
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    async def _attempt(self, replica: Replica, asked: _Asked) -> Completion:
        """Read on in the stream that is open if it goes on from the prompt; else ask anew."""
        if self._turn is None or not self._turn.goes_on(asked.prompt):
            self.let_go()
            if asked.most > asked.chunk:
                self._turn = await self._engine.open(replica, *asked)
        if self._turn is None:
            return await self._engine.ask(replica, asked.prompt, asked.chunk, asked.seed)
        whole = False
        try:
            completion = await self._turn.take(asked.chunk)
            whole = not self._turn.exhausted
        finally:
            if not whole:
                self.let_go()
        return completion

    def _note(self, length: int) -> None:
        before, again = self._asked
        self._asked = (length, again + 1 if length == before else 0)

    def _request_seed(self) -> int | None:
        """31 bits: what all servers take as a seed."""
        if self._seed is None:
            return None
        drawn = blake2b(b"%d %d %d" % (self._seed, *self._asked), digest_size=4).digest()
        return int.from_bytes(drawn) >> 1

    def _too_late(self) -> DeadlineError:
        where, trouble = self._way.where, self._way.trouble
        last = f"; the last trouble: {trouble.detail}" if trouble else ""
        return DeadlineError(f"{where}: the trajectory's time is up{last}", where=where, kind="deadline")
