"""Strategies as runs: on the scripted models, killed and begun again, and on the embedded pair down to the export."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from killing import LATENCY, Killer, forker, watched
from runs import check_books, config, failures, fields, kept, write_questions
from tessy import display
from tessy.adapters.export import write_export
from tessy.adapters.store import read_rows, read_trajectories
from tessy.cli import app
from tessy.core.cooperate import Response
from tessy.core.strategies import Grade, Job, Strategy
from tessy.core.strategies.ways import mixed
from tessy.embedded.world import check
from tessy.errors import ConfigError
from tessy.programs.check import check as check_run
from tessy.programs.config import load
from tessy.programs.demo import demo_config
from tessy.programs.demo import write_questions as write_hard_questions
from tessy.programs.run import synthesize
from tessy.programs.speakers import participants
from tessy.trajectory import Speaker, Trajectory
from test_kill import check_again

STUDENT, TEACHER = Speaker.STUDENT, Speaker.TEACHER
DRAWN: dict[str, Any] = {"sampling": {"temperature": 0.7}, "seed": 1, "candidates": 3}


@pytest.mark.parametrize("speaker", list(Speaker))
async def test_a_speaker_alone_writes_all_of_it(tmp_path: Path, speaker: Speaker) -> None:
    write_questions(tmp_path / "questions.jsonl", range(8))
    given = fields(tmp_path, strategy=f"{speaker}_only")
    del given[speaker.other], given[speaker]["predictor"]
    run = type(config(tmp_path)).model_validate(given)
    summary = await synthesize(run)
    check_books(summary, tmp_path / "run")
    rows = kept(tmp_path / "run")
    assert len(rows) == 8
    for row in rows.values():
        assert [span.speaker for span in row.spans] == [speaker]
        assert row.answer is not None
        assert row.answer.speaker is row.ended_by is speaker
        assert row.tokens(speaker.other) == 0
    made = next(read_rows(tmp_path / "run"))["made_with"]
    assert made["strategy"] == f"{speaker}_only"
    assert (made["opener"], made["answerer"]) == (speaker, speaker)
    assert speaker in made
    assert speaker.other not in made


async def test_a_speaker_alone_is_asked_for_much_at_a_time(tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl", range(4))
    summary = await synthesize(config(tmp_path, strategy="student_only"))
    longest = max(row.tokens() for row in kept(tmp_path / "run").values())
    assert summary.requests == {
        "student": 4 * (longest // 512 + 2) + 1
    }  # thinking, answer; one for the check


@pytest.mark.parametrize(
    ("strategy", "missing", "expected"),
    [
        ("tessy", "teacher", "run.yaml: teacher: missing; strategy tessy needs it"),
        ("teacher_only", "teacher", "run.yaml: teacher: missing; strategy teacher_only needs it"),
        ("teacher_score", "teacher", "run.yaml: teacher: missing; strategy teacher_score needs it"),
        ("teacher_mix", "student", "run.yaml: student: missing; strategy teacher_mix needs it"),
        (
            "tessy",
            "student.predictor",
            "run.yaml: student.predictor: missing; expected a token-classification",
        ),
        (
            "alone",
            "",
            "run.yaml: strategy: input should be 'tessy', 'student_only', 'teacher_only', 'teacher_think'",
        ),
        (
            "teacher_score",
            "",
            "run.yaml: sampling.temperature: expected more than 0 for the student of strategy",
        ),
    ],
)
def test_what_a_strategy_needs_is_named(tmp_path: Path, strategy: str, missing: str, expected: str) -> None:
    given = fields(tmp_path, strategy=strategy)
    section, _, field = missing.partition(".")
    if field:
        del given[section][field]
    elif section:
        del given[section]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "run.yaml")
    assert expected in str(caught.value).replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize("strategy", [each for each in Strategy if len(each.speakers) > 1])
async def test_the_check_looks_at_who_takes_part_and_at_no_predictor_for_nothing(
    tmp_path: Path, strategy: Strategy
) -> None:
    run = config(tmp_path, strategy=strategy, **DRAWN)
    async with participants(run) as speakers:
        findings = await check_run(run, speakers)
    assert {finding.subject for finding in findings} == {"student", "teacher"}
    assert all(finding.ok for finding in findings)
    looked = sum(finding.message.startswith("predictor:") for finding in findings)
    assert looked == (2 if strategy is Strategy.TESSY else 0)


async def test_a_run_directory_of_an_earlier_tessy_goes_on(tmp_path: Path) -> None:
    """A field that it did not know stands at its default."""
    write_questions(tmp_path / "questions.jsonl", range(4))
    await synthesize(config(tmp_path, limit=2))
    path = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    assert stored.pop("strategy") == Strategy.TESSY
    for name in ("candidates", "system", "system_in_rows"):
        del stored[name]
    path.write_text(orjson.dumps(stored).decode())
    summary = await synthesize(config(tmp_path))
    assert summary.kept == 4


async def test_unparsable_grades_are_told_wherever_a_run_is(tmp_path: Path) -> None:
    """The scripted teacher grades with a number of its own, and no score."""
    write_questions(tmp_path / "questions.jsonl", range(4))
    summary = await synthesize(config(tmp_path, strategy="teacher_score", **DRAWN))
    check_books(summary, tmp_path / "run")
    assert summary.totals.choices == {"rows": 4, "candidates": 12, "failed": 0, "unparsable": 12, "tied": 4}
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["totals"]["choices"] == summary.totals.choices
    for row in kept(tmp_path / "run").values():
        assert row.choice
        assert (row.choice.taken, row.choice.scores, row.choice.unparsable) == (0, (None,) * 3, 3)
        assert row.drafted() > sum(span.drafted for span in row.spans)
    console = Console(width=200)
    with console.capture() as captured:
        display.print_summary(summary, "run", console)
        display.print_trajectory(row, console)
    shown = captured.get()
    assert (
        "candidates: 12, of which 0 failed; 12 of 12 grades could not be read; "
        "4 of 4 rows were chosen among equals" in shown
    )
    assert (
        "candidate 0 taken, the first of 3 equals; scores 0: none, 1: none, 2: none; "
        "0 candidates failed, 3 grades could not" in shown
    )
    made = next(read_rows(tmp_path / "run"))["made_with"]
    assert (made["candidates"], made["grader"]) == (3, "teacher")
    assert made["student"]["predictor"] is None


@pytest.mark.parametrize("strategy", [Strategy.TEACHER_SCORE, Strategy.TEACHER_REFERENCE])
async def test_kills_lose_no_part(tmp_path: Path, strategy: Strategy) -> None:
    """As `test_kill`, where a trajectory is several responses: those that have ended are not asked for again."""
    draws, questions, kills, concurrency = random.Random(7), 10, 8, 3
    write_questions(tmp_path / "questions.jsonl", range(questions))
    given = DRAWN | {"strategy": strategy.value, "concurrency": concurrency, "stream": False}
    async with watched() as (at, undisturbed):
        await synthesize(config(tmp_path, at, **given, run_dir=str(tmp_path / "undisturbed")))
    assert not undisturbed.again, "two candidates were drawn alike"
    async with watched() as (at, log), forker() as process:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(fields(tmp_path, at, **given)), encoding="utf-8")
        killer, under_way = Killer(process, path), set[bytes]()
        for _ in range(kills):
            more = draws.randrange(len(undisturbed.written) // kills)
            await killer.kill_at(at, more, draws.uniform(0, 2 * LATENCY))
            await asyncio.sleep(0.01)  # what it had sent is read
            check_again(log, under_way)
            under_way = set(log.latest.values())
        await killer.begin()
        assert await killer.end() == 0
        check_again(log, under_way)
    assert log.written == undisturbed.written
    assert failures(tmp_path / "run") == []
    rows = kept(tmp_path / "run")
    assert len(rows) == questions
    assert rows == kept(tmp_path / "undisturbed")


# The embedded pair, down to the export


def hard(folder: Path, strategy: str, n: int = 2, **given: Any) -> list[Trajectory]:
    """The first `n` of two hard questions, by a strategy."""
    changes = {"seed": 1, "candidates": 2, "limit": n, "run_dir": str(folder / strategy), **given}
    run = demo_config(folder, strategy=strategy, **changes)
    summary = asyncio.run(synthesize(run))
    assert (summary.kept, summary.failed, summary.owed) == (n, 0, 0)
    return list(read_trajectories(run.run_dir))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions for the embedded pair."""
    folder = tmp_path_factory.mktemp("embedded")
    write_hard_questions(folder, 2)
    return folder


