"""Rule 5: a run gives what a plain reading of Algorithm 1 gives, at any concurrency, greedily.

The embedded pair in double precision, so that no sum depends on which rows were computed together; the oracle asks each
model by its own `generate`, one request at a time. And scripted models behind sockets, in streams that are cut off
at the boundaries, of few and many tokens an event, sound and breaking off.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM

import runs
from oracle import Pen, Written, algorithm_1
from tessy import embedded
from tessy.adapters.fakes import Fault, Traits
from tessy.adapters.store import read_trajectories
from tessy.programs.config import RunConfig
from tessy.programs.demo import demo_config, write_questions
from tessy.programs.run import synthesize
from tessy.programs.speakers import Participant, participants
from tessy.protocols import Completion
from tessy.questions import Message
from tessy.trajectory import Speaker

QUESTIONS = 4


def greedy(folder: Path, **changes: Any) -> RunConfig:
    """The demonstration's run without chance; the least that its limits allow, so that no text goes on for long."""
    data = demo_config(folder, **changes).model_dump() | {"sampling": {"temperature": 0}}
    for speaker in Speaker:
        data[speaker.value]["dtype"] = "float64"
    data["limits"] |= {"thinking_tokens": 150, "context_tokens": 400, "on_thinking_limit": "close"}
    return RunConfig.model_validate(data)


def writer(speaker: Speaker) -> object:
    """A model as the oracle wants it: plain `generate`."""
    model = AutoModelForCausalLM.from_pretrained(embedded.path(speaker.value), dtype=torch.float64)

    async def write(ids: Sequence[int], count: int) -> Completion:
        prompt = torch.tensor([list(ids)])
        with torch.inference_mode():
            whole = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=count,
                do_sample=False,
                top_k=None,
                top_p=None,
            )
        new = tuple(whole[0, len(ids) :].tolist())
        ends = model.generation_config.eos_token_id
        finished = new[-1] in (ends if isinstance(ends, list) else [ends])
        return Completion(new, "", finished)

    return write


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Written]:
    """The oracle's responses, by question."""
    folder = tmp_path_factory.mktemp("oracle")
    problems = write_questions(folder, QUESTIONS)
    config = greedy(folder)
    limits = config.limits
    found = {}
    async with participants(config) as speakers:
        models = {speaker: writer(speaker) for speaker in Speaker}
        for problem in problems:
            pens = {
                speaker: Pen(
                    models[speaker],  # type: ignore[arg-type]
                    each.predictor,
                    each.tokenizer,
                    each.thinking,
                    each.thinking.prompt([Message("user", problem.question)]),
                    config.chunk_of(speaker),
                )
                for speaker, each in speakers.items()
            }
            found[problem.question] = await algorithm_1(
                pens, thinking_tokens=limits.thinking_tokens, context_tokens=limits.context_tokens, close=True
            )
    return found


@pytest.mark.parametrize("concurrency", [1, 8, 64])
async def test_the_run_writes_what_the_oracle_writes(
    tmp_path: Path, expected: Mapping[str, Written], concurrency: int
) -> None:
    write_questions(tmp_path, QUESTIONS)
    summary = await synthesize(greedy(tmp_path, concurrency=concurrency))
    assert summary.kept == QUESTIONS, summary
    for trajectory in read_trajectories(tmp_path / "run"):
        oracle = expected[trajectory.question.text]
        assert tuple((s.speaker, s.text, s.tokens) for s in trajectory.spans) == oracle.spans
        assert trajectory.answer
        assert trajectory.answer.text == oracle.answer
        assert len(oracle.spans) > 2, "the two must alternate for this to say anything"


# --- streams --------------------------------------------------------------------------------------------

STREAMED = range(24)


async def scripted_oracle(config: RunConfig) -> Mapping[str, Written]:
    """The oracle's responses to the scripted questions."""
    models = {Speaker.STUDENT: runs.STUDENT, Speaker.TEACHER: runs.TEACHER}

    def pen(speaker: Speaker, each: Participant, question: str) -> Pen:
        async def write(ids: Sequence[int], count: int) -> Completion:
            return models[speaker].write(ids, count)

        prompt = each.thinking.prompt([Message("user", question)])
        return Pen(write, each.predictor, each.tokenizer, each.thinking, prompt, config.chunk_of(speaker))

    async with participants(config) as speakers:
        return {
            (question := runs.text(n)): await algorithm_1(
                {speaker: pen(speaker, each, question) for speaker, each in speakers.items()},
                thinking_tokens=config.limits.thinking_tokens,
                context_tokens=config.limits.context_tokens,
                close=True,
            )
            for n in STREAMED
        }


def breaking(number: int) -> Fault | None:
    """Every third stream breaks off, each after another number of events."""
    return Fault(after=number % 29, reset=True) if number > 4 and number % 3 == 0 else None


@pytest.mark.parametrize(
    ("concurrency", "per_event", "chunks", "fault"),
    [
        (1, 1, (15, 12), None),
        (8, 1, (5, 10), None),
        (64, 1, (15, 12), None),
        (8, 4, (15, 12), None),
        (64, 7, (1, 3), None),
        (8, 1, (15, 12), breaking),
        (64, 3, (5, 10), breaking),
    ],
)
async def test_streams_that_are_cut_off_write_what_the_oracle_writes(
    tmp_path: Path,
    concurrency: int,
    per_event: int,
    chunks: tuple[int, int],
    fault: runs.Faults | None,
) -> None:
    runs.write_questions(tmp_path / "questions.jsonl", STREAMED)
    disturb = fault or (lambda number: None)
    async with runs.servers(student=disturb, teacher=disturb) as at:
        for server in at:
            server.pace, server.traits = 0.0005, Traits(per_event=per_event)
        given = runs.fields(tmp_path, at, concurrency=concurrency)
        given["student"]["chunk"], given["teacher"]["chunk"] = chunks
        given["limits"] = {"thinking_tokens": 230, "context_tokens": 2000, "on_thinking_limit": "close"}
        given["requests"] = {"retries": 50}
        config = RunConfig.model_validate(given)
        oracle = await scripted_oracle(config)
        summary = await synthesize(config)
        spans = sum(len(each.spans) for each in oracle.values())
        generated = at.generated
    assert summary.kept == len(STREAMED), summary
    for trajectory in read_trajectories(tmp_path / "run"):
        expected = oracle[trajectory.question.text]
        assert tuple((s.speaker, s.text, s.tokens) for s in trajectory.spans) == expected.spans
        assert trajectory.answer
        assert trajectory.answer.text == expected.answer
    assert {each.closed for each in oracle.values()} == {True, False}, (
        "some must reach the limit of the thinking"
    )
    if not fault:
        # Without waiting for anything, the servers get a request a span and an answer, and stop at the cuts.
        assert sum(summary.requests.values()) == spans + len(STREAMED)
        assert generated < 2 * sum(summary.totals.tokens.values())
