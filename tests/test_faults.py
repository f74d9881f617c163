"""What a server can do wrong, each on a real socket: what is asked again, what is said, and that nothing is leaked."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from runs import IMPATIENT
from tessy.adapters.fakes import ByteTokenizer, FakeServer, Fault, ScriptedModel, Traits
from tessy.adapters.server import ServerEngine, ServerOptions
from tessy.core.prompt import TokenBuffer
from tessy.errors import CompletionError, DeadlineError, RequestError, ServerError
from tessy.protocols import Completion

MODEL = ScriptedModel(ByteTokenizer())
PROMPT = TokenBuffer(MODEL.tokenizer.encode_markup("<|im_start|>user\nWhy?<|im_end|>\n<think>\n"))
EXPECTED = MODEL.write(PROMPT.ids, 20)
SECRET = "sk-very-secret"

QUICK: dict[str, Any] = {
    **IMPATIENT,
    "api_key": SECRET,
}


@asynccontextmanager
async def engine_at(*urls: str, **options: Any) -> AsyncIterator[ServerEngine]:
    engine = ServerEngine(ServerOptions("scripted", urls, **(QUICK | options)), MODEL.tokenizer)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def faulty(
    fault: Callable[[int], Fault | None], **options: Any
) -> AsyncIterator[tuple[FakeServer, ServerEngine]]:
    """A server with faults, and an engine over it."""
    async with FakeServer(MODEL, fault=fault) as server, engine_at(server.base_url, **options) as engine:
        yield server, engine


async def ask(engine: ServerEngine, seconds: float | None = None) -> Completion:
    deadline = None if seconds is None else time.monotonic() + seconds
    return await engine.completer("t", seed=None, deadline=deadline)(PROMPT, 20)


def after(good: int, fault: Fault, times: int = 10**9) -> Callable[[int], Fault | None]:
    """A fault `times` times, after some good requests (the first is the negotiation)."""
    return lambda number: fault if good < number <= good + times else None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def json_fault(data: object) -> Fault:
    return Fault(body=orjson.dumps(data))


RESET = Fault(reset=True)
NO_JSON = Fault(body=b"<html>\x1b[31mBad Gateway</html>")
TRANSIENT = {
    "reset": RESET,
    "http_500": Fault.error(500, "EngineCore encountered an issue"),
    "http_503": Fault.error(503, "Service Unavailable"),
    "http_502": Fault(502, b"<html>Bad Gateway</html>"),
    "rate_limited": Fault.error(429, "slow down", Retry_After="0.02"),
    "not_json": NO_JSON,
    "wrong_shape": json_fault({"choices": [{"text": 3}]}),
    "aborted": json_fault({"choices": [{"text": "", "finish_reason": "abort"}]}),
}


def check_message(error: CompletionError, kind: str, where: str) -> None:
    """One printable line that names model and server and holds no secret."""
    message = str(error)
    assert error.kind == kind
    assert error.where == where
    assert message.startswith(f"{where}: ")
    assert message.isprintable()
    assert len(message) < 500
    chain: BaseException | None = error
    while chain is not None:
        assert SECRET not in str(chain) + repr(chain)
        chain = chain.__cause__ or chain.__context__


@pytest.mark.parametrize("kind", TRANSIENT)
async def test_what_passes_is_asked_again(kind: str) -> None:
    async with faulty(after(1, TRANSIENT[kind], times=2)) as (server, engine):
        assert await ask(engine) == EXPECTED
        assert engine.stats.retries == 2
        assert engine.stats.requests == 1
        assert server.requests == 1 + 3
        assert engine.stats.in_flight == 0


@pytest.mark.parametrize("kind", TRANSIENT)
async def test_what_lasts_is_one_error_after_the_retries(kind: str) -> None:
    async with faulty(after(1, TRANSIENT[kind]), role="student") as (server, engine):
        with pytest.raises(ServerError, match="4 attempts") as caught:
            await ask(engine)
        check_message(caught.value, kind, f"student model scripted at {server.base_url}")
        assert server.requests == 1 + 4
        assert engine.stats.in_flight == 0
        assert engine.stats.requests == 0


@pytest.mark.parametrize("kind", [*TRANSIENT, "refused"])
async def test_trouble_at_the_first_request_is_asked_again_too(kind: str) -> None:
    server = FakeServer(MODEL, port=free_port())
    if kind != "refused":
        server.fault = after(0, TRANSIENT[kind], times=1)
        await server.start()
    async with engine_at(server.base_url) as engine:
        asking = asyncio.create_task(ask(engine))
        if kind == "refused":
            await asyncio.sleep(0.01)
            await server.start()
        completion = await asking
    # A server whose first answer was of the wrong shape may be asked in a plainer dialect.
    assert completion.text == EXPECTED.text
    await server.stop()


async def test_refused() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with engine_at(url) as engine:
        with pytest.raises(ServerError, match="connection refused") as caught:
            await ask(engine)
        check_message(caught.value, "refused", f"model scripted at {url}")
        for probe in (engine.negotiate(), engine.models(url), engine.count_tokens("a", url)):
            with pytest.raises(ServerError, match="connection refused") as caught:
                await probe
            check_message(caught.value, "refused", f"model scripted at {url}")


async def test_a_server_that_never_answers_is_asked_twice() -> None:
    async with faulty(after(1, Fault(hang=True)), read_timeout=0.1) as (server, engine):
        with pytest.raises(ServerError, match=r"no answer within 0\.1 s \(2 attempts\)") as caught:
            await ask(engine)
        check_message(caught.value, "timeout", f"model scripted at {server.base_url}")
        assert server.requests == 1 + 2


async def test_a_server_that_accepts_no_connection() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/v1"
        async with engine_at(url, connect_timeout=0.1, retries=1) as engine:
            with pytest.raises(ServerError, match=r"no connection within 0\.1 s") as caught:
                await ask(engine)
            check_message(caught.value, "connect_timeout", f"model scripted at {url}")
        for filler in fillers:
            filler.close()


@asynccontextmanager
async def raw_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], scheme: str = "http"
) -> AsyncIterator[str]:
    """The URL of a socket at which `talk` answers, in whatever is no HTTP."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_a_body_that_stalls_is_a_timeout() -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await reader.read()
        writer.close()

    async with raw_server(stall) as url, engine_at(url, read_timeout=0.1) as engine:
        with pytest.raises(ServerError, match="no answer") as caught:
            await ask(engine)
        check_message(caught.value, "timeout", f"model scripted at {url}")


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 100_000])
async def test_what_is_no_http(garbage: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await reader.read()
        writer.close()

    async with raw_server(talk) as url, engine_at(url, retries=1) as engine:
        with pytest.raises(ServerError, match="no HTTP") as caught:
            await engine.negotiate()
        check_message(caught.value, "bad_http", f"model scripted at {url}")


async def test_https_where_there_is_only_http() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with raw_server(refuse, scheme="https") as url, engine_at(url, retries=0) as engine:
        with pytest.raises(ServerError, match="no secure connection") as caught:
            await ask(engine)
        check_message(caught.value, "tls", f"model scripted at {url}")


@pytest.mark.parametrize("asked", ["0.3", "100"])
async def test_retry_after_is_honoured_up_to_the_cap(asked: str) -> None:
    fault = Fault.error(429, "slow down", Retry_After=asked)
    async with faulty(after(1, fault, times=1), backoff_cap=0.3) as (_server, engine):
        await engine.negotiate()
        started = time.monotonic()
        assert await ask(engine) == EXPECTED
        assert time.monotonic() - started >= 0.3


async def test_an_empty_completion_is_no_error() -> None:
    empty = {"text": "", "finish_reason": "stop", "logprobs": {"tokens": []}}
    async with faulty(after(1, json_fault({"choices": [empty]}))) as (_server, engine):
        assert await ask(engine) == Completion((), "", True)
        assert (engine.stats.requests, engine.stats.retries) == (1, 0)


REFUSED = {
    "http_400": Fault.error(400, "maximum context length is\n 4096 tokens"),
    "http_401": Fault.error(401, f"Incorrect API key provided: {SECRET}"),
    "http_403": Fault(403, f"no\x1b[2J {SECRET} {'x' * 5000}".encode()),
    "http_404": Fault.error(404, "The model `scripted` does not exist."),
    "http_422": Fault(422, b'{"detail": [{"loc": ["body"], "msg": "bad"}]}'),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_refusal_is_not_asked_again(kind: str) -> None:
    async with faulty(after(1, REFUSED[kind])) as (server, engine):
        await engine.negotiate()
        with pytest.raises(RequestError) as caught:
            await ask(engine)
        check_message(caught.value, kind, f"model scripted at {server.base_url}")
        assert server.requests == 2
        assert engine.stats.retries == 0


async def test_an_unknown_model_is_one_line_at_the_start() -> None:
    async with FakeServer(MODEL, name="other") as server, engine_at(server.base_url) as engine:
        with pytest.raises(RequestError, match="The model `scripted` does not exist") as caught:
            await engine.negotiate()
        check_message(caught.value, "http_404", f"model scripted at {server.base_url}")
        assert server.requests == 1


async def test_a_server_that_refuses_everything_is_one_line_at_the_start() -> None:
    async with faulty(after(0, REFUSED["http_400"])) as (server, engine):
        with pytest.raises(RequestError, match="maximum context length is 4096 tokens") as caught:
            await engine.negotiate()
        check_message(caught.value, "http_400", f"model scripted at {server.base_url}")


async def test_a_wrong_key_is_told_without_the_key() -> None:
    async with FakeServer(MODEL, traits=Traits(api_key="another")) as server:
        async with engine_at(server.base_url) as engine:
            for probe in (engine.negotiate(), engine.models(server.base_url), ask(engine)):
                with pytest.raises(RequestError, match="Unauthorized") as caught:
                    await probe
                check_message(caught.value, "http_401", f"model scripted at {server.base_url}")
            assert SECRET not in repr(engine.options) + repr(engine) + repr(vars(engine))
        async with engine_at(server.base_url, api_key="another") as engine:
            assert await ask(engine) == EXPECTED


@pytest.mark.parametrize(
    "body", [b"key " + SECRET.encode(), orjson.dumps({"error": SECRET}), orjson.dumps({"choices": SECRET})]
)
async def test_a_key_in_what_is_no_completion_is_not_repeated(body: bytes) -> None:
    async with faulty(after(1, Fault(body=body)), retries=0) as (server, engine):
        with pytest.raises(ServerError, match=r"\*\*\*") as caught:
            await ask(engine)
        check_message(caught.value, caught.value.kind, f"model scripted at {server.base_url}")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with FakeServer(MODEL) as other:
        location = other.base_url.replace("http://", f"http://user:{SECRET}@") + "/completions"
        fault = Fault(status, headers={"Location": location})
        async with FakeServer(MODEL, fault=after(0, fault)) as server, engine_at(server.base_url) as engine:
            with pytest.raises(RequestError, match=f"redirects to 127.0.0.1:{other.port}") as caught:
                await ask(engine)
            check_message(caught.value, "redirect", f"model scripted at {server.base_url}")
            assert other.requests == 0


@pytest.mark.parametrize("status", [200, 500])
async def test_a_huge_body_is_not_read_to_its_end(status: int) -> None:
    fault = Fault(status, b'{"choices": "' + b"x" * 5_000_000)
    async with faulty(after(1, fault), max_reply_bytes=100_000, retries=0) as (server, engine):
        with pytest.raises(CompletionError) as caught:
            await ask(engine)
        kind = "too_large" if status == 200 else "http_500"
        check_message(caught.value, kind, f"model scripted at {server.base_url}")


async def test_a_packed_body_that_unpacks_to_a_huge_one_is_not_read_to_its_end() -> None:
    fault = Fault(body=gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"})
    async with faulty(after(1, fault), max_reply_bytes=1_000_000) as (server, engine):
        with pytest.raises(CompletionError, match="more than 1000000 bytes"):
            await ask(engine)
        assert server.requests == 2


async def test_a_connection_that_the_server_closed_between_requests_costs_one_retry() -> None:
    async with FakeServer(MODEL) as server, engine_at(server.base_url) as engine:
        await ask(engine)
        await server.stop()
        await server.start()
        assert await ask(engine) == EXPECTED
        assert engine.stats.retries <= 1


# --- deadlines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        (Fault(hang=True), ""),
        (Fault.error(429, "slow down", Retry_After="50"), "HTTP 429: slow down"),
        (Fault.error(500, "oh"), "HTTP 500: oh"),
    ],
)
async def test_the_deadline_bounds_reading_and_backing_off(fault: Fault, last: str) -> None:
    async with faulty(after(1, fault), backoff=30.0, backoff_cap=60.0, read_timeout=60.0) as (server, engine):
        await engine.negotiate()
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=f"time is up.*{last}") as caught:
            await ask(engine, seconds=0.5)
        check_message(caught.value, "deadline", f"model scripted at {server.base_url}")
        assert time.monotonic() - started < 20
        assert engine.stats.in_flight == 0


