"""The chat client against a chat server on a real socket: what it sends, what it understands, what it asks again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from runs import IMPATIENT
from tessy.adapters.fakes import FakeChat, Fault
from tessy.adapters.server import GREEDY, ChatClient, ChatReply, Constraint, ServerOptions, api_root
from tessy.adapters.server.chat_wire import read_chat
from tessy.adapters.server.wire import Trouble
from tessy.errors import CompletionError, RequestError, ServerError
from tessy.questions import Message

SECRET = "sk-very-secret"
SCHEMA: Mapping[str, object] = {"type": "array", "items": {"type": "string"}}
QUESTION = (Message("system", "You are brief."), Message("user", "Why is that so?"))
REPLY = ChatReply("You said: Why is that so?", True, 7, 6)
QUICK: dict[str, Any] = {
    **IMPATIENT,
    "sampling": GREEDY,
    "api_key": SECRET,
}


def echo(message: str, constrained: bool) -> str:
    return f"You said: {message}"


@asynccontextmanager
async def client_at(
    *urls: str, template: Mapping[str, object] | None = None, **options: Any
) -> AsyncIterator[ChatClient]:
    given = ServerOptions("scripted", urls, **(QUICK | options))
    client = ChatClient(given) if template is None else ChatClient(given, template=template)
    try:
        yield client
    finally:
        await client.close()


async def ask(client: ChatClient, max_tokens: int = 20) -> ChatReply:
    return await client.ask(QUESTION, max_tokens=max_tokens, schema=SCHEMA)


def after(good: int, fault: Fault, times: int = 10**9) -> Callable[[int], Fault | None]:
    """A fault `times` times, after some good requests (the first is the negotiation)."""
    return lambda number: fault if good < number <= good + times else None


# --- what is sent -------------------------------------------------------------------------------------------


async def test_the_request_says_all_and_the_reply_is_counted() -> None:
    async with FakeChat(echo) as server, client_at(server.base_url) as client:
        assert await ask(client) == REPLY
        assert server.last == {
            "model": "scripted",
            "messages": [
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": "Why is that so?"},
            ],
            "max_tokens": 20,
            "temperature": 0.0,
            "top_p": 1.0,
            "chat_template_kwargs": {"enable_thinking": False},
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
            },
        }
        assert (client.stats.requests, client.stats.generated, client.stats.retries) == (1, 6, 0)


async def test_without_a_schema_nothing_is_constrained() -> None:
    async with (
        FakeChat(echo) as server,
        client_at(server.base_url, template={}, sampling=replace(GREEDY, temperature=0.5)) as client,
    ):
        assert await client.ask(QUESTION, max_tokens=20) == REPLY
        assert not {"response_format", "guided_json", "chat_template_kwargs"} & server.last.keys()
        assert server.last["temperature"] == 0.5


async def test_a_reply_that_the_limit_ended_says_so() -> None:
    async with FakeChat(echo) as server, client_at(server.base_url) as client:
        assert await ask(client, 3) == ChatReply("You said: Why", False, 7, 3)


async def test_many_at_once_negotiate_once() -> None:
    async with FakeChat(echo, latency=0.001) as server, client_at(server.base_url, concurrency=8) as client:
        assert await asyncio.gather(*(ask(client) for _ in range(40))) == [REPLY] * 40
        assert server.requests == 1 + 40
        assert server.max_in_flight == 8
        assert client.stats.in_flight == 0


@pytest.mark.parametrize("path", ["", "/v1", "/v1/", "/v1/completions", "/v1/chat/completions"])
def test_any_form_of_the_address_will_do(path: str) -> None:
    assert api_root(f"http://h:1{path}") == "http://h:1/v1"
    assert api_root(f"http://h:1/chat{path}") == "http://h:1/chat/v1"


# --- what a server understands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refuses", "constraint", "kept"),
    [
        ((), Constraint.RESPONSE_FORMAT, {"chat_template_kwargs", "max_tokens"}),
        (("response_format",), Constraint.GUIDED_JSON, {"chat_template_kwargs", "max_tokens"}),
        (("response_format", "guided_json"), Constraint.NONE, {"chat_template_kwargs", "max_tokens"}),
        (("chat_template_kwargs", "guided_json"), Constraint.RESPONSE_FORMAT, {"max_tokens"}),
        (("chat_template_kwargs", "guided_json", "response_format"), Constraint.NONE, {"max_tokens"}),
        (
            ("chat_template_kwargs", "max_tokens", "temperature", "top_p", "guided_json"),
            Constraint.RESPONSE_FORMAT,
            {"max_completion_tokens"},
        ),
        (
            ("chat_template_kwargs", "max_tokens", "temperature", "top_p", "guided_json", "response_format"),
            Constraint.NONE,
            {"max_completion_tokens"},
        ),
    ],
)
async def test_what_a_server_refuses_is_left_out(
    refuses: tuple[str, ...], constraint: Constraint, kept: set[str]
) -> None:
    async with FakeChat(echo, refuses=frozenset(refuses)) as server, client_at(server.base_url) as client:
        assert await ask(client) == REPLY
        dialect = await client.negotiate(SCHEMA)
        assert dialect.constraint is constraint
        sent = server.last.keys()
        assert sent & {"response_format", "guided_json"} == {constraint.value} - {"none"}
        assert sent & {"chat_template_kwargs", "max_tokens", "max_completion_tokens"} == kept
        assert client.stats.retries == 0


async def test_replicas_are_asked_in_a_dialect_that_all_understand() -> None:
    async with (
        FakeChat(echo) as rich,
        FakeChat(echo, refuses=frozenset({"response_format", "guided_json"})) as plain,
        client_at(rich.base_url, plain.base_url) as client,
    ):
        assert await asyncio.gather(*(ask(client) for _ in range(8))) == [REPLY] * 8
        assert rich.requests > 1
        assert plain.requests > 3
        assert "response_format" not in rich.last


async def test_one_schema_may_be_refused_and_another_taken() -> None:
    server = FakeChat(echo, refuses=frozenset({"response_format", "guided_json"}))
    async with server, client_at(server.base_url) as client:
        assert (await client.negotiate(SCHEMA)).constraint is Constraint.NONE
        server.refuses = frozenset()
        assert (await client.negotiate({"type": "object"})).constraint is Constraint.RESPONSE_FORMAT
        assert (await client.negotiate(SCHEMA)).constraint is Constraint.NONE


# --- what goes wrong ----------------------------------------------------------------------------------------------

TRANSIENT = {
    "reset": Fault(reset=True),
    "http_500": Fault.error(500, "EngineCore encountered an issue"),
    "http_503": Fault.error(503, "Service Unavailable"),
    "rate_limited": Fault.error(429, "slow down", Retry_After="0.02"),
    "not_json": Fault(body=b"<html>\x1b[31mBad Gateway</html>"),
    "wrong_shape": Fault(body=orjson.dumps({"choices": [{"text": "a completion", "finish_reason": "stop"}]})),
    "aborted": Fault(
        body=orjson.dumps({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]})
    ),
}


def check_message(error: CompletionError, kind: str, where: str) -> None:
    """One printable line that names model and server and holds no secret."""
    message = str(error)
    assert error.kind == kind
    assert message.startswith(f"{where}: ")
    assert message.isprintable()
    assert len(message) < 500
    chain: BaseException | None = error
    while chain is not None:
        assert SECRET not in str(chain) + repr(chain)
        chain = chain.__cause__ or chain.__context__


@pytest.mark.parametrize("kind", TRANSIENT)
async def test_what_passes_is_asked_again(kind: str) -> None:
    async with (
        FakeChat(echo, fault=after(1, TRANSIENT[kind], times=2)) as server,
        client_at(server.base_url) as client,
    ):
        assert await ask(client) == REPLY
        assert server.requests == 1 + 3
        assert (client.stats.requests, client.stats.retries, client.stats.in_flight) == (1, 2, 0)


@pytest.mark.parametrize("kind", TRANSIENT)
async def test_what_lasts_is_one_error_after_the_retries(kind: str) -> None:
    async with (
        FakeChat(echo, fault=after(1, TRANSIENT[kind])) as server,
        client_at(server.base_url, role="annotator") as client,
    ):
        with pytest.raises(ServerError, match="4 attempts") as caught:
            await ask(client)
        check_message(caught.value, kind, f"annotator model scripted at {server.base_url}")
        assert server.requests == 1 + 4


async def test_a_wrong_model_name_is_said_at_once() -> None:
    async with FakeChat(echo, name="other") as server, client_at(server.base_url) as client:
        for asking in (client.negotiate(SCHEMA), ask(client)):
            with pytest.raises(RequestError, match="The model `scripted` does not exist") as caught:
                await asking
            check_message(caught.value, "http_404", f"model scripted at {server.base_url}")
        assert server.requests == 2


async def test_a_wrong_key_is_said_at_once_and_not_shown() -> None:
    async with FakeChat(echo, key="another") as server, client_at(server.base_url) as client:
        with pytest.raises(RequestError) as caught:
            await ask(client)
        check_message(caught.value, "http_401", f"model scripted at {server.base_url}")


async def test_a_request_that_is_too_long_is_refused_once() -> None:
    async with FakeChat(echo, context=30) as server, client_at(server.base_url) as client:
        assert await ask(client) == REPLY
        with pytest.raises(RequestError, match="maximum context length"):
            await ask(client, 1000)
        assert client.stats.retries == 0


async def test_the_other_replica_goes_on_when_one_dies() -> None:
    async with (
        FakeChat(echo) as one,
        FakeChat(echo) as two,
        client_at(one.base_url, two.base_url, retries=5) as client,
    ):
        assert await asyncio.gather(*(ask(client) for _ in range(8))) == [REPLY] * 8
        assert min(one.requests, two.requests) > 1
        await one.stop()
        assert await asyncio.gather(*(ask(client) for _ in range(32))) == [REPLY] * 32
        assert client.stats.retries > 0


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "not_json"),
        (b"[]", "wrong_shape"),
        (b"{}", "wrong_shape"),
        (b'{"error": "out of memory"}', "wrong_shape"),
        (b'{"choices": []}', "wrong_shape"),
        (b'{"choices": [{"message": "hi", "finish_reason": "stop"}]}', "wrong_shape"),
        (b'{"choices": [{"message": {}, "finish_reason": "stop"}]}', "wrong_shape"),
        (b'{"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}', "wrong_shape"),
        (b'{"choices": [{"message": {"content": "a"}}]}', "wrong_shape"),
        (b'{"choices": [{"message": {"content": "a"}, "finish_reason": "tool_calls"}]}', "aborted"),
    ],
)
def test_what_is_no_reply_is_none(body: bytes, kind: str) -> None:
    with pytest.raises(Trouble) as caught:
        read_chat(body)
    assert caught.value.kind == kind
    assert not caught.value.refused


def test_a_reply_of_reasoning_alone_is_empty_and_usage_may_lack() -> None:
    body = b'{"choices": [{"message": {"content": null, "reasoning": "Hm"}, "finish_reason": "length"}]}'
    assert read_chat(body) == ChatReply("", False, 0, 0)
    odd = b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": "7"}}'
    assert read_chat(odd) == ChatReply("a", True, 0, 0)