@pytest.mark.parametrize("strategy", list(Strategy))
def test_the_embedded_pair_down_to_the_export(folder: Path, strategy: Strategy) -> None:
    rows = hard(folder, strategy)
    for row in rows:
        assert row.answer
        thinkers = {span.speaker for span in row.spans}
        if strategy is Strategy.TESSY:
            assert (thinkers, row.answer.speaker) == (set(Speaker), STUDENT)
        else:
            alone = (mixed(row.question),) * 2
            assert (*thinkers, row.answer.speaker) == (strategy.writers or alone)
        assert (row.choice is not None) == (strategy is Strategy.TEACHER_SCORE)
    run = str(folder / strategy)
    for command in (["show", run], ["export", run, "--to", f"{run}.jsonl"], ["filter", run], ["report", run]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    exported = [json.loads(line) for line in Path(f"{run}.jsonl").read_text().splitlines()]
    assert len(exported) == 2
    for line, row in zip(exported, rows, strict=True):
        question, response = line["dialogs"]
        assert question == {"role": "user", "content": row.question.text}
        assert row.thinking.strip() in response["content"]
        assert row.answer
        assert response["content"].endswith(row.answer.text.strip())


def test_strategies_are_compared(folder: Path) -> None:
    """The analysis reads their runs, side by side."""
    runs = [str(folder / name) for name in ("student_only", "teacher_score", "teacher_reference")]
    for run in runs:
        if not Path(run).exists():
            hard(folder, Path(run).name)
    done = CliRunner().invoke(app, ["analyze", *runs, "--scored", "0", "--to", str(folder / "analysis")])
    assert done.exit_code == 0, (done.output, done.exception)
    assert (folder / "analysis" / "analysis.json").exists()


def test_the_teacher_answers(folder: Path) -> None:
    """Ablation A.1."""
    for row in hard(folder, "tessy", 1, answerer="teacher", run_dir=str(folder / "a1")):
        assert row.answer
        assert row.answer.speaker is TEACHER
        assert {span.speaker for span in row.spans} == set(Speaker)


def test_a_system_prompt_of_its_own_is_in_the_training_data(folder: Path) -> None:
    """Ablation A.2; the questions stay the same ones."""
    prompt = "You are a careful expert."
    system = {"system": prompt, "run_dir": str(folder / "a2")}
    rows = hard(folder, "teacher_only", 1, **system)
    assert {row.system for row in rows} == {prompt}
    first = next(read_rows(folder / "a2"))
    assert first["made_with"]["teacher"]["system"] == prompt
    assert len(first["messages"]) == 1
    write_export(rows, folder / "a2.jsonl", "messages")
    for line in (folder / "a2.jsonl").read_text().splitlines():
        assert [turn["role"] for turn in json.loads(line)["messages"]] == ["system", "user", "assistant"]
        assert json.loads(line)["messages"][0]["content"] == prompt


def test_a_speakers_own_system_prompt_and_one_that_stays_out_of_the_rows(tmp_path: Path) -> None:
    run = config(tmp_path, system="S", system_in_rows=False)
    assert (run.system_of(STUDENT), run.system_of(TEACHER), run.row_system) == ("S", "S", "")
    own = fields(tmp_path, system="S")
    own["teacher"]["system"] = ""
    run = type(run).model_validate(own)
    assert (run.system_of(STUDENT), run.system_of(TEACHER), run.row_system) == ("S", "", "S")


def test_a_grader_that_knows_the_answers_is_handed_in(folder: Path) -> None:
    """What the lab does where the teacher cannot grade: the candidates that are right score, the others do not."""
    problems = {problem.question: problem for problem in write_hard_questions(folder / "graded", 2)}

    async def knows(job: Job, candidate: Response, part: str) -> Grade:
        assert candidate.answer
        return Grade(float(check(problems[job.question.text], candidate.answer.text)))

    run = demo_config(
        folder / "graded",
        strategy="teacher_score",
        seed=1,
        candidates=2,
        run_dir=str(folder / "graded" / "run"),
    )
    summary = asyncio.run(synthesize(run, grader=knows))
    choices = [row.choice for row in read_trajectories(run.run_dir) if row.choice]
    tied = sum(len(set(choice.scores)) == 1 for choice in choices)
    assert summary.totals.choices == {"rows": 2, "candidates": 4, "failed": 0, "unparsable": 0, "tied": tied}
    for row in read_trajectories(run.run_dir):
        assert row.choice
        assert row.answer
        right = check(problems[row.question.text], row.answer.text)
        assert max(score or 0 for score in row.choice.scores) == right
        assert row.drafted(TEACHER) == 0
    assert next(read_rows(run.run_dir))["made_with"]["grader"] == "another"
