"""A simulated server: an API process that does one thing at a time, an engine that batches, a prefix cache.

An engine goes from iteration to iteration, each as long as its rows, prompt tokens and the context that they read make
it take. Prompts are computed in parts within a budget of tokens, or whole; what the cache holds of them in whole blocks
is not computed again; rows that have no room to grow are sent back to wait.

Knows nothing of who asks. Times are in seconds, lengths in tokens.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf

from simulation import Core, Loop, Worker


@dataclass(frozen=True)
class Rates:
    """What one server takes for what it does.

    An iteration with R rows that draw a token, P prompt tokens and K tokens of context takes
    fixed + max(weights + experts·(1 − (1 − share)^(R+P)), token·(R + P)) + row·R + kv·K seconds: weights are read
    once, of the experts those that any token is sent to, and computing hides behind reading or the other way round.
    """

    fixed: float = 0.0
    weights: float = 0.0
    experts: float = 0.0
    share: float = 0.0
    """Of the experts that one token is sent to."""
    token: float = 0.0
    row: float = 0.0
    kv: float = 0.0
    request: float = 0.0
    """In the API process, for a request, whatever it generates."""
    prompt: float = 0.0
    """In the API process, for a token of its prompt, cached or not."""
    text: float = 0.0
    """The same on top where the prompt comes as text."""
    event: float = 0.0
    """In the API process, for a streamed event."""
    stop: float = 0.0
    """In the API process, for a connection that is closed."""
    interval: int = 1
    """Tokens in a streamed event."""
    block: int = 16
    cache: float = inf
    """Tokens that the KV cache holds."""
    seqs: int = 1024
    """Most rows of an iteration."""
    budget: int = 8192
    """Most tokens of an iteration."""
    chunked: bool = True
    """Whether a prompt may be computed in parts."""
    lag: int = 1
    """Iterations that are planned already when the engine hears, during one, that a request is to stop."""
    apis: int = 1
    """API processes that share the requests."""

    def iteration(self, rows: int, prompt: int, context: float) -> float:
        """Seconds that an iteration takes."""
        tokens = rows + prompt
        touched = 1 - (1 - self.share) ** tokens
        read, computed = self.weights + self.experts * touched, self.token * tokens
        return self.fixed + max(read, computed) + self.row * rows + self.kv * context


class Cache:
    """Whose tokens' keys and values a server holds: those of rows that run, and of others until room is needed."""

    def __init__(self, size: float, block: int) -> None:
        self._size, self._block = size, block
        self._held: OrderedDict[Hashable, int] = OrderedDict()
        self._idle = 0
        self.used = 0

    def hold(self, key: Hashable, tokens: int) -> None:
        """Keep these for later, as long as there is room; what is oldest goes first."""
        self._idle += tokens - self._held.pop(key, 0)
        self._held[key] = tokens
        self.fit()

    def take(self, key: Hashable, prompt: int, same: int, spare: int) -> int | None:
        """Room for a prompt that begins as what is held does, for `same` tokens; how many are found, in whole blocks.

        None: it does not fit beside what runs, with `spare` tokens to grow.
        """
        if self.used and self.used + prompt + spare > self._size:
            return None
        held = self._held.pop(key, 0)
        self._idle -= held
        self.used += prompt
        self.fit()
        return min(held, same, prompt - 1) // self._block * self._block

    def release(self, key: Hashable, tokens: int) -> None:
        """A row of that length has ended. Its last token was drawn, not read."""
        self.used -= tokens
        self.hold(key, tokens - 1)

    def fit(self) -> bool:
        """Give up what is oldest, from its end, until all fits; whether it does."""
        over = self.used + self._idle - self._size
        while over > 0 and self._held:
            key = next(iter(self._held))
            cut = int(min(over + self._block, self._held[key]))
            self._held[key] -= cut
            self._idle -= cut
            over -= cut
            if not self._held[key]:
                del self._held[key]
        return over <= 0


@dataclass(eq=False, slots=True)
class Request:
    """One completion. Lengths in tokens."""

    key: Hashable
    """Whose: requests of one trajectory find each other's tokens in the cache."""
    prompt: int
    same: int
    """So much of the prompt is what this server has seen of the trajectory."""
    most: int
    look: int
    """Tell each time that so many tokens have come; 0: at the end only, unstreamed."""
    tell: Callable[[int], None]
    """Called with the number of tokens so far, when the API process has written them."""
    text: bool = False
    left: int = 0
    """Prompt tokens that are still to be computed."""
    done: int = 0
    """Tokens that had been drawn before it was last admitted."""
    base: int = -1
    """Iteration before the one that drew its first token since; -1: it draws none yet."""
    told: int = 0
    due: int = 0
    """Iteration after which there is next something to tell."""
    heard: int = 0
    """Tokens that had been drawn when it was to stop."""
    api: Worker | None = None


