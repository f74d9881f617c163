"""Streamed turns: events in pieces of any size, chunks read from them, what is cut off, and what goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import orjson
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from runs import IMPATIENT
from tessy.adapters.fakes import ByteTokenizer, FakeServer, Fault, PairTokenizer, ScriptedModel, Traits, Voice
from tessy.adapters.server import ServerEngine, ServerOptions
from tessy.adapters.server.connection import Connection, Dialer
from tessy.adapters.server.engine import ServerCompleter, ahead
from tessy.adapters.server.http import ReplyReader
from tessy.adapters.server.sse import MAX_EVENT, CompletionStream, EventReader
from tessy.adapters.server.wire import IdsOut, Trouble
from tessy.core.prompt import TokenBuffer
from tessy.errors import DeadlineError, RequestError, ServerError

MODEL = ScriptedModel(ByteTokenizer())
TEACHER = ScriptedModel(PairTokenizer(), Voice.TEACHER, salt=1)
SECRET = "sk-very-secret"
PACE = 0.001
PROBES = 2
"""Requests before the first stream: what the server understands, and whether it streams."""
MOST = 5_000


@asynccontextmanager
async def engine_at(*urls: str, **options: Any) -> AsyncIterator[ServerEngine]:
    quick = IMPATIENT | {"api_key": SECRET}
    engine = ServerEngine(ServerOptions("scripted", urls, **(quick | options)), ByteTokenizer())
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def serving(
    model: ScriptedModel = MODEL,
    *,
    fault: Callable[[int], Fault | None] = lambda number: None,
    traits: Traits | None = None,
    pace: float = PACE,
    **options: Any,
) -> AsyncIterator[tuple[FakeServer, ServerEngine]]:
    """A server that streams, and an engine over it."""
    server = FakeServer(model, traits=traits or Traits(), fault=fault, pace=pace)
    async with server, engine_at(server.base_url, **options) as engine:
        yield server, engine


def prompt_of(question: str, model: ScriptedModel = MODEL) -> TokenBuffer:
    return TokenBuffer(model.tokenizer.encode_markup(f"<|im_start|>user\n{question}<|im_end|>\n<think>\n"))


def completer(engine: ServerEngine, **options: Any) -> ServerCompleter:
    return engine.completer("t", **({"seed": None, "deadline": None} | options))


async def read(complete: ServerCompleter, prompt: TokenBuffer, chunk: int, count: int) -> list[int]:
    """`count` tokens or all there are, chunk by chunk, as a speaker's turn asks for them."""
    ids: list[int] = []
    while len(ids) < count:
        completion = await complete(prompt, min(chunk, count - len(ids)), MOST)
        assert completion.ids is not None
        ids += completion.ids
        prompt.extend(completion.ids)
        if completion.finished:
            break
    return ids


