"""An `Engine` over one or several replicas of a model behind OpenAI-compatible completion servers.

The only place that retries a request. A trajectory stays with its replica, whose prefix cache is warm for it, until
that one dies. Knows no HTTP (`transport`) and no JSON (`wire`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TypeVar

import orjson
from yarl import URL

from tessy.adapters.server import wire
from tessy.adapters.server.options import ServerOptions
from tessy.adapters.server.replica import Replica, pick
from tessy.adapters.server.transport import Transport
from tessy.adapters.server.wire import Dialect, ServedModel, TokenCount, Trouble
from tessy.errors import CompletionError, DeadlineError, RequestError, ServerError
from tessy.protocols import Completion, EngineStats, Prompt, Tokenizer

T = TypeVar("T")

log = logging.getLogger(__name__)

PROBE_SECONDS = 120.0
"""The longest that a question about the server, with a token to write, may take. A server may compile at its first."""
PROBE_TEXT = "A student and a teacher."
REQUEST_WORK = 8
"""Tokens' worth of work in a request besides the tokens it writes, for the watch over a server's pace."""

DEADLY = frozenset({"refused", "reset", "unreachable", "unknown_host", "connect_timeout", "timeout"})
"""Troubles that speak of a dead server."""
OVERLOAD = frozenset({"rate_limited", "http_503", "connect_timeout", "timeout"})
"""Troubles that speak of too many requests."""
NOT_UNDERSTOOD = frozenset({"http_400", "http_422", "wrong_shape"})
"""Troubles that speak of a dialect."""


class ServerEngine:
    """Implements `Engine`. Opens its connections at the first request, inside the running loop."""

    def __init__(self, options: ServerOptions, tokenizer: Tokenizer | None = None) -> None:
        """`tokenizer` is the model's own; without it a server must take token ids.

        Raises:
            ConfigError: a base URL is none.
        """
        self.options = options
        self.stats = EngineStats(limit=options.concurrency)
        self.replicas = tuple(Replica(options, wire.api_root(url)) for url in options.base_urls)
        self._tokenizer = tokenizer
        self._transport = Transport(options)
        self._dialect: Dialect | None = None
        self._head = b""
        self._negotiation: asyncio.Task[None] | None = None

    def completer(self, key: str, *, seed: int | None, deadline: float | None) -> ServerCompleter:
        """The completer of the trajectory `key`; `ServerCompleter` says what it does with seed and deadline."""
        return ServerCompleter(self, seed, deadline)

    async def close(self) -> None:
        """Close all connections."""
        if self._negotiation is not None and not self._negotiation.done():
            self._negotiation.cancel()
            await asyncio.wait([self._negotiation])
        await self._transport.close()

    async def negotiate(self) -> Dialect:
        """What all replicas that answer understand: found out once, then remembered.

        Raises:
            ServerError: none answers.
            RequestError: one refuses even the plainest request (a wrong model name, a wrong key …).
        """
        try:
            return await self.speak()
        except Trouble as trouble:
            raise as_error(trouble, trouble.where) from trouble

    async def models(self, base_url: str) -> list[ServedModel]:
        """What the server at `base_url` (one of the options') serves. One attempt.

        Raises:
            CompletionError: it cannot be asked, or does not answer in the shape of the API.
        """
        replica = self._replica(base_url)
        try:
            return await self._exchange(replica.models, (), wire.read_models, PROBE_SECONDS)
        except Trouble as trouble:
            raise as_error(trouble, replica.where) from trouble

    async def count_tokens(self, text: str, base_url: str) -> TokenCount:
        """How the server at `base_url` tokenizes a text prompt, without a BOS where it can be told so.

        Spelled-out control tokens become control tokens there. One attempt; one token is generated.

        Raises:
            CompletionError: it cannot be asked, or does not answer in the shape of the API.
        """
        dialect = await self.negotiate()
        replica = self._replica(base_url)
        fields = {"model": self.options.model, "prompt": text, "max_tokens": 1, "temperature": 0.0}
        if dialect.extensions:
            fields |= {"add_special_tokens": False, "return_token_ids": True}
        try:
            body = [orjson.dumps(fields)]
            return await self._exchange(replica.completions, body, wire.read_token_count, PROBE_SECONDS)
        except Trouble as trouble:
            raise as_error(trouble, replica.where) from trouble

    async def speak(self) -> Dialect:
        """The dialect. All who ask while it is being found out wait for the same answer.

        Raises:
            Trouble: it could not be found out.
        """
        if self._dialect is None:
            if self._negotiation is None or self._negotiation.done():
                self._negotiation = asyncio.create_task(self._negotiate())
                self._negotiation.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._negotiation)
            assert self._dialect is not None
        return self._dialect

    async def ask(self, replica: Replica, prompt: Prompt, max_tokens: int, seed: int | None) -> Completion:
        """One attempt at a completion, when the gate of `replica` lets it through.

        Raises:
            Trouble: it failed.
        """
        dialect = self._dialect or await self.speak()
        gate = replica.gate
        await gate.enter()
        self.stats.in_flight += 1
        started = time.monotonic()
        try:
            json = prompt.json() if dialect.ids_in else self._text(prompt.ids, dialect)
            body = wire.request_body(self._head, json, max_tokens, seed)
            completion, generated = await self._exchange(
                replica.completions, body, lambda raw: wire.read_reply(raw, max_tokens, dialect.ids_out)
            )
            replica.answered()
            gate.succeeded(started, time.monotonic(), REQUEST_WORK + generated)
        except Trouble as trouble:
            if trouble.kind in DEADLY:
                replica.failed(started, time.monotonic())
            if trouble.kind in OVERLOAD:
                gate.overloaded(started, time.monotonic())
            raise
        finally:
            gate.leave()
            self.stats.in_flight -= 1
            self.stats.limit = self._limit()
        self.stats.requests += 1
        self.stats.generated += generated
        return completion

    def _limit(self) -> int:
        """Requests that may be in flight now, to all living replicas."""
        limits = [replica.gate.limit for replica in self.replicas if not replica.dead]
        return min(self.options.concurrency, sum(limits))

    def _replica(self, base_url: str) -> Replica:
        root = wire.api_root(base_url)
        return next(replica for replica in self.replicas if replica.root == root)

    async def _exchange(
        self, url: URL, body: Sequence[bytes], read: Callable[[bytes], T], seconds: float | None = None
    ) -> T:
        """One request and its reply, as `read` reads it; a server may repeat the key in what is no completion."""
        raw = await self._transport.fetch(url, body, seconds)
        try:
            return read(raw)
        except Trouble as trouble:
            trouble.blot(self.options.api_key)
            raise

    async def _negotiate(self) -> None:
        rungs = [rung for rung in wire.LADDER if rung.ids_in or self._tokenizer]
        answered, silent = False, None
        for replica in self.replicas:
            try:
                rungs = await self._step_down(replica, rungs)
                answered = True
            except Trouble as trouble:
                trouble.where = replica.where
                if trouble.refused:
                    raise
                silent = trouble
        if silent is not None and not answered:
            raise silent
        self._dialect = rungs[0]
        self._head = wire.request_head(self.options.model, self.options.sampling, rungs[0])
        log.info("%s is asked in the dialect %s", self.replicas[0].where, rungs[0])

    async def _step_down(self, replica: Replica, rungs: Sequence[Dialect]) -> list[Dialect]:
        """The rungs from the first that the replica understands."""
        trouble = None
        for n, rung in enumerate(rungs):
            try:
                return [await self._try(replica, rung), *rungs[n + 1 :]]
            except Trouble as error:
                if error.kind not in NOT_UNDERSTOOD:
                    raise
                trouble = error
                log.info("%s refuses %s: %s", replica.where, rung, error.detail)
        assert trouble is not None
        raise trouble

    async def _try(self, replica: Replica, rung: Dialect) -> Dialect:
        """Ask for one token in a dialect; with text, see whether a BOS is put before it."""
        ids = self._tokenizer.encode(PROBE_TEXT) if self._tokenizer else [1, 2]
        prompt = orjson.dumps(ids if rung.ids_in else PROBE_TEXT)
        head = wire.request_head(self.options.model, self.options.sampling, rung)
        body = wire.request_body(head, prompt, 1, None)

        def understood(raw: bytes) -> Dialect:
            wire.read_reply(raw, 1, rung.ids_out)
            total = None if rung.ids_in else wire.read_token_count(raw).total
            return replace(rung, adds_bos=not rung.ids_in and total in (None, len(ids) + 1))

        return await self._exchange(replica.completions, body, understood, PROBE_SECONDS)

    def _text(self, ids: Sequence[int], dialect: Dialect) -> bytes:
        """The prompt as JSON text, for a server that takes no ids: decoded whole, at a cost that grows with it."""
        assert self._tokenizer is not None
        text = self._tokenizer.decode(ids)
        return orjson.dumps(wire.without_bos(text) if dialect.adds_bos else text)


class ServerCompleter:
    """One trajectory's way to the model: a `Completer`.

    It asks one replica all the time, and another one only if that dies. With a `seed`, each request has one of its own,
    drawn from it, from the length of the prompt and from how often just that prompt was asked: so a trajectory
    that goes on after a restart draws as it would have, and asking again after an empty completion
    draws anew. The deadline bounds waiting for the gate, backing off, connecting and reading.
    """

    def __init__(self, engine: ServerEngine, seed: int | None, deadline: float | None) -> None:
        self._engine = engine
        self._seed = seed
        self._deadline = deadline
        self._replica: Replica | None = None
        self._asked = (0, 0)
        self._trouble: Trouble | None = None

    async def __call__(self, prompt: Prompt, max_tokens: int) -> Completion:
        """Continue `prompt` by at most `max_tokens` tokens. What is empty comes back empty.

        Raises:
            ServerError: every attempt failed.
            RequestError: the server refused the request.
            DeadlineError: the deadline passed.
        """
        seed = self._request_seed(len(prompt.ids))
        if self._deadline is None:
            return await self._persist(prompt, max_tokens, seed)
        self._trouble = None
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                return await self._persist(prompt, max_tokens, seed)
        except TimeoutError:
            raise self._too_late() from self._trouble

    async def _persist(self, prompt: Prompt, max_tokens: int, seed: int | None) -> Completion:
        """Attempt it until it succeeds, or there is no use."""
        options = self._engine.options
        timeouts = 0
        for attempt in range(1, options.retries + 2):
            replica = self._pinned()
            try:
                return await self._engine.ask(replica, prompt, max_tokens, seed)
            except Trouble as trouble:
                timeouts += trouble.kind == "timeout"
                if trouble.refused or timeouts > 1 or attempt > options.retries:
                    raise as_error(trouble, trouble.where or replica.where, attempt) from trouble
                # Without its frames, which hold this completer: it shall be gone when its trajectory is.
                self._trouble = trouble.with_traceback(None)
                log.debug("%s: %s; attempt %d", replica.where, trouble.detail, attempt)
            self._engine.stats.retries += 1
            asked = self._trouble.retry_after
            jitter = random.random()
            await asyncio.sleep(wire.backoff(attempt, options.backoff, options.backoff_cap, asked, jitter))
        raise AssertionError("the last attempt returns or raises")

    def _pinned(self) -> Replica:
        """The trajectory's replica, another one if it died."""
        if self._replica is None or self._replica.dead:
            if self._replica is not None:
                self._replica.pinned.discard(self)
            self._replica = pick(self._engine.replicas, time.monotonic())
            self._replica.pinned.add(self)
        return self._replica

    def _request_seed(self, length: int) -> int | None:
        """31 bits: what all servers take as a seed."""
        if self._seed is None:
            return None
        before, again = self._asked
        self._asked = (length, again + 1 if length == before else 0)
        drawn = blake2b(b"%d %d %d" % (self._seed, *self._asked), digest_size=4).digest()
        return int.from_bytes(drawn) >> 1

    def _too_late(self) -> DeadlineError:
        where = self._replica.where if self._replica else self._engine.replicas[0].where
        last = f"; the last trouble: {self._trouble.detail}" if self._trouble else ""
        return DeadlineError(f"{where}: the trajectory's time is up{last}", where=where, kind="deadline")


def as_error(trouble: Trouble, where: str, attempts: int = 1) -> CompletionError:
    """What the callers of this adapter are told."""
    kind = RequestError if trouble.refused else ServerError
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    return kind(f"{where}: {trouble.detail}{tried}", where=where, kind=trouble.kind)
