"""`tessy synthesize` to the end against real vLLM servers on this machine, and what came of it.

Three runs at concurrency 64, each speaker with a server on a core of its own: the embedded pair on 200 of its own hard
test questions, and SmolLM2-135M with Gemma 3 270M (another vocabulary) beside it on 100 of GSM8K, once as the student
and once as the teacher, their thinking closed at 300 tokens. `--quick` is the first one with a dozen questions.

Uses the command line as a user would, and reads only what a run leaves behind and the servers' own counters.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

import vllm_servers
from tessy import embedded
from tessy.adapters.store import read_trajectories
from tessy.embedded import world
from tessy.trajectory import Trajectory
from vllm_servers import Metrics

RUNS = Path("runs/real-servers")
QUICK_QUESTIONS = 12
HARD_QUESTIONS = 200
GSM8K_QUESTIONS = 100


@dataclass(frozen=True)
class Case:
    """One run: who speaks (names of served models), about what, and what its run.yaml says besides."""

    name: str
    student: str
    teacher: str
    questions: Path
    settings: Mapping[str, Any]
    problems: Mapping[str, world.Problem] = field(default_factory=dict)
    """By question, where answers can be checked."""


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    case: str
    summary: Mapping[str, Any]
    """The run's own summary.json."""
    right: int | None
    """Kept answers that are right, where the questions can be checked."""
    seconds: float
    """Of the whole command, loading and checking included."""
    servers: Mapping[str, Metrics]
    """By speaker, what its server counted during the run."""
    run_dir: str


SPEAKERS: Mapping[str, Mapping[str, str]] = {
    "embedded-student": {
        "format": "qwen3",
        "predictor": "embedded/student_predictor",
    },
    "embedded-teacher": {
        "format": "openai_gptoss",
        "predictor": "embedded/teacher_predictor",
    },
    # Their templates know no thinking: `<think>` is ordinary text to both, which this format is content with.
    "smollm2-135m": {"format": "deepseek_r1", "predictor": "rules"},
    "gemma3-270m": {"format": "deepseek_r1", "predictor": "rules"},
}


def embedded_case(runs: Path, questions: int, concurrency: int) -> Case:
    """The embedded pair on its own hard test questions."""
    path = runs / "hard-questions.jsonl"
    problems = {
        problem.question: problem for problem in world.problems(world.HARD, "test", questions, seed=1)
    }
    runs.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in problems))
    settings = {
        "concurrency": concurrency,
        "limits": {"thinking_tokens": 1024, "context_tokens": 2048},
    }
    return Case("embedded pair", "embedded-student", "embedded-teacher", path, settings, problems)


def gsm8k_cases() -> list[Case]:
    """SmolLM2 and Gemma in both roles, on the first questions of GSM8K."""
    settings: dict[str, Any] = {
        "concurrency": 64,
        "limit": GSM8K_QUESTIONS,
        "attempts": 2,
        # For top_p, vLLM on a CPU sorts the vocabulary for each token: 1.6 s for 64 requests and Gemma's 262,144.
        "sampling": {"top_p": 1.0},
        "limits": {
            "thinking_tokens": 300,
            "context_tokens": 2048,
            "answer_tokens": 256,
            "on_thinking_limit": "close",
        },
    }
    questions = Path(os.environ.get("TESSY_SHARED_DATA", ".")) / "questions" / "gsm8k-400.jsonl"
    smol, gemma = "smollm2-135m", "gemma3-270m"
    return [
        Case("SmolLM2 student, Gemma teacher", smol, gemma, questions, settings),
        # A base model does not end what it writes, so there the teacher answers (the paper's ablation A.1).
        Case("Gemma student, SmolLM2 teacher", gemma, smol, questions, settings | {"answerer": "teacher"}),
    ]