async def test_the_deadline_bounds_waiting_and_no_place_is_lost() -> None:
    async with faulty(after(1, Fault(hang=True)), concurrency=1, read_timeout=60.0) as (server, engine):
        await engine.negotiate()
        results = await asyncio.gather(*(ask(engine, seconds=0.1) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [DeadlineError] * 5
        server.fault = lambda number: None
        assert await ask(engine) == EXPECTED


async def test_a_deadline_that_has_passed() -> None:
    async with FakeServer(MODEL) as server, engine_at(server.base_url) as engine:
        with pytest.raises(DeadlineError):
            await ask(engine, seconds=-1.0)


async def test_cancelling_leaves_nothing_behind() -> None:
    async with FakeServer(MODEL, latency=0.05) as server, engine_at(server.base_url, concurrency=4) as engine:
        await engine.negotiate()
        tasks = [asyncio.create_task(ask(engine)) for _ in range(40)]
        await asyncio.sleep(0.07)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result == EXPECTED for result in results[1::2])
        assert engine.stats.in_flight == engine.replicas[0].gate.in_flight == 0
        assert await asyncio.gather(*(ask(engine) for _ in range(8))) == [EXPECTED] * 8


async def test_closing_while_a_dialect_is_negotiated() -> None:
    async with faulty(after(0, Fault(hang=True))) as (_server, engine):
        asking = asyncio.create_task(ask(engine))
        await asyncio.sleep(0.05)
        asking.cancel()


# --- load and death -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_fewer_requests_are_in_flight_to_a_server_that_cannot_take_more(status: int) -> None:
    server = FakeServer(MODEL, latency=0.002)
    server.fault = lambda number: Fault.error(status, "too many") if server.in_flight > 4 else None
    async with server, engine_at(server.base_url, concurrency=32, retries=50) as engine:
        limits: list[int] = []

        async def trajectory() -> None:
            complete = engine.completer("t", seed=None, deadline=None)
            for _ in range(20):
                assert await complete(PROMPT, 20) == EXPECTED
                limits.append(engine.stats.limit)

        await asyncio.gather(*(trajectory() for _ in range(32)))
        assert min(limits) <= 4
        assert sorted(limits)[len(limits) // 2] <= 8
        assert engine.stats.requests == 32 * 20
        refused = server.requests - 1 - engine.stats.requests
        assert engine.stats.retries == refused
        assert refused < engine.stats.requests / 2


async def test_trajectories_move_when_their_replica_dies_and_new_ones_return_when_it_lives() -> None:
    async with (
        FakeServer(MODEL) as one,
        FakeServer(MODEL) as two,
        engine_at(one.base_url, two.base_url, retries=6) as engine,
    ):
        completers = [engine.completer(str(n), seed=None, deadline=None) for n in range(8)]
        await asyncio.gather(*(complete(PROMPT, 20) for complete in completers))
        await one.stop()
        for _ in range(3):
            results = await asyncio.gather(*(complete(PROMPT, 20) for complete in completers))
            assert results == [EXPECTED] * 8
        first, second = engine.replicas
        assert first.dead
        assert (len(first.pinned), len(second.pinned)) == (0, 8)
        retries = engine.stats.retries
        await asyncio.gather(*(complete(PROMPT, 20) for complete in completers))
        assert engine.stats.retries == retries
        await one.start()
        await asyncio.sleep(0.15)  # the cool-down
        fresh = [engine.completer(str(n), seed=None, deadline=None) for n in range(4)]
        for complete in fresh:
            assert await complete(PROMPT, 20) == EXPECTED
        assert not first.dead
        assert (len(first.pinned), len(second.pinned)) == (4, 8)


async def test_a_trajectory_that_had_trouble_is_unpinned_when_it_is_over() -> None:
    async with faulty(after(1, TRANSIENT["http_500"], times=2)) as (_server, engine):
        complete = engine.completer("t", seed=None, deadline=time.monotonic() + 60)
        assert await complete(PROMPT, 20) == EXPECTED
        assert len(engine.replicas[0].pinned) == 1
        del complete
        assert len(engine.replicas[0].pinned) == 0


async def test_a_replica_that_is_dead_from_the_start_does_not_stop_the_others() -> None:
    async with FakeServer(MODEL) as alive:
        dead = f"http://127.0.0.1:{free_port()}/v1"
        async with engine_at(dead, alive.base_url, retries=6) as engine:
            results = await asyncio.gather(*(ask(engine) for _ in range(16)))
            assert results == [EXPECTED] * 16
            assert engine.replicas[0].dead


async def test_when_all_replicas_are_dead_the_error_names_one_and_life_goes_on_later() -> None:
    one, two = FakeServer(MODEL), FakeServer(MODEL)
    for server in (one, two):
        await server.start()
    async with engine_at(one.base_url, two.base_url) as engine:
        await ask(engine)
        await asyncio.gather(one.stop(), two.stop())
        results = await asyncio.gather(*(ask(engine) for _ in range(8)), return_exceptions=True)
        assert {type(result) for result in results} == {ServerError}
        await asyncio.gather(one.start(), two.start())
        assert await ask(engine) == EXPECTED
    await asyncio.gather(one.stop(), two.stop())
