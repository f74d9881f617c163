"""What the embedded pair can do: problems solved on the test split, family by family, each speaker alone.

Owns the measurement of speakers; that of boundary predictors is in `predictors`, that of the two together is a
run of `tessy synthesize`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vocabularies import Dialect

from tessy.embedded.world import HARD, Family, Problem, check, problems

SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
GREEDY: dict[str, Any] = {"do_sample": False}
_HARD_QUESTIONS = 200
_EASY_QUESTIONS = 50
_BATCH = 50
_LONGEST = 480


def solved(dialect: Dialect, folder: Path, seed: int) -> dict[str, float]:
    """The share of right answers on test problems: greedy in each family, and sampled in the hard one."""
    torch.manual_seed(seed)
    shares = {}
    for family in Family:
        count = _HARD_QUESTIONS if family is HARD else _EASY_QUESTIONS
        asked = problems(family, "test", count, seed)
        shares[family.value] = right(dialect, folder, asked, GREEDY)
        if family is HARD:
            shares[f"{family.value}_sampled"] = right(dialect, folder, asked, SAMPLING)
    return shares


def right(dialect: Dialect, folder: Path, asked: list[Problem], sampling: dict[str, Any]) -> float:
    """The share of problems that the speaker alone answers right."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hits = 0
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        replies = _replies(tokenizer, model, [problem.question for problem in batch], sampling)
        for problem, reply in zip(batch, replies, strict=True):
            answer = reply.split(dialect.after_thinking)[-1].split(dialect.eos)[0]
            hits += check(problem, answer)
    return round(hits / len(asked), 4)


def _replies(tokenizer: Any, model: Any, questions: list[str], sampling: dict[str, Any]) -> list[str]:
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    ids = encoded["input_ids"]
    written = model.generate(
        input_ids=ids, attention_mask=encoded["attention_mask"], max_new_tokens=_LONGEST, **sampling
    )
    return [tokenizer.decode(row[ids.shape[1] :]) for row in written]