class Server:
    """One replica: an API process and an engine that batches continuously."""

    def __init__(
        self, loop: Loop, rates: Rates, core: Core | None = None, api_cores: Sequence[Core] = ()
    ) -> None:
        """`api_cores`: where the API process computes, if it takes time from something simulated."""
        self.rates = rates
        self.core = core or Core(loop)
        self.cache = Cache(rates.cache, rates.block)
        self.apis = [Worker(loop, api_cores) for _ in range(rates.apis)]
        self._loop = loop
        self._iteration = 0
        self._active = False
        self._waiting: deque[Request] = deque()
        self._reading: list[Request] = []
        self._rows: dict[Request, None] = {}
        self._streamed = 0
        self._context = 0
        self._due: list[tuple[int, int, Request]] = []
        self._number = count()
        self._stopping: list[tuple[int, Request]] = []
        self.requests = self.generated = self.prompted = self.computed = self.preempted = 0
        self.unseen = 0
        """Of what is generated, what was drawn after a request was to stop: a real server does not count it."""

    # --- what a client does -------------------------------------------------------------------------------------

    def ask(self, request: Request) -> None:
        """Hand a request to the API process."""
        self.requests += 1
        self.prompted += request.prompt
        rates = self.rates
        seconds = rates.request + request.prompt * (rates.prompt + (rates.text if request.text else 0.0))
        request.api = self.apis[self.requests % len(self.apis)]
        request.api.do(seconds, lambda: self._arrive(request))

    def stop(self, request: Request) -> None:
        """Close its connection: it goes on until the engine hears of it."""
        assert request.api is not None
        request.api.do(self.rates.stop, lambda: self._hear(request))

    def _arrive(self, request: Request) -> None:
        self._waiting.append(request)
        self._wake()

    def _hear(self, request: Request) -> None:
        request.heard = self._drawn(request) if request in self._rows else request.done
        self._stopping.append((self._iteration + (1 + self.rates.lag if self._active else 0), request))
        self._wake()

    def _wake(self) -> None:
        if not self._active:
            self._begin()

    # --- iterations ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Plan an iteration, and compute it if there is anything in it."""
        self._drop_stopped()
        shares = self._admit(self.rates.budget - len(self._rows))
        prompt = sum(shares)
        self._active = bool(self._rows or prompt)
        if not self._active:
            return
        ready = []
        for request, share in zip(self._reading, shares, strict=False):
            request.left -= share
            if not request.left:
                ready.append(request)
        self.computed += prompt
        read = self._context + sum(request.prompt for request in self._reading[: len(shares)])
        rows = len(self._rows) + len(ready)
        self.core.run(self.rates.iteration(rows, prompt - len(ready), read), lambda: self._end(ready))

    def _drop_stopped(self) -> None:
        late = []
        for when, request in self._stopping:
            if when <= self._iteration or request not in self._rows:
                self._forget(request)
            else:
                late.append((when, request))
        self._stopping = late

    def _forget(self, request: Request) -> None:
        if request in self._rows:
            self.unseen += self._drawn(request) - request.heard
            self._release(request)
        elif request in self._reading:
            self._reading.remove(request)
            self.cache.release(request.key, request.prompt + request.done - request.left + 1)
            self.cache.used -= request.left - 1
        elif request in self._waiting:
            self._waiting.remove(request)

    def _admit(self, budget: int) -> list[int]:
        """Let in what fits; how many prompt tokens of each are computed in this iteration."""
        shares: list[int] = []
        for request in self._reading:
            shares.append(min(request.left, budget))
            budget -= shares[-1]
        while self._waiting and budget > 0 and len(self._rows) + len(self._reading) < self.rates.seqs:
            request = self._waiting[0]
            length = request.prompt + request.done
            found = self.cache.take(
                request.key, length, max(request.same, request.done and length), 2 * self.rates.block
            )
            if found is None:
                break
            request.left = length - found
            if request.left > budget and not self.rates.chunked and shares:
                self.cache.release(request.key, found + 1)
                self.cache.used -= length - found - 1
                break
            self._waiting.popleft()
            self._reading.append(request)
            shares.append(min(request.left, budget) if self.rates.chunked else request.left)
            budget -= shares[-1]
        return [share for share in shares if share > 0]

    def _end(self, ready: Sequence[Request]) -> None:
        """Every row has a token more; tell of those that are due."""
        self._iteration += 1
        for request in ready:
            self._reading.remove(request)
            self._rows[request] = None
            request.base = self._iteration - 1
            self._context += request.prompt + request.done
            self._streamed += request.look > 0
            self._note(request)
        rows = len(self._rows)
        self.generated += rows
        self._context += rows
        self.cache.used += rows
        if self._streamed:
            for api in self.apis:
                api.do(self.rates.event * self._streamed / self.rates.interval / len(self.apis))
        while self._due and self._due[0][0] <= self._iteration:
            due, _, request = heapq.heappop(self._due)
            if request in self._rows and due == request.due:
                self._tell(request)
        if not self.cache.fit():
            self._preempt()
        self._begin()

    def _drawn(self, request: Request) -> int:
        return request.done + self._iteration - request.base

    def _note(self, request: Request) -> None:
        """When there is next something to tell of it."""
        after = request.most
        if request.look:
            interval = self.rates.interval
            after = min(after, -(-(request.told + request.look) // interval) * interval)
        request.due = request.base + after - request.done
        heapq.heappush(self._due, (request.due, next(self._number), request))

    def _tell(self, request: Request) -> None:
        drawn = self._drawn(request)
        if request.look:
            request.told += request.look
        if drawn >= request.most:
            self._release(request)
        else:
            self._note(request)
        assert request.api is not None
        request.api.do(0.0, lambda: request.tell(drawn))

    def _release(self, request: Request) -> None:
        length = request.prompt + self._drawn(request)
        del self._rows[request]
        self._streamed -= request.look > 0
        self._context -= length
        self.cache.release(request.key, length)

    def _preempt(self) -> None:
        """Send the newest rows back to wait, as there is no room to grow."""
        while len(self._rows) > 1 and not self.cache.fit():
            request = next(reversed(self._rows))
            drawn = self._drawn(request)
            self._release(request)
            request.done, request.base = drawn, -1
            self._waiting.appendleft(request)
            self.preempted += 1