# --- events ---------------------------------------------------------------------------------------------


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` cut at some places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a \n\n", [b" a "]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": ping\n\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"\n\n\r\n\n", []),
        (b"data\n\ndatax: a\n\n", []),
        (b"data: \n\n", [b""]),
        ("data: né🙂\n\n".encode(), ["né🙂".encode()]),
    ],
)
def test_events_are_found(data: bytes, events: list[bytes]) -> None:
    assert EventReader().feed(data) == events
    one_by_one = EventReader()
    assert [event for n in range(len(data)) for event in one_by_one.feed(data[n : n + 1])] == events


LINES = st.sampled_from(
    [b"data: a", b"data:b", b"", b"\r", b": c", b"event: d", "data: é🙂".encode(), b"x", b"data: "]
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=20), st.lists(st.integers(0, 10_000), max_size=12))
def test_however_the_bytes_are_split_the_events_are_the_same(lines: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(lines)
    reader, whole, one_by_one = EventReader(), EventReader(), EventReader()
    events = [event for n in range(len(data)) for event in one_by_one.feed(data[n : n + 1])]
    assert [event for piece in pieces(data, cuts) for event in reader.feed(piece)] == events
    assert whole.feed(data) == events


@pytest.mark.parametrize("line", [b"x" * 60, b"data: x\n" * 8, b": ping\n" * 9])
def test_an_event_without_end_is_too_large(line: bytes) -> None:
    reader = EventReader(max_event=100)
    reader.feed(line)
    with pytest.raises(Trouble, match="more than 100 bytes") as caught:
        reader.feed(line)
    assert caught.value.kind == "too_large"


def test_many_small_events_are_no_large_one() -> None:
    reader = EventReader(max_event=100)
    assert sum(len(reader.feed(b"data: 12345\n\ndata: 6789")) for _ in range(1000)) >= 1000


# --- what they say --------------------------------------------------------------------------------------


def event(ids: object = (7,), text: object = "a", finish: object = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "token_ids": ids, "logprobs": None, "finish_reason": finish} | more
    return b"data: %b\n\n" % orjson.dumps({"id": "x", "choices": [choice]})


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = event([1], prompt_token_ids=[5, 6]) + event([2, 3], "") + event([4], "é", "stop") + USAGE + DONE


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_however_the_bytes_are_split_the_tokens_are_the_same(cuts: list[int]) -> None:
    stream = CompletionStream(9, IdsOut.TOKEN_IDS)
    for piece in pieces(WHOLE, cuts):
        stream.feed(piece)
    stream.close()
    assert stream.has(99)
    assert stream.take(3) == ((1, 2, 3), False)
    assert stream.take(3) == ((4,), True)
    assert stream.exhausted


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from(['"prompt_token_ids":[7', "]", '\\"prompt_token_ids":[1,', '"prompt_']),
)
def test_the_echo_of_the_prompt_is_skipped_wherever_it_is_cut(cuts: list[int], text: str) -> None:
    first = event([1], text, prompt_token_ids=list(range(40)), later=[4])
    stream, found = CompletionStream(9, IdsOut.TOKEN_IDS), list[int]()
    for piece in pieces(first + event([2], text) + event([3], text, "stop", prompt_token_ids=None), cuts):
        stream.feed(piece)
        if stream.has(1):  # what is read between two pieces costs nothing of what was held back
            found += stream.take(1)[0]
    stream.close()
    assert found + list(stream.take(9)[0]) == [1, 2, 3]


def test_an_echo_is_no_part_of_an_event() -> None:
    """The longer the trajectory, the more of a turn's bytes it is; the bound of an event is not its."""
    name = b'"prompt_token_ids":['
    data = event([1], prompt_token_ids=[5]).replace(name, name + b"7," * 2**23)
    stream = CompletionStream(9, IdsOut.TOKEN_IDS)
    for start in range(0, len(data), 2**16):
        stream.feed(data[start : start + 2**16])
    assert len(data) > MAX_EVENT
    assert stream.take(1) == ((1,), False)


def test_a_stream_can_be_read_while_it_grows() -> None:
    stream = CompletionStream(9, IdsOut.TOKEN_IDS)
    stream.feed(event([1, 2]))
    assert stream.has(2)
    assert not stream.has(3)
    assert stream.take(1) == ((1,), False)
    stream.feed(event([3], "", "length") + b"data: nonsense after the end\n\n")
    assert stream.take(5) == ((2, 3), False)
    stream.close()


def test_the_end_may_be_told_by_itself() -> None:
    stream = CompletionStream(9, IdsOut.LOGPROBS)
    stream.feed(event(None, logprobs={"tokens": ["token_id:8"]}) + event(None, "", "stop"))
    assert stream.take(9) == ((8,), True)


@pytest.mark.parametrize(
    ("ids_out", "told"),
    [
        (IdsOut.TOKEN_IDS, [event([n]) for n in range(7)]),
        (IdsOut.TOKEN_IDS, [event([0, 1, 2]), event([3, 4, 5]), event([6])]),
        (IdsOut.LOGPROBS, [event(None, logprobs={"tokens": [f"token_id:{n}"]}) for n in range(7)]),
    ],
)
@pytest.mark.parametrize("end", [event([], "", "stop") + USAGE + DONE, b"", b"data: nonsense\n\n"])
@pytest.mark.parametrize("fed", [2, 3])
def test_what_is_not_wanted_is_counted_and_not_read(
    ids_out: IdsOut, told: list[bytes], end: bytes, fed: int
) -> None:
    stream = CompletionStream(9, ids_out)
    stream.feed(b"".join(told[:fed]) + (b"" if fed < len(told) else end))
    assert stream.take(2) == ((0, 1), False)
    assert stream.received < 7
    assert stream.count(chunked(*told[fed:], end).partition(b"\r\n\r\n")[2]) == 7


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=9),
    st.lists(st.integers(1, 6), min_size=1),
    st.booleans(),
)
def test_however_it_is_taken_it_is_the_same(sizes: list[int], takes: list[int], finished: bool) -> None:
    ids = list(range(sum(sizes)))
    parts = [[ids.pop(0) for _ in range(size)] for size in sizes]
    stream = CompletionStream(99, IdsOut.TOKEN_IDS)
    stream.feed(b"".join(map(event, parts)) + event([], "", "stop" if finished else "length") + DONE)
    found: list[int] = []
    for number, count in enumerate(takes * sum(sizes)):
        assert stream.has(count)
        taken, ended = stream.take(count)
        found += taken
        assert ended == (finished and len(found) == sum(sizes)), number
        if stream.exhausted:
            break
    assert found == list(range(sum(sizes)))


def test_all_that_was_asked_for_is_the_end() -> None:
    stream = CompletionStream(2, IdsOut.TOKEN_IDS)
    stream.feed(event([1]) + event([2]))
    assert stream.take(2) == ((1, 2), False)
    assert stream.exhausted


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"data: {\n\n", "not_json"),
        (b"data: \xff\xfe\n\n", "not_json"),
        (b"data: []\n\n", "wrong_shape"),
        (b"data: {}\n\n", "wrong_shape"),
        (DONE, "wrong_shape"),
        (event([1]) + DONE, "wrong_shape"),
        (event([], "a"), "wrong_shape"),
        (event(None, "a"), "wrong_shape"),
        (event(["1"]), "wrong_shape"),
        (event([1], None), "wrong_shape"),
        (event([1], 3), "wrong_shape"),
        (event(list(range(10))), "wrong_shape"),
        (event([1]) * 10, "wrong_shape"),
        (event([1], "a", "abort"), "aborted"),
        (event([1], "a", 3), "wrong_shape"),
        (b'data: {"error": {"message": "EngineCore\\u001b died", "code": 500}}\n\n', "stream_error"),
        (b'data: {"error": "key %b"}\n\n' % SECRET.encode(), "stream_error"),
    ],
)
def test_nonsense_in_a_stream_is_trouble(data: bytes, kind: str) -> None:
    stream = CompletionStream(9, IdsOut.TOKEN_IDS, SECRET)
    stream.feed(data)
    with pytest.raises(Trouble) as caught:
        stream.has(9)
    with pytest.raises(Trouble) as again:
        stream.take(1)
    assert again.value is caught.value
    assert caught.value.kind == kind
    assert caught.value.detail.isprintable()
    assert SECRET not in caught.value.detail
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize(
    ("data", "kind"), [(b"", "wrong_shape"), (event([1]), "reset"), (b": ping\n\n", "wrong_shape")]
)
def test_bytes_that_end_before_the_completion_are_trouble(data: bytes, kind: str) -> None:
    stream = CompletionStream(9, IdsOut.TOKEN_IDS)
    stream.feed(data)
    with pytest.raises(Trouble) as caught:
        stream.close()
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("chunk", "most", "tokens"),
    [(20, 7, 7), (20, 500, 500), (20, 38_000, 500), (7, 600, 511), (512, 38_000, 4096)],
)
def test_a_stream_is_opened_for_the_turn_or_for_a_bounded_number_of_whole_chunks(
    chunk: int, most: int, tokens: int
) -> None:
    assert ahead(chunk, most) == tokens


# --- over a socket --------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_event", [1, 3, 40])
@pytest.mark.parametrize("model", [MODEL, TEACHER], ids=["bytes", "pairs"])
async def test_chunks_of_a_stream_are_what_the_model_writes(model: ScriptedModel, per_event: int) -> None:
    async with serving(model, traits=Traits(per_event=per_event), pace=0.0, concurrency=8) as (
        server,
        engine,
    ):
        prompts = [prompt_of(f"Question {n}?", model) for n in range(24)]
        expected = [list(model.write(prompt.ids, MOST).ids or ()) for prompt in prompts]
        found = await asyncio.gather(*(read(completer(engine), prompt, 7, MOST) for prompt in prompts))
        assert found == expected
        turns = sum(-(-len(ids) // ahead(7, MOST)) for ids in expected)
        assert engine.stats.requests == server.requests - PROBES == turns
        assert engine.stats.generated == server.generated - 3 == sum(map(len, expected))
        assert server.max_in_flight == 8
        assert engine.stats.in_flight == engine.replicas[0].gate.in_flight == 0


def test_chunks_of_a_stream_in_the_event_loop_that_runs_use() -> None:
    async def turn() -> list[int]:
        async with serving() as (_server, engine):
            complete = completer(engine)
            ids = await read(complete, prompt_of("Why?"), 10, 50)
            complete.let_go()
            return ids

    assert tuple(uvloop.run(turn())) == MODEL.write(prompt_of("Why?").ids, 50).ids


async def test_letting_go_stops_the_server_and_what_it_wrote_in_vain_is_counted() -> None:
    async with serving(concurrency=1) as (server, engine):
        complete, prompt = completer(engine), prompt_of("Why?")
        expected = MODEL.write(prompt.ids, 30).ids
        assert tuple(await read(complete, prompt, 10, 30)) == expected
        assert (engine.stats.in_flight, server.in_flight) == (1, 1)
        await asyncio.sleep(20 * PACE)  # a predictor reads; the server goes on
        complete.let_go()
        assert (engine.stats.in_flight, engine.replicas[0].gate.in_flight) == (0, 0)
        assert engine.stats.generated > 30
        await until(lambda: server.in_flight == 0)
        generated = server.generated - 3
        assert engine.stats.generated <= generated < 300
        await asyncio.sleep(10 * PACE)
        assert server.generated - 3 == generated
        complete.let_go()
        assert engine.stats.requests == 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - of a server that does not tell
            await asyncio.sleep(PACE)


async def test_another_prompt_ends_the_stream_and_opens_one_of_its_own() -> None:
    async with serving(concurrency=1) as (server, engine):
        complete, prompt = completer(engine), prompt_of("Why?")
        ids = await read(complete, prompt, 10, 20)
        other = TokenBuffer(prompt.ids)
        assert (await complete(other, 5, MOST)).ids == MODEL.write(other.ids, 5).ids
        prompt.drop(3)  # the boundary fell here
        prompt.extend(MODEL.tokenizer.encode("so 3"))
        assert (await complete(prompt, 5, MOST)).ids == MODEL.write(prompt.ids, 5).ids
        prompt.extend(ids)
        assert (await complete(prompt, 5)).ids == MODEL.write(prompt.ids, 5).ids
        assert server.requests == PROBES + 4
        assert "stream" not in server.last
        assert engine.stats.in_flight == 0


async def test_what_is_not_more_than_a_chunk_is_no_stream() -> None:
    async with serving() as (server, engine):
        prompt = prompt_of("Why?")
        assert await completer(engine)(prompt, 20, 20) == MODEL.write(prompt.ids, 20)
        assert server.requests == 2
        assert "stream" not in server.last


async def test_a_request_for_a_stream_says_all_that_a_plain_one_says() -> None:
    async with serving() as (server, engine):
        prompt = prompt_of("Why?")
        complete = completer(engine, seed=5)
        await complete(prompt, 5, 300)
        streamed = server.last
        complete.let_go()
        await complete(prompt, 5)
        assert streamed.pop("stream") is True
        assert streamed.pop("return_token_ids") is True
        assert streamed.pop("max_tokens") == 300
        plain = server.last
        assert [plain.pop(name) for name in ("logprobs", "return_tokens_as_token_ids", "max_tokens")] == [
            0,
            True,
            5,
        ]
        assert streamed.pop("seed") != plain.pop("seed")  # it is asked again
        assert streamed == plain


@pytest.mark.parametrize(
    ("traits", "asked"),
    [
        (Traits(streams=False), PROBES + 2),
        (Traits(streams_ids=False), PROBES + 2),
        (Traits(returns_token_ids=False, logprobs_as_ids=False), 3 + 1),
        (Traits(refuses_unknown=True), 4),
        (Traits(takes_ids=False), 5),
    ],
)
async def test_a_server_that_tells_no_ids_in_a_stream_is_asked_chunk_by_chunk(
    traits: Traits, asked: int
) -> None:
    async with serving(traits=traits) as (server, engine):
        prompt = prompt_of("Why?")
        expected = MODEL.write(prompt.ids, 20)
        assert (await completer(engine)(prompt, 20, MOST)).text == expected.text
        assert "stream" not in server.last
        before = server.requests
        await completer(engine)(prompt, 20, MOST)
        assert server.requests == before + 1


async def test_ids_as_names_of_tokens_will_do() -> None:
    async with serving(traits=Traits(returns_token_ids=False)) as (server, engine):
        prompt = prompt_of("Why?")
        expected, complete = MODEL.write(prompt.ids, 20).ids, completer(engine)
        assert tuple(await read(complete, prompt, 5, 20)) == expected
        assert server.last["stream"] is True
        complete.let_go()


@pytest.mark.parametrize("status", [400, 404, 501])
async def test_a_server_that_refuses_to_stream_is_asked_chunk_by_chunk(status: int) -> None:
    server = FakeServer(MODEL)
    server.fault = lambda number: Fault.error(status, "no streams here") if 1 < number <= 3 else None
    async with server, engine_at(server.base_url) as engine:
        prompt = prompt_of("Why?")
        assert await completer(engine)(prompt, 20, MOST) == MODEL.write(prompt.ids, 20)


async def test_streams_can_be_turned_off() -> None:
    async with serving(stream=False) as (server, engine):
        prompt = prompt_of("Why?")
        assert await completer(engine)(prompt, 20, MOST) == MODEL.write(prompt.ids, 20)
        assert server.requests == 2


async def test_no_more_streams_are_open_than_may_be_in_flight() -> None:
    async with serving(pace=0.0, concurrency=4) as (server, engine):

        async def turn(n: int) -> None:
            complete, prompt = completer(engine), prompt_of(f"{n}?")
            expected = MODEL.write(prompt.ids, 40).ids
            assert tuple(await read(complete, prompt, 10, 40)) == expected
            complete.let_go()

        await asyncio.gather(*(turn(n) for n in range(40)))
        assert engine.stats.in_flight == 0
        assert server.requests == PROBES + 40
        assert server.max_in_flight <= 4 + 4  # a cut is heard of by the server a little later


# --- faults ---------------------------------------------------------------------------------------------

BROKEN = {
    "reset": Fault(after=13, reset=True),
    "not_json": Fault(after=13, body=b"data: {garbage\n\n"),
    "wrong_shape": Fault(after=13, body=DONE),
    "aborted": Fault(after=13, body=event([1], "a", "abort")),
    "stream_error": Fault(after=13, body=b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n'),
    "timeout": Fault(after=13, hang=True),
    "http_503": Fault.error(503, "Service Unavailable"),
    "rate_limited": Fault.error(429, "slow down", Retry_After="0.02"),
    "early reset": Fault(after=0, reset=True),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_stream_that_breaks_off_goes_on_from_the_present_prompt(name: str) -> None:
    def fault(number: int) -> Fault | None:
        return BROKEN[name] if PROBES < number <= PROBES + 2 else None

    async with serving(fault=fault, read_timeout=0.2, retries=4) as (server, engine):
        prompt = prompt_of("Why?")
        start, expected = len(prompt), MODEL.write(prompt.ids, 60).ids
        complete = completer(engine, seed=3)
        assert tuple(await read(complete, prompt, 5, 60)) == expected
        complete.let_go()
        assert engine.stats.retries == 2
        assert engine.stats.in_flight == engine.replicas[0].gate.in_flight == 0
        again = len(server.last["prompt"]) - start
        assert again == (20 if BROKEN[name].after else 0), (
            "two chunks of five came whole from each of two streams"
        )


LASTING = {name: fault for name, fault in BROKEN.items() if not name.startswith("early")}


@pytest.mark.parametrize("name", LASTING)
async def test_what_lasts_is_one_error_that_names_the_server(name: str) -> None:
    fault = LASTING[name]
    if fault.after is not None:
        fault = Fault(body=fault.body, reset=fault.reset, hang=fault.hang, after=3)
    async with serving(fault=lambda n: fault if n > PROBES else None, read_timeout=0.1, role="student") as (
        server,
        engine,
    ):
        with pytest.raises(ServerError) as caught:
            await completer(engine)(prompt_of("Why?"), 5, MOST)
        assert caught.value.kind == name
        assert str(caught.value).startswith(f"student model scripted at {server.base_url}: ")
        assert SECRET not in str(caught.value)
        assert server.requests == PROBES + (2 if name == "timeout" else 4)
        assert engine.stats.in_flight == 0


async def test_a_stream_that_ends_early_is_no_completion() -> None:
    async with serving(fault=lambda n: Fault(after=3) if n > PROBES else None) as (_server, engine):
        with pytest.raises(ServerError, match="ended before the completion did"):
            await completer(engine)(prompt_of("Why?"), 5, MOST)


async def test_a_refusal_is_not_asked_again() -> None:
    async with serving(fault=lambda n: Fault.error(400, "too long") if n > PROBES else None) as (
        server,
        engine,
    ):
        with pytest.raises(RequestError, match="too long"):
            await completer(engine)(prompt_of("Why?"), 5, MOST)
        assert server.requests == PROBES + 1


async def test_a_stream_of_nothing_is_not_read_for_ever() -> None:
    flood = Fault(after=1, body=b"data: " + b"x" * 3_000_000, hang=True)
    async with serving(fault=lambda n: flood if n > PROBES else None, max_reply_bytes=1_000_000) as (
        server,
        engine,
    ):
        with pytest.raises(RequestError, match="more than 1000000 bytes"):
            await completer(engine)(prompt_of("Why?"), 5, MOST)
        assert server.requests == PROBES + 1


async def test_the_deadline_ends_a_stream() -> None:
    async with serving(pace=0.05, concurrency=1) as (server, engine):
        await completer(engine)(prompt_of("Why?"), 5)
        complete = completer(engine, deadline=time.monotonic() + 0.3)
        with pytest.raises(DeadlineError):
            await read(complete, prompt_of("Why?"), 3, MOST)
        assert engine.stats.in_flight == 0
        await until(lambda: server.in_flight == 0)


@pytest.mark.parametrize("waiting", [True, False])
async def test_cancelling_ends_a_stream(waiting: bool) -> None:
    async with serving(pace=0.02, concurrency=1) as (server, engine):
        complete = completer(engine)
        prompt = prompt_of("Why?")
        await complete(prompt, 1, MOST)
        if waiting:
            prompt.extend(MODEL.write(prompt.ids, 1).ids or ())
            asking = asyncio.create_task(complete(prompt, 50, MOST))
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        else:
            complete.let_go()
        assert engine.stats.in_flight == 0
        await until(lambda: server.in_flight == 0)
        other = prompt_of("Why not?")
        assert (await completer(engine)(other, 3)).ids == MODEL.write(other.ids, 3).ids


async def test_a_server_that_dies_in_a_stream_is_left_for_another() -> None:
    one, two = FakeServer(MODEL, pace=PACE), FakeServer(MODEL, pace=PACE)
    async with one, two, engine_at(one.base_url, two.base_url, retries=6) as engine:
        complete, prompt = completer(engine), prompt_of("Why?")
        expected = MODEL.write(prompt.ids, 40).ids
        ids = await read(complete, prompt, 10, 20)
        first = one if one.in_flight else two
        await first.stop()
        ids += await read(complete, prompt, 10, 20)
        assert tuple(ids) == expected
        complete.let_go()
        assert engine.stats.in_flight == 0


# --- the connection -------------------------------------------------------------------------------------

CHUNKED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A:  b \r\n\r\n"
    b"5\r\nhello\r\n1;name=value\r\n \r\nA\r\nto you all\r\n0\r\n\r\n"
)
PLAIN_CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1\r\n \r\n3\r\nto \r\n7\r\nyou all\r\n6\r\n\r\nand \r\n4\r\nmore\r\n0\r\n\r\n"
)
MEASURED = b"HTTP/1.0 404 Not Found\r\ncontent-length: 5\r\n\r\nhello and more"
UNMEASURED = b"HTTP/1.1 200\r\n\r\nhello"


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (CHUNKED, 200, b"hello to you all"),
        (PLAIN_CHUNKS, 200, b"hello to you all\r\nand more"),
        (MEASURED, 404, b"hello"),
        (UNMEASURED, 200, b"hello"),
    ],
    ids=["chunked", "plain chunks", "measured", "unmeasured"],
)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_however_a_reply_is_split_it_is_the_same(
    data: bytes, status: int, body: bytes, cuts: list[int]
) -> None:
    reply = ReplyReader()
    assert b"".join(reply.feed(piece) for piece in pieces(data, cuts)) == body
    assert reply.status == status
    assert reply.complete is (data is not UNMEASURED)
    reply.close()
    assert reply.complete


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00" * 9,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5" * 9 + b"\r\n",
    ],
)
def test_what_is_no_http_is_trouble(data: bytes) -> None:
    with pytest.raises(Trouble) as caught:
        ReplyReader().feed(data)
    assert caught.value.kind == "bad_http"
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 2", CHUNKED[:-5], MEASURED[:-12]])
def test_a_reply_that_breaks_off_is_trouble(data: bytes) -> None:
    reply = ReplyReader()
    reply.feed(data)
    with pytest.raises(Trouble, match="closed before"):
        reply.close()


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_crash_the_reader(data: bytes, begun: bool) -> None:
    reply, kind = ReplyReader(), "none"
    try:
        reply.feed((CHUNKED[: CHUNKED.index(b"5\r\n")] if begun else b"") + data)
        reply.close()
    except Trouble as trouble:
        kind = trouble.kind
    assert kind in ("none", "bad_http", "reset")


async def test_what_a_connection_meets_is_told_in_the_words_of_all_others() -> None:
    dialer = Dialer(0.5, 0.2, 1000)

    async def kind_of(url: str) -> str:
        try:
            connection = await dialer.dial(URL(url), (b"GET / HTTP/1.1\r\n\r\n",))
        except Trouble as trouble:
            return trouble.kind
        try:
            await connection.head()
        except Trouble as trouble:
            return trouble.kind
        finally:
            connection.close()
        return str(connection.reply.status)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with FakeServer(MODEL) as server, await asyncio.start_server(silent, "127.0.0.1", 0) as mute:
        port = mute.sockets[0].getsockname()[1]
        assert await kind_of(f"http://localhost:{server.port}/health") == "404"
        assert await kind_of(f"http://127.0.0.1:{port}/") == "timeout"
        assert await kind_of(f"https://127.0.0.1:{server.port}/") in ("tls", "timeout", "connect_timeout")
        assert await kind_of("http://no-such-host.invalid/") == "unknown_host"
    assert await kind_of(f"http://127.0.0.1:{server.port}/") == "refused"


def chunked(*events: bytes) -> bytes:
    """A whole reply, each event a chunk of its own."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (*events, b""))


REPLY = chunked(
    *(event([n], "a") for n in range(5)), b": ping\n\n", event([5, 6]), event([7], "b", "stop"), DONE
)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(REPLY)), max_size=9), st.integers(0, 9), st.integers(1, 8))
def test_whenever_the_bytes_come_the_tokens_are_the_same(cuts: list[int], early: int, count: int) -> None:
    """Before anybody waits, while somebody does, in between: nothing that came is overlooked until more comes."""

    async def told() -> list[int]:
        connection, stream = Connection((), 99.0, 10**6), CompletionStream(8, IdsOut.TOKEN_IDS)
        parts, found = pieces(REPLY, cuts), list[int]()

        def feed(data: bytes) -> int:
            stream.feed(data)
            return stream.lacking(count)

        def come() -> None:
            if parts:
                connection.data_received(parts.pop(0))
                asyncio.get_running_loop().call_soon(come)

        for _ in range(min(early, len(parts))):
            connection.data_received(parts.pop(0))
        asyncio.get_running_loop().call_soon(come)
        await connection.head()
        while not stream.exhausted:
            if not stream.has(count):
                await connection.read(feed)
            found += stream.take(count)[0]
        connection.close()
        return found

    assert asyncio.run(asyncio.wait_for(told(), 10)) == list(range(8))


async def test_a_server_that_floods_is_not_listened_to_while_nobody_reads() -> None:
    flood = b"data: " + b"x" * 100_000 + b"\n\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(200):
            writer.write(flood)
        with suppress(ConnectionError):
            await reader.read()
        writer.transport.abort()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        connection = await Dialer(2.0, 2.0, 10**9).dial(url, (b"GET / HTTP/1.1\r\n\r\n",))
        await connection.head()
        await asyncio.sleep(0.2)
        waiting = connection.close()
        assert flood[:1000] in waiting
        assert len(waiting) < 1_000_000


async def test_a_key_and_an_error_after_the_negotiation_stay_apart() -> None:
    told = Fault.error(401, f"Incorrect API key provided: {SECRET}")
    async with serving(fault=lambda n: told if n > PROBES else None) as (_server, engine):
        with pytest.raises(RequestError, match=r"Incorrect API key provided: \*\*\*"):
            await completer(engine)(prompt_of("Why?"), 5, MOST)