def run(case: Case, urls: Mapping[str, str], runs: Path) -> Outcome:
    """Do a case with the real command line, from an empty run directory to its end.

    Raises:
        SystemExit: the questions are not there, or the run ended in an error or owes something.
    """
    if not case.questions.is_file():
        raise SystemExit(
            f"{case.questions} is not there: set TESSY_SHARED_DATA to the folder that holds questions/"
        )
    slug = "-".join(case.name.lower().replace(",", "").split())
    run_dir = runs / f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir.mkdir(parents=True)
    config = run_dir / "run.yaml"
    config.write_text(yaml.safe_dump(_run_yaml(case, urls, run_dir), sort_keys=False))
    roles = {"student": case.student, "teacher": case.teacher}
    before = {role: vllm_servers.metrics(urls[model]) for role, model in roles.items()}
    started = time.monotonic()
    command = [str(Path(sys.executable).with_name("tessy")), "synthesize", "--config", str(config)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{case.name}: the run did not end well; see {run_dir}/run.log")
    seconds = time.monotonic() - started
    counted = {role: vllm_servers.metrics(urls[model]).since(before[role]) for role, model in roles.items()}
    summary = json.loads((run_dir / "summary.json").read_text())
    right = _right(case, read_trajectories(run_dir))
    return Outcome(case.name, summary, right, round(seconds, 1), counted, str(run_dir))


def _run_yaml(case: Case, urls: Mapping[str, str], run_dir: Path) -> dict[str, Any]:
    return {
        "questions": str(case.questions),
        "run_dir": str(run_dir),
        "seed": 1,
        **{
            role: {
                "model": model,
                "base_url": urls[model],
                "tokenizer": str(_folder(model)),
                **SPEAKERS[model],
            }
            for role, model in (("student", case.student), ("teacher", case.teacher))
        },
        **case.settings,
    }


def _folder(model: str) -> Path:
    """Where a model lies; one that does not is made."""
    if model == "embedded-student":
        return embedded.path("student")
    if model == "embedded-teacher":
        return embedded.path("teacher")
    return vllm_servers.model_folder(model)


def _right(case: Case, trajectories: Iterable[Trajectory]) -> int | None:
    """How many answers are right; None where nobody knows."""
    if not case.problems:
        return None
    answered = ((row.question.text, row.answer) for row in trajectories)
    return sum(
        answer is not None and world.check(case.problems[question], answer.text)
        for question, answer in answered
    )


def run_all(cases: Iterable[Case], runs: Path) -> Iterator[Outcome]:
    """Do the cases, one after the other; those with the same two models share their servers."""
    groups: dict[frozenset[str], list[Case]] = {}
    for case in cases:
        groups.setdefault(frozenset((case.student, case.teacher)), []).append(case)
    for group in groups.values():
        started = time.monotonic()
        folders = {model: _folder(model) for model in (group[0].student, group[0].teacher)}
        with vllm_servers.serve(folders, runs / "logs") as urls:
            print(f"two servers after {time.monotonic() - started:.0f} s", flush=True)
            for case in group:
                yield run(case, urls, runs)


def table(outcomes: Iterable[Outcome]) -> Table:
    """The outcomes, a row for each."""
    shown = Table(
        "run", "asked", "kept", "failed", "owed", "right", "kept tok/s", "seconds", "student", "hits S/T"
    )
    for outcome in outcomes:
        summary, servers = outcome.summary, outcome.servers
        tokens = summary["totals"]["tokens"]
        shown.add_row(
            outcome.case,
            *(str(summary[count]) for count in ("asked", "kept", "failed", "owed")),
            "" if outcome.right is None else str(outcome.right),
            f"{summary['kept_tokens_per_second']:.0f}",
            f"{outcome.seconds:.0f}",
            f"{tokens['student'] / max(1, sum(tokens.values())):.0%}",
            " / ".join(f"{servers[role].hit_rate:.0%}" for role in ("student", "teacher")),
        )
    return shown


def main() -> None:
    """Do the runs, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        description="tessy synthesize against real vLLM servers on this machine."
    )
    parser.add_argument("--quick", action="store_true", help="a dozen questions of the embedded pair")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the run directories go")
    parser.add_argument("--only", default="", help="only runs whose name contains this")
    arguments = parser.parse_args()
    runs = arguments.runs.resolve()
    vllm_servers.make_environment()
    if arguments.quick:
        cases = [embedded_case(runs, QUICK_QUESTIONS, concurrency=QUICK_QUESTIONS)]
    else:
        cases = [embedded_case(runs, HARD_QUESTIONS, concurrency=64), *gsm8k_cases()]
    outcomes: list[Outcome] = []
    figures = runs / "figures.json"
    for outcome in run_all((case for case in cases if arguments.only in case.name), runs):
        outcomes.append(outcome)
        figures.write_text(json.dumps([asdict(each) for each in outcomes], indent=2) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(outcomes))
    for outcome in outcomes:
        stops, failures = outcome.summary["totals"]["stops"], outcome.summary["failures"]
        console.print(f"{outcome.case}: kept by stop reason {stops}, failed {failures}", highlight=False)
    console.print(f"figures in {figures}")


if __name__ == "__main__":
    main()
