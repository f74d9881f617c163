"""The scripted stand-ins keep their promises: deterministic, greedy-consistent, two vocabularies, exact labels."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessy.adapters.fakes import (
    ByteTokenizer,
    FakeEngine,
    PairTokenizer,
    ScriptedBoundary,
    ScriptedModel,
    Voice,
)
from tessy.adapters.server import ServerEngine, ServerOptions
from tessy.core.prompt import TokenBuffer
from tessy.errors import DeadlineError, ServerError
from tessy.protocols import Engine, Tokenizer
from tessy.questions import Message

STUDENT = ScriptedModel(ByteTokenizer())
TEACHER = ScriptedModel(PairTokenizer(), Voice.TEACHER, salt=1)
MODELS = pytest.mark.parametrize("model", [STUDENT, TEACHER], ids=["student", "teacher"])
TOKENIZERS = pytest.mark.parametrize("tokenizer", [ByteTokenizer(), PairTokenizer()], ids=["bytes", "pairs"])


def opened(model: ScriptedModel, question: str) -> list[int]:
    """The prompt of a question, up to the start of the thinking."""
    text = model.tokenizer.decode(model.tokenizer.render([Message("user", question)])).removesuffix(
        "<think>\n"
    )
    return model.tokenizer.encode_markup(text + "<think>\n")


@TOKENIZERS
@given(text=st.text())
def test_text_survives_and_never_becomes_markup(tokenizer: ByteTokenizer, text: str) -> None:
    tokenizer_protocol: Tokenizer = tokenizer
    ids = tokenizer_protocol.encode("</think>" + text)
    assert tokenizer.decode(ids) == "</think>" + text.encode("utf-8", "replace").decode()
    assert tokenizer.end_think_id not in ids
    assert not tokenizer.control_ids & set(ids)


@TOKENIZERS
@given(text=st.text(), cut=st.integers(0, 30))
def test_offsets_are_those_of_the_decoded_text(tokenizer: ByteTokenizer, text: str, cut: int) -> None:
    ids = tokenizer.encode(text)
    before, after = ids[:cut], ids[cut:]
    added, ends = tokenizer.offsets(before, after)
    whole = tokenizer.decode(ids)
    complete = tokenizer.decode_bytes(before).decode("utf-8", "ignore")
    assert complete + added == whole
    for n, end in enumerate(ends, start=1):
        assert complete + added[:end] == tokenizer.decode_bytes(ids[: cut + n]).decode("utf-8", "ignore")


def test_the_two_vocabularies_share_no_meaning() -> None:
    one, two = ByteTokenizer(), PairTokenizer()
    text = "Okay, 3 + 4 = 7"
    assert two.decode(one.encode(text)) == ""
    assert len(two.encode(text)) < len(one.encode(text))
    assert two.decode(two.render([Message("user", "a")])) == "<s><|user|>a<|assistant|><think>\n"
    assert (
        one.decode(one.render([Message("user", "a")]))
        == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )


@MODELS
@settings(max_examples=40, deadline=None)
@given(question=st.text(max_size=20), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_chunks_are_what_one_completion_gives(model: ScriptedModel, question: str, sizes: list[int]) -> None:
    prompt = opened(model, question)
    whole = model.write(prompt, 10_000)
    assert whole.finished
    ids, n = list(prompt), 0
    while not (completion := model.write(ids, sizes[n % len(sizes)])).finished:
        ids += completion.ids or ()
        n += 1
    assert (*ids[len(prompt) :], *(completion.ids or ())) == whole.ids


@MODELS
@settings(max_examples=60, deadline=None)
@given(foreign=st.text(max_size=30), cut=st.integers(0, 400), more=st.integers(1, 60))
def test_after_any_text_chunks_are_what_one_completion_gives(
    model: ScriptedModel, foreign: str, cut: int, more: int
) -> None:
    prompt = opened(model, "Why?")
    prompt += list(model.write(prompt, cut).ids or ())
    prompt += model.tokenizer.encode(foreign)
    first = model.write(prompt, more)
    second = model.write([*prompt, *(first.ids or ())], more) if not first.finished else first
    expected = model.write(prompt, 2 * more).ids or ()
    assert expected[: len(first.ids or ())] == first.ids
    assert first.finished or expected == (*(first.ids or ()), *(second.ids or ()))


@MODELS
def test_a_script_depends_on_the_question_and_has_style_thinking_and_answer(model: ScriptedModel) -> None:
    texts = {model.write(opened(model, f"Question {n}?"), 10_000).text for n in range(50)}
    assert len(texts) == 50
    for text in texts:
        thinking, _, answer = text.partition("\n</think>\n\n")
        assert 3 <= thinking.count("[") <= 12
        assert answer.startswith("The answer is ")


def test_a_long_thinking_does_not_loop() -> None:
    model = ScriptedModel(ByteTokenizer(), clauses=(2000, 2000))
    text = model.write(opened(model, "Why?"), 200_000).text
    clauses = text.split("]")
    assert len(clauses) == 2001
    assert len(set(clauses)) > 1990


async def test_the_scripted_boundary_labels_every_word_exactly() -> None:
    draft = "ay, so 73 →  But [3|21] Naïve"
    marks = await ScriptedBoundary()("Ok", draft)
    assert [(draft[mark.start], mark.style) for mark in marks] == [
        ("s", 1.0),
        ("7", 0.0),
        ("→", 0.0),
        ("B", 1.0),
        ("[", 0.0),
        ("N", 1.0),
    ]
    assert [mark.start for mark in await ScriptedBoundary()("Ok ", "ay,")] == [0]


async def test_the_engine_in_this_process_writes_what_the_model_writes() -> None:
    fake = FakeEngine(STUDENT, fault=lambda number: ServerError("no") if number == 2 else None)
    engine: Engine = fake
    prompt = TokenBuffer(opened(STUDENT, "Why?"))
    complete = engine.completer("t", seed=None, deadline=None)
    assert await complete(prompt, 20) == STUDENT.write(prompt.ids, 20)
    with pytest.raises(ServerError, match="no"):
        await complete(prompt, 20)
    with pytest.raises(DeadlineError):
        await engine.completer("t", seed=None, deadline=time.monotonic() - 1)(prompt, 20)
    assert (fake.stats.requests, fake.stats.generated, fake.stats.in_flight) == (1, 20, 0)
    await engine.close()


def test_a_server_in_its_own_process_serves_until_it_is_told_to_stop() -> None:
    command = [
        sys.executable,
        "-m",
        "tessy.adapters.fakes",
        "--vocabulary",
        "pairs",
        "--voice",
        "teacher",
        "--salt",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        prompt = TokenBuffer(opened(TEACHER, "Why?"))
        assert asyncio.run(_ask(url, prompt)) == TEACHER.write(prompt.ids, 20)
        process.terminate()
        assert process.wait() == 0


async def _ask(url: str, prompt: TokenBuffer) -> object:
    engine = ServerEngine(ServerOptions("scripted", (url,)), TEACHER.tokenizer)
    try:
        return await engine.completer("t", seed=None, deadline=None)(prompt, 20)
    finally:
        await engine.close()
