"""The server adapter against a scripted server on a real socket, and its parts without I/O against tables."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessy.adapters.fakes import ByteTokenizer, FakeServer, PairTokenizer, ScriptedModel, Traits, Voice
from tessy.adapters.server import Dialect, IdsOut, ServerEngine, ServerOptions, api_root
from tessy.adapters.server.gate import AdaptiveLimit, Gate
from tessy.adapters.server.options import ServerOptions as Options
from tessy.adapters.server.replica import DEATH, Replica, pick
from tessy.adapters.server.wire import (
    LADDER,
    Trouble,
    backoff,
    error_message,
    one_line,
    read_models,
    read_reply,
    read_token_count,
    request_body,
    request_head,
    retry_after,
)
from tessy.core.prompt import TokenBuffer
from tessy.errors import ConfigError
from tessy.protocols import Engine, Sampling
from tessy.questions import Message

STUDENT = ScriptedModel(ByteTokenizer())
TEACHER = ScriptedModel(PairTokenizer(), Voice.TEACHER, salt=1)


@asynccontextmanager
async def engine_for(*servers: FakeServer, **options: Any) -> AsyncIterator[ServerEngine]:
    """An engine over running servers, closed at the end."""
    urls = tuple(server.base_url for server in servers)
    engine = ServerEngine(ServerOptions(servers[0].name, urls, **options), servers[0].model.tokenizer)
    try:
        yield engine
    finally:
        await engine.close()


def prompt_of(question: str, model: ScriptedModel = STUDENT) -> TokenBuffer:
    """A question up to the start of the thinking."""
    ids = model.tokenizer.render([Message("user", question)])
    text = model.tokenizer.decode(ids)
    return TokenBuffer(
        ids if text.endswith("<think>\n") else ids + model.tokenizer.encode_markup("<think>\n")
    )


async def finish(engine: Engine, prompt: TokenBuffer, chunk: int, **options: Any) -> tuple[int, ...]:
    """A whole trajectory of one model, chunk by chunk: the ids it wrote."""
    complete = engine.completer("t", **({"seed": None, "deadline": None} | options))
    start = len(prompt)
    while True:
        completion = await complete(prompt, chunk)
        assert completion.ids is not None
        prompt.extend(completion.ids)
        if completion.finished:
            return tuple(prompt.ids[start:])


# --- the whole, over a socket ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", [STUDENT, TEACHER], ids=["bytes", "pairs"])
async def test_many_trajectories_chunk_by_chunk_are_what_the_model_writes(model: ScriptedModel) -> None:
    async with FakeServer(model, latency=0.001) as server, engine_for(server, concurrency=8) as engine:
        prompts = [prompt_of(f"Question {n}?", model) for n in range(32)]
        expected = [model.write(prompt.ids, 10_000).ids for prompt in prompts]
        assert await asyncio.gather(*(finish(engine, prompt, 7) for prompt in prompts)) == expected
        assert server.max_in_flight == 8
        assert engine.stats.requests == server.requests - 1  # the negotiation is not counted
        assert engine.stats.generated == sum(len(ids or ()) for ids in expected)
        assert (engine.stats.in_flight, engine.stats.limit, engine.stats.retries) == (0, 8, 0)


async def test_text_is_told_without_the_end_of_turn_and_finished_says_it() -> None:
    async with FakeServer(STUDENT) as server, engine_for(server) as engine:
        complete = engine.completer("t", seed=None, deadline=None)
        completion = await complete(prompt_of("Why?"), 10_000)
        assert completion.finished
        assert completion.ids is not None
        assert completion.ids[-1] == STUDENT.tokenizer.eos_id
        assert completion.text == STUDENT.tokenizer.decode(completion.ids[:-1])
        assert not (await complete(prompt_of("Why?"), 3)).finished


async def test_the_request_says_all_sampling_parameters_and_a_seed() -> None:
    sampling = Sampling(0.6, 0.95, 0, 0.1)
    async with FakeServer(STUDENT) as server, engine_for(server, sampling=sampling) as engine:
        prompt = prompt_of("Why?")
        await engine.completer("t", seed=1, deadline=None)(prompt, 5)
        sent = server.last
        assert 0 <= sent.pop("seed") < 2**31
        assert sent == {
            "model": "scripted",
            "prompt": list(prompt.ids),
            "max_tokens": 5,
            "temperature": 0.6,
            "top_p": 0.95,
            "top_k": -1,
            "min_p": 0.1,
            "repetition_penalty": 1.0,
            "skip_special_tokens": False,
            "logprobs": 0,
            "return_tokens_as_token_ids": True,
        }
        await engine.completer("t", seed=None, deadline=None)(prompt, 5)
        assert "seed" not in server.last


async def test_seeds_are_the_same_after_a_restart_and_new_when_the_same_prompt_is_asked_again() -> None:
    async with FakeServer(STUDENT) as server, engine_for(server) as engine:

        async def seeds(seed: int, prompts: list[TokenBuffer]) -> list[int]:
            complete = engine.completer("t", seed=seed, deadline=None)
            drawn = []
            for prompt in prompts:
                await complete(prompt, 1)
                drawn.append(server.last["seed"])
            return drawn

        short, longer = prompt_of("Why?"), prompt_of("Why not?")
        first = await seeds(1, [short, longer, longer])
        assert len(set(first)) == 3
        assert await seeds(1, [longer]) == first[1:2]
        assert await seeds(2, [longer]) != first[1:2]


async def test_a_trajectory_stays_with_its_replica_and_the_load_is_even() -> None:
    async with (
        FakeServer(STUDENT, latency=0.001) as one,
        FakeServer(STUDENT, latency=0.001) as two,
        engine_for(one, two) as engine,
    ):
        await engine.negotiate()
        one.requests = two.requests = 0
        completers = [engine.completer(str(n), seed=None, deadline=None) for n in range(10)]
        for _ in range(3):
            await asyncio.gather(*(complete(prompt_of("Why?"), 4) for complete in completers))
        assert (one.requests, two.requests) == (15, 15)
        assert [len(replica.pinned) for replica in engine.replicas] == [5, 5]
        del completers
        assert [len(replica.pinned) for replica in engine.replicas] == [0, 0]


async def test_a_large_prompt_is_sent_whole() -> None:
    async with (
        FakeServer(STUDENT, traits=Traits(max_model_len=10**9)) as server,
        engine_for(server) as engine,
    ):
        prompt = TokenBuffer([100] * 400_000)
        await engine.completer("t", seed=None, deadline=None)(prompt, 1)
        assert server.last["prompt"] == list(prompt.ids)


async def test_models_and_tokens_are_told_for_the_check_before_a_run() -> None:
    async with FakeServer(STUDENT, name="m") as server, engine_for(server) as engine:
        assert await engine.models(server.base_url) == [("m", 40_960)]
        assert await engine.count_tokens("<|im_start|>né", server.base_url) == ((258, 110, 195, 169), 4)


async def test_an_engine_that_was_never_used_closes() -> None:
    await ServerEngine(ServerOptions("m", ("http://127.0.0.1:1",))).close()


# --- dialects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("traits", "dialect"),
    [
        (Traits(), Dialect()),
        (Traits(refuses_logprobs=True), Dialect(ids_out=IdsOut.TOKEN_IDS)),
        (Traits(logprobs_as_ids=False), Dialect(ids_out=IdsOut.TOKEN_IDS)),
        (Traits(logprobs_as_ids=False, returns_token_ids=False), Dialect(ids_out=IdsOut.NONE)),
        (Traits(refuses_unknown=True), Dialect(ids_out=IdsOut.NONE, extensions=False)),
        (Traits(takes_ids=False), Dialect(ids_in=False)),
        (
            Traits(takes_ids=False, refuses_unknown=True, adds_bos=True),
            Dialect(ids_in=False, ids_out=IdsOut.NONE, extensions=False, adds_bos=True),
        ),
    ],
)
@pytest.mark.parametrize("model", [TEACHER])
async def test_a_dialect_is_negotiated_once_and_works(
    traits: Traits, dialect: Dialect, model: ScriptedModel
) -> None:
    async with FakeServer(model, traits=traits) as server, engine_for(server) as engine:
        prompt = prompt_of("Why?", model)
        completions = [engine.completer(str(n), seed=None, deadline=None)(prompt, 30) for n in range(4)]
        expected = model.write(prompt.ids, 30)
        if dialect.ids_out is IdsOut.NONE:
            expected = replace(expected, ids=None)
        assert await asyncio.gather(*completions) == [expected] * 4
        asked = server.requests
        assert await engine.negotiate() == dialect
        assert server.requests == asked
        if not dialect.ids_in:
            # Whatever a server adds, it sees one BOS.
            sent = server.last["prompt"]
            assert sent.startswith("<s>") != (dialect.adds_bos and not dialect.extensions)
        if dialect.ids_out is IdsOut.NONE:
            assert engine.stats.generated == 4 * 30


async def test_replicas_agree_on_the_plainer_dialect() -> None:
    async with (
        FakeServer(STUDENT) as rich,
        FakeServer(STUDENT, traits=Traits(refuses_logprobs=True)) as plain,
        engine_for(rich, plain) as engine,
    ):
        assert await engine.negotiate() == Dialect(ids_out=IdsOut.TOKEN_IDS)
        prompt = prompt_of("Why?")
        for n in range(2):
            assert await engine.completer(str(n), seed=None, deadline=None)(prompt, 9) == STUDENT.write(
                prompt.ids, 9
            )


async def test_without_a_tokenizer_only_ids_are_tried() -> None:
    async with FakeServer(STUDENT) as server:
        engine = ServerEngine(ServerOptions("scripted", (server.base_url,)))
        assert (await engine.negotiate()).ids_in
        await engine.close()


# --- words of the protocol ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_url", "root"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("http://h:8000/v1/completions", "http://h:8000/v1"),
        ("http://h:8000/v1/completions/", "http://h:8000/v1"),
        ("https://api.example.org/openai", "https://api.example.org/openai/v1"),
        ("https://api.example.org/openai/v1/completions", "https://api.example.org/openai/v1"),
        ("http://h/completions", "http://h/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        (" http://h/v1\n", "http://h/v1"),
        ("http://h/my-v1", "http://h/my-v1/v1"),
    ],
)
def test_api_root(given_url: str, root: str) -> None:
    assert api_root(given_url) == root
    assert api_root(root) == root


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "http://a..b/v1",
        "http://a b/v1",
        "http://" + "a" * 64,
        "localhost:8000",
        "h",
        "ftp://h/v1",
        "http://",
        "http://h:port/v1",
        "http://[::1/v1",
        "/v1",
        "http://h:99999",
    ],
)
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        api_root(wrong)


@pytest.mark.parametrize("wrong", ["http://u:hunter2@h/v1", "http://h/v1?key=hunter2", "http://h/v1#hunter2"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerEngine(ServerOptions("m", (wrong,)))
    assert "hunter2" not in str(caught.value)


def test_the_ladder_goes_from_rich_to_plain() -> None:
    assert LADDER[0] == Dialect()
    assert LADDER[-1] == Dialect(False, IdsOut.NONE, False)
    assert [rung.ids_in for rung in LADDER] == [True] * 4 + [False] * 4
    assert all(rung.extensions or rung.ids_out is IdsOut.NONE for rung in LADDER)


@pytest.mark.parametrize("dialect", LADDER)
@pytest.mark.parametrize("seed", [None, 7])
def test_every_request_body_is_json_and_plain_ones_use_openai_fields_only(
    dialect: Dialect, seed: int | None
) -> None:
    head = request_head('m"\n', Sampling(), dialect)
    body = orjson.loads(b"".join(request_body(head, (b"[1,2]" if dialect.ids_in else b'"text"',), 9, seed)))
    assert body["model"] == 'm"\n'
    assert body["prompt"] == ([1, 2] if dialect.ids_in else "text")
    assert body.get("seed") == seed
    plain = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}
    assert dialect.extensions or body.keys() <= plain


def reply(**changes: Any) -> bytes:
    """A reply in vLLM's words, with some of its choice's fields changed."""
    choice = {"index": 0, "text": "a b", "finish_reason": "length", "token_ids": [1, 2], "logprobs": None}
    body = {"choices": [choice | changes], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    return orjson.dumps(body)


def test_a_reply_is_read() -> None:
    completion, generated = read_reply(reply(), 9, IdsOut.TOKEN_IDS)
    assert (completion.ids, completion.text, completion.finished, generated) == ((1, 2), "a b", False, 2)
    completion, generated = read_reply(reply(finish_reason="stop"), 9, IdsOut.NONE)
    assert (completion.ids, completion.finished, generated) == (None, True, 2)
    named = reply(logprobs={"tokens": ["token_id:7", "token_id:8"]})
    assert read_reply(named, 9, IdsOut.LOGPROBS).completion.ids == (7, 8)
    empty = reply(text="", token_ids=[])
    assert read_reply(empty, 9, IdsOut.TOKEN_IDS).completion.ids == ()


@pytest.mark.parametrize("text", ['"prompt_token_ids":[7', "]", '\\"prompt_token_ids":[1,', "x"])
def test_the_echo_of_the_prompt_is_skipped_whatever_the_text_says(text: str) -> None:
    body = reply(text=text, prompt_token_ids=[1, 2, 3], later=[4])
    assert read_reply(body, 9, IdsOut.TOKEN_IDS).completion.text == text
    assert read_reply(reply(text=text), 9, IdsOut.TOKEN_IDS).completion.text == text
    assert read_token_count(body) == ((1, 2, 3), 5)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "not_json"),
        (b"<html>502 Bad Gateway</html>", "not_json"),
        (b'{"choices": [', "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"null", "wrong_shape"),
        (b"[]", "wrong_shape"),
        (b"{}", "wrong_shape"),
        (b'{"error": {"message": "no"}}', "wrong_shape"),
        (b'{"choices": []}', "wrong_shape"),
        (b'{"choices": [1]}', "wrong_shape"),
        (b'{"choices": {"0": 1}}', "wrong_shape"),
        (reply(text=None), "wrong_shape"),
        (reply(text=["a"]), "wrong_shape"),
        (reply(finish_reason=None), "wrong_shape"),
        (reply(finish_reason="abort"), "aborted"),
        (reply(finish_reason="error"), "aborted"),
        (reply(token_ids=None), "wrong_shape"),
        (reply(token_ids="12"), "wrong_shape"),
        (reply(token_ids=[1, "2"]), "wrong_shape"),
        (reply(token_ids=[1, 2.0]), "wrong_shape"),
        (reply(token_ids=[1, True]), "wrong_shape"),
        (reply(token_ids=[-1, 2]), "wrong_shape"),
        (reply(token_ids=[1, 2**31]), "wrong_shape"),
        (reply(token_ids=[]), "wrong_shape"),
        (reply(token_ids=list(range(10))), "wrong_shape"),
    ],
)
def test_a_reply_that_is_no_completion_is_trouble(body: bytes, kind: str) -> None:
    with pytest.raises(Trouble) as caught:
        read_reply(body, 9, IdsOut.TOKEN_IDS)
    assert caught.value.kind == kind
    assert len(caught.value.detail) < 400
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        {},
        {"tokens": None},
        {"tokens": [" a", " b"]},
        {"tokens": ["token_id:"]},
        {"tokens": ["token_id:7", "8"]},
        {"tokens": [1]},
    ],
)
def test_logprobs_without_ids_are_trouble(logprobs: object) -> None:
    with pytest.raises(Trouble, match="logprobs"):
        read_reply(reply(logprobs=logprobs), 9, IdsOut.LOGPROBS)


NAMES = st.sampled_from(
    ["choices", "data", "id", "text", "finish_reason", "token_ids", "logprobs", "tokens", "usage", "error"]
)
ANY_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@settings(deadline=None)
@given(ANY_JSON)
def test_no_json_crashes_a_reader(data: object) -> None:
    try:
        body = orjson.dumps(data)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate
        return
    kinds = [_kind_of(partial(read_reply, body, 9, ids_out)) for ids_out in IdsOut]
    kinds += [_kind_of(lambda: read_models(body)), _kind_of(lambda: read_token_count(body))]
    assert set(kinds) <= {None, "wrong_shape", "aborted"}
    error_message(body, None)


def _kind_of(read: Callable[[], object]) -> str | None:
    try:
        read()
    except Trouble as trouble:
        return trouble.kind if trouble.detail.isprintable() else "unprintable"
    return None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "too\\n  long", "code": 400}}', "too long"),
        (b'{"error": "plain"}', "plain"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"msg": "bad"}]}', '[{"msg":"bad"}]'),
        (b'{"message": "m"}', "m"),
        (b"<h1>Bad\x1b[31m Gateway\x00</h1>", "<h1>Bad[31m Gateway</h1>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
        (b'{"error": {"message": "key sk-1 is wrong"}}', "key *** is wrong"),
        (b'{"odd": "sk-1"}', '{"odd":"***"}'),
    ],
)
def test_error_message(body: bytes, said: str) -> None:
    assert error_message(body, "sk-1") == said


def test_one_line_is_short_and_printable() -> None:
    assert one_line("a" * 1000) == "a" * 299 + "…"
    assert one_line("\u202e\x07a\tb\u2028c") == "a b c"


NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        (" 1.5 ", 1.5),
        ("-1", None),
        ("soon", None),
        ("nan", None),
        ("9" * 40, None),
        ("Fri, 01 May 2026 12:00:10 GMT", 10.0),
        ("Fri, 01 May 2026 11:00:00 GMT", 0.0),
        ("Fri, 01 May 2026 12:00:10", 10.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("attempt", "asked", "jitter", "seconds"),
    [
        (1, None, 1.0, 0.5),
        (1, None, 0.0, 0.25),
        (3, None, 1.0, 2.0),
        (9, None, 1.0, 10.0),
        (10**6, None, 1.0, 10.0),
        (1, 4.0, 0.0, 4.0),
        (1, 4.0, 1.0, 4.5),
        (1, 400.0, 1.0, 10.0),
        (3, 0.1, 1.0, 2.0),
        (1, 0.0, 1.0, 0.5),
    ],
)
def test_backoff(attempt: int, asked: float | None, jitter: float, seconds: float) -> None:
    assert backoff(attempt, 0.5, 10.0, asked, jitter) == seconds


# --- life and death of replicas -------------------------------------------------------------------------

OPTIONS = Options("m", ("http://h",), cool_down=10.0)


def test_a_replica_dies_of_failures_in_a_row_that_are_not_one_burst() -> None:
    replica = Replica(OPTIONS, "http://h/v1")
    for _ in range(50):
        replica.failed(started=0.0, now=1.0)
    assert not replica.dead
    for n in range(DEATH - 1):
        replica.failed(started=1.0 + n, now=2.0 + n)
    assert replica.dead
    replica.answered()
    assert not replica.dead


def test_one_trajectory_at_a_time_tries_a_dead_replica_again() -> None:
    dead, alive = Replica(OPTIONS, "http://dead/v1"), Replica(OPTIONS, "http://alive/v1")
    for n in range(DEATH):
        dead.failed(started=n, now=n)
    died = float(DEATH - 1)
    assert [pick([dead, alive], died + t) for t in (0, 9, 10, 10.1, 19, 20)] == [
        alive,
        alive,
        dead,
        alive,
        alive,
        dead,
    ]
    dead.answered()
    assert pick([dead, alive], died + 21) is dead


def test_when_all_are_dead_the_next_to_be_tried_is_taken() -> None:
    first, second = Replica(OPTIONS, "http://first/v1"), Replica(OPTIONS, "http://second/v1")
    for n in range(DEATH):
        second.failed(started=n, now=n)
        first.failed(started=n, now=n + 0.5)
    assert pick([first, second], 3.0) is second


# --- the gate -------------------------------------------------------------------------------------------


def test_an_overload_halves_the_limit_once_a_round_trip_and_success_raises_it_by_one() -> None:
    limit = AdaptiveLimit(64)
    for _ in range(64):
        limit.overloaded(started=0.0, now=1.0)
    assert limit.limit == 32
    limit.overloaded(started=1.5, now=2.0)
    assert limit.limit == 16
    for _ in range(17):
        limit.succeeded(started=2.0, now=3.0, work=1.0, in_flight=16)
    assert limit.limit == 17
    for _ in range(10_000):
        limit.succeeded(started=2.0, now=3.0, work=1.0, in_flight=16)
    assert limit.limit == 64


def test_a_limit_never_falls_below_one() -> None:
    limit = AdaptiveLimit(3)
    for n in range(20):
        limit.overloaded(started=n, now=n + 0.5)
    assert limit.limit == 1
    with pytest.raises(ValueError, match="at least 1"):
        AdaptiveLimit(0)


def test_a_server_that_slows_down_gets_a_little_less_and_its_new_pace_becomes_the_norm() -> None:
    limit, now = AdaptiveLimit(100), 0.0
    for _ in range(500):
        limit.succeeded(now, now + 1, work=20, in_flight=100)
        now += 0.01
    assert limit.limit == 100
    lowest = 100
    for _ in range(2000):
        limit.succeeded(now, now + 10, work=20, in_flight=100)
        now += 0.1
        lowest = min(lowest, limit.limit)
    assert 50 < lowest < 100
    assert limit.limit == 100


def test_a_server_with_little_to_do_is_no_measure_of_its_pace() -> None:
    limit = AdaptiveLimit(64)
    for n in range(100):
        limit.succeeded(n, n + 0.1, work=20, in_flight=2)
    for n in range(1000):
        limit.succeeded(n, n + 10.0, work=20, in_flight=64)
    assert limit.limit == 64


async def test_places_are_given_in_the_order_they_were_asked_for() -> None:
    gate, order = Gate(AdaptiveLimit(2)), list[int]()

    async def pass_through(n: int) -> None:
        await gate.enter()
        order.append(n)
        await asyncio.sleep(0)
        gate.leave()

    await asyncio.gather(*(pass_through(n) for n in range(20)))
    assert order == list(range(20))
    assert gate.in_flight == 0


async def test_a_place_given_to_a_request_that_is_cancelled_at_that_moment_is_given_on() -> None:
    gate = Gate(AdaptiveLimit(1))
    await gate.enter()
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave()  # first is admitted, and has not run yet
    first.cancel()
    await second
    assert first.cancelled()
    assert gate.in_flight == 1


ACTIONS = st.sampled_from(["enter", "leave", "cancel", "turn", "overload", "succeed"])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.lists(st.tuples(ACTIONS, st.integers(0, 9)), max_size=80))
def test_no_place_is_lost_and_none_is_given_beyond_the_limit(
    most: int, actions: list[tuple[str, int]]
) -> None:
    asyncio.run(_exercise(most, actions))


async def _exercise(most: int, actions: list[tuple[str, int]]) -> None:
    gate, tasks, now = Gate(AdaptiveLimit(most)), list[asyncio.Task[None]](), 0.0
    held = 0

    async def enter() -> None:
        nonlocal held
        await gate.enter()
        held += 1

    for action, which in actions:
        now += 1.0
        before, limit = gate.in_flight, gate.limit
        if action == "enter":
            tasks.append(asyncio.create_task(enter()))
        elif action == "leave" and held:
            held -= 1
            gate.leave()
        elif action == "cancel" and tasks:
            tasks[which % len(tasks)].cancel()
        elif action == "turn":
            for _ in range(which % 4):
                await asyncio.sleep(0)
        elif action == "overload":
            gate.overloaded(now - which, now)
        elif action == "succeed":
            gate.succeeded(now - which - 0.5, now, 1.0)
        assert 1 <= gate.limit <= most
        assert gate.in_flight <= max(before, limit)
    for _ in range(1000):
        await asyncio.sleep(0)
        if held:
            held -= 1
            gate.leave()
    assert all(task.done() for task in tasks)
    assert gate.in_flight == 0
    started = time.monotonic()
    await gate.enter()
    assert time.monotonic() - started < 1
