"""Rule 5: the embedded pair, greedily, gives what a plain reading of Algorithm 1 gives, at any concurrency.

In double precision, so that no sum depends on which rows were computed together. The oracle asks each model by its own
`generate`, one request at a time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM

from oracle import Pen, Written, algorithm_1
from tessy import embedded
from tessy.adapters.store import read_trajectories
from tessy.programs.config import RunConfig
from tessy.programs.demo import demo_config, write_questions
from tessy.programs.run import synthesize
from tessy.programs.speakers import participants
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
                    each.config.chunk,
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
