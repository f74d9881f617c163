"""The lab: configurations, what is done in which order, a whole small experiment, and what its figures say."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tessy.adapters.predictors.world import guessed_labels, true_labels
from tessy.adapters.sources import read_questions
from tessy.adapters.store import Store, read_rows, read_trajectories
from tessy.core.intervals import share
from tessy.embedded.voices import Voice, respond
from tessy.embedded.world import Family, problems
from tessy.errors import ConfigError, DataError, RunError
from tessy.programs.evaluation.program import OUTCOMES
from tessy.programs.evaluation.questions import prepare
from tessy.programs.lab.config import LabConfig, chosen, load_lab_config
from tessy.programs.lab.data import Data, make_data, measure_data
from tessy.programs.lab.pictures import lines_of
from tessy.programs.lab.questions import write_questions
from tessy.programs.lab.results import Results, evaluation_dir
from tessy.programs.lab.run import run_lab, units
from tessy.programs.lab.show import shown_tables, write_lab
from tessy.programs.lab.table import groups
from tessy.programs.lab.units import learned_data
from tessy.programs.lab.workers import alone_in
from tessy.questions import Message, Question
from tessy.trajectory import Label, Span, Speaker, StopReason, Trajectory

RECIPES = Path(__file__).parents[1] / "recipes" / "lab"


def small(path: Path, **changes: Any) -> dict[str, Any]:
    """An experiment of a minute: two kinds of data, three arms, one seed."""
    quick = yaml.safe_load((RECIPES / "quick.yaml").read_text(encoding="utf-8"))
    return {
        **quick,
        "folder": str(path),
        "questions": {"world": "story", "n": 6},
        "sets": {"story": {"world": "story", "n": 4}, "count": {"world": "count", "n": 3}},
        "sft": {**quick["sft"], "batch": 2, "micro_batch": 2, "epochs": 2},
        "every_epoch": ["strategies"],
        "arms": {
            "student_only": {"run": {"strategy": "student_only"}},
            "half": {"groups": ["amount"], "data": "student_only", "questions": 3},
            "formal": {"groups": ["style"], "voice": "formal"},
        },
    } | changes


def load(folder: Path, data: dict[str, Any]) -> LabConfig:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return load_lab_config(folder / "given.yaml")


@pytest.mark.parametrize("name", ["full", "quick"])
def test_a_recipe_is_whole(name: str) -> None:
    lab = load_lab_config(RECIPES / f"{name}.yaml")
    assert lab.in_domain == "story"
    assert next(groups(lab))[1][0] == "tessy"


async def test_an_own_system_prompt_is_in_the_rows_alone(tmp_path: Path) -> None:
    """Ablation A.2, as the full recipe has it: the teacher writes what it writes without it."""
    lab = load_lab_config(
        RECIPES / "full.yaml", [f"folder={tmp_path}", "questions.n=1", "sets={a: {world: sort, n: 1}}"]
    )
    config = lab.run_config("teacher_only_system")
    assert (config.row_system, config.system_of(Speaker.TEACHER)) == ("You are a careful assistant.", "")
    write_questions(lab)
    await make_data(lab, "teacher_only_system")
    await make_data(lab, "teacher_only")
    (under,), (plain,) = (list(read_trajectories(lab.data_dir(f"teacher_only{n}"))) for n in ("_system", ""))
    assert [turn.role for turn in under.messages] == ["system", "user"]
    assert under.messages[0].content == "You are a careful assistant."
    assert (under.thinking, under.question) == (
        plain.thinking,
        plain.question,
    )  # who wrote it knew nothing of it
    assert next(groups(lab))[1][-1] == "teacher_only_system"  # the others keep their colours
    student = lab.evaluation_config({**lab.run["student"], "model": "made"}, 0, tmp_path)
    assert student.run().system == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arms": {}}, "arms: "),
        ({"sets": {}}, "sets: "),
        ({"seeds": []}, "seeds: "),
        ({"folder": ""}, "folder: "),
        ({"questions": {"world": "chess", "n": 3}}, "world: "),
        ({"arms": {"a b": {}}}, "arms.a b"),
        ({"arms": {"a": {"data": "b"}}}, "arms.a.data: expected an arm with data of its own, found 'b'"),
        ({"arms": {"a": {}, "b": {"data": "a"}, "c": {"data": "b"}}}, "arms.c.data: expected an arm"),
        ({"arms": {"a": {"voice": "plain", "run": {"seed": 1}}}}, "arms.a: expected one of data, voice, and"),
        ({"arms": {"student": {}}}, "arms.student: is the name of a model"),
        ({"arms": {"a": {"run": {"strategy": "magic"}}}}, "arms.a.run: strategy: "),
        ({"arms": {"a": {"run": {"student.chnk": 3}}}}, "unknown field; did you mean chunk?"),
        ({"arms": {"a": {"sft": {"learning_rat": 3}}}}, "arms.a.sft: learning_rat: unknown field"),
        ({"sft": {"epochs": 0}}, "sft: epochs: "),
        ({"evaluation": {"runs": 0}}, "evaluation: runs: "),
        ({"questions": "q.jsonl", "arms": {"a": {"voice": "plain"}}}, "arms.a.voice: goes with questions of"),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_done(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, small(tmp_path / "lab", **changes))
    assert expected in str(caught.value)
    assert not (tmp_path / "lab").exists()


def test_some_arms_bring_the_arms_whose_data_they_learn(tmp_path: Path) -> None:
    lab = load(tmp_path, small(tmp_path))
    assert list(chosen(lab, ["half"]).arms) == ["student_only", "half"]
    assert chosen(lab, []).arms == lab.arms
    with pytest.raises(ConfigError, match="arm 'hlaf': expected one of student_only, half, formal"):
        chosen(lab, ["hlaf"])


def test_data_come_before_the_students_that_learn_them(tmp_path: Path) -> None:
    lab = load(tmp_path, small(tmp_path, seeds=[0, 1]))
    assert [str(unit) for unit in units(lab)] == [
        "student, seed 0",
        "student, seed 1",
        "teacher, seed 0",
        "teacher, seed 1",
        "data of student_only",
        "student_only, seed 0",
        "student_only, seed 1",
        "half, seed 0",
        "half, seed 1",
        "data of formal",
        "formal, seed 0",
        "formal, seed 1",
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LabConfig:
    """An experiment that is done."""
    path, told = tmp_path_factory.mktemp("whole"), []
    lab = load(path, small(path / "lab"))
    run_lab(lab, told=lambda unit, done, total: told.append((done, total)))
    assert told == [(n, 7) for n in range(1, 8)]
    return lab


def test_a_whole_experiment(whole: LabConfig, tmp_path: Path) -> None:
    lab, results = whole, Results(whole)
    written = list(read_trajectories(lab.data_dir("formal")))
    assert len(written) == 6
    formal, half = results.data_of("formal"), results.data_of("half")
    assert formal is not None
    assert formal.right is not None
    assert (formal.rows, formal.failed, formal.right.value, formal.right.high) == (6, 0, 1.0, 1.0)
    assert 0.5 < formal.right.low < 0.7  # six of six are not all that there are
    assert half is not None
    assert half.rows + half.failed == 3

    everything = orjson.loads((write_lab(results)[0]).read_bytes())
    assert list(everything["arms"]) == ["student", "teacher", "student_only", "half", "formal"]
    assert list(everything["arms"]["student_only"]["epochs"]) == ["1"]  # the second is the last
    assert everything["arms"]["formal"]["epochs"] == {}
    first = results.measured("student_only")
    assert first is not None
    assert first.sets["story"].by_seed[0] in (0, 0.25, 0.5, 0.75, 1)
    assert results.compared("student_only", "student_only").value == 0  # type: ignore[union-attr]
    assert [table.title for table in shown_tables(results)] == ["strategies", "amount", "style"]
    for picture in ("scores_strategies", "scores_style", "data", "epochs", "losses"):
        assert (lab.path / f"{picture}.png").stat().st_size > 5000

    # The same again does nothing; another experiment does not go into the same folder; more arms do.
    before = {path: path.stat().st_mtime_ns for path in lab.path.rglob("evaluation.json")}
    run_lab(lab)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name, value in {"sft": {"epochs": 3}, "every_epoch": ["strategies", "style"]}.items():
        with pytest.raises(RunError, match=f"holds an experiment with other {name}: use another folder"):
            run_lab(load(tmp_path, small(lab.path, **{name: value})))


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended, though nobody may have taken note of it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def test_killed_in_the_middle_the_same_command_goes_on(whole: LabConfig, tmp_path: Path) -> None:
    """Its workers end with it, and everything is done once: as in the experiment that nobody disturbed."""
    data = small(tmp_path / "lab", arms={"formal": {"groups": ["style"], "voice": "formal"}})
    lab = load(tmp_path, data)
    given = ["lab", "run", "--jobs", "1", "-c", str(tmp_path / "given.yaml")]
    command = [str(Path(sys.executable).with_name("tessy")), *given]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(lab.path.glob("students/*/*/model/checkpoints/checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.02)
    workers = [each for each in psutil.Process(process.pid).children() if "spawn_main" in str(each.cmdline())]
    process.kill()
    process.wait()
    with alone_in(lab.path):  # as soon as nobody is left in it
        assert len(workers) == 1
        assert all(is_gone(each) for each in workers)
        with pytest.raises(RunError, match="another `tessy lab run` is at work there"):
            run_lab(lab)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 of 4: formal, seed 0" in done.stdout
    for name in ("student", "teacher", "formal"):
        once, again = (evaluation_dir(each, name, 0, None) / OUTCOMES for each in (whole, lab))
        assert again.read_bytes() == once.read_bytes()
    assert Results(lab).data_of("formal") == Results(whole).data_of("formal")
    for folder in (lab.data_dir("formal"), *lab.path.glob("models/*/seed-0/responses")):
        kept = [row["id"] for row in read_rows(folder)]
        assert len(kept) == len(set(kept)) == (6 if folder.parent.name == "data" else 7)


def test_every_arm_has_a_line_of_its_own() -> None:
    names = ["tessy", "student_only", "teacher_only", *(f"arm {n}" for n in range(20))]
    drawn = lines_of(names)
    assert list(drawn) == names
    looks = {tuple(str(line[part]) for part in ("color", "linestyle", "marker")) for line in drawn.values()}
    assert len(looks) == len(names)


def test_a_unit_that_fails_is_named(tmp_path: Path) -> None:
    data = small(
        tmp_path / "lab",
        arms={"a": {"run": {"student.model": str(tmp_path / "nowhere"), "strategy": "student_only"}}},
    )
    with pytest.raises(RunError, match=r"data of a: .*nowhere"):
        run_lab(load(tmp_path, data), jobs=1)


async def test_somebody_elses_questions(tmp_path: Path) -> None:
    """In whatever form: each is asked once, and an arm learns the first of them whoever was answered first."""
    asked = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{n}?"}] for n in range(4)
    ]
    lines = [orjson.dumps({"messages": turns, "answer": "1", "answer_kind": "exact"}) for turns in asked]
    (tmp_path / "own.jsonl").write_bytes(b"\n\n".join([*lines, lines[1], b""]))
    (tmp_path / "own.json").write_bytes(
        orjson.dumps([{"prompt": "Why?", "answer": "x", "answer_kind": "exact"}])
    )
    columns = {"question": ["A or B?"], "options": [["no", "yes"]], "answer": ["yes"], "answer_letter": ["B"]}
    table = pa.table(columns | {"discipline": ["Art"]})
    pq.write_table(table, tmp_path / "own.parquet")
    arms = {
        "all": {"run": {"strategy": "student_only"}},
        "two": {"data": "all", "questions": 2},
    }
    sets = {kind: str(tmp_path / f"own.{kind}") for kind in ("json", "parquet")}
    lab = load(tmp_path, small(tmp_path / "lab", questions=str(tmp_path / "own.jsonl"), sets=sets, arms=arms))
    lab.path.mkdir()
    write_questions(lab)
    questions = list(read_questions(lab.questions_file))
    assert [question.text for question in questions] == ["0?", "1?", "2?", "3?"]
    assert questions[0].metadata == {"answer": "1", "answer_kind": "exact"}

    store = Store(lab.data_dir("all"))
    for question in reversed(questions[1:]):
        answer = Span(Speaker.STUDENT, "The answer is 1.", 1, 1, 1)
        thinking = Span(Speaker.STUDENT, "Well, it is 1.", 1, 1, 1)
        await store.keep(Trajectory(question, 0, (thinking,), answer, StopReason.FINISHED))
    await store.close()
    assert [row["messages"][-1]["content"] for row in read_rows(learned_data(lab, "two"))] == ["1?"]
    found = [Results(lab).data_of(arm) for arm in ("all", "two")]
    assert [(data.rows, data.failed) for data in found if data] == [(3, 1), (1, 1)]

    evaluation = lab.evaluation_config(lab.run["student"], 0, tmp_path / "evaluation")
    assert [(asked.set, asked.gold.text, asked.gold.kind) for asked in await prepare(evaluation)] == [
        ("json", "x", "exact"),
        ("parquet", "B", "choice"),
    ]
    (tmp_path / "own.jsonl").write_text('{"answer": 1}\n')
    with pytest.raises(DataError, match=r"own.jsonl: line 1: expected one of the fields"):
        run_lab(lab)


@pytest.mark.parametrize(
    ("gold", "kind", "right"),
    [("1/2", "math", [1, 0]), ("0.25", "math", [0, 1]), ("one half", "choice", None)],
)
async def test_somebody_elses_data_are_judged_by_the_kind_of_their_answers(
    tmp_path: Path, gold: str, kind: str, right: list[float] | None
) -> None:
    store = Store(tmp_path)
    for n, said in enumerate((r"\boxed{0.5}", r"\boxed{\frac{1}{4}}")):
        question = Question((Message("user", f"How much? {n}"),), {"answer": gold, "answer_kind": kind})
        spans = tuple(
            Span(speaker, text, 1, 1, 1) for speaker, text in zip(Speaker, ("Well,", said), strict=True)
        )
        answer = Span(Speaker.STUDENT, said, 1, 1, 1)
        await store.keep(Trajectory(question, 0, spans, answer, StopReason.FINISHED))
    await store.close()
    if right is None:
        with pytest.raises(DataError, match="question 'How much"):
            measure_data(tmp_path, 3)
    else:
        assert measure_data(tmp_path, 3) == Data(2, 1, share(right, 2), 6, 4 / 6)


async def test_true_labels_are_true() -> None:
    """For any place of a draft in what the world writes, words that are cut off at its end included."""
    import random

    rng, checked = random.Random(0), 0
    for family in Family:
        for problem in problems(family, "train", 10, 1):
            pieces = respond(problem, rng, [Voice.STUDENT], [Voice.TEACHER]).pieces
            text = "".join(piece.text for piece in pieces)
            kinds = [piece.label for piece in pieces for _ in piece.text]
            for _ in range(5):
                begin = rng.randrange(len(text))
                end = min(len(text), begin + rng.randrange(5, 60))
                for mark in await true_labels(text[:begin][-2000:], text[begin:end]):
                    assert (mark.style == 1) is (kinds[begin + mark.start] is Label.STYLE)
                    checked += 1
    assert checked > 1000


async def test_guessed_labels_are_the_same_for_the_same_text_and_style_as_often_as_said() -> None:
    words = " ".join(f"word{n}" for n in range(2000))
    marks = await guessed_labels("", words)
    assert marks == await guessed_labels("", words)
    assert 0.25 < sum(mark.style for mark in marks) / len(marks) < 0.35
    assert [mark.start for mark in await guessed_labels("a hal", "f and more")] == [2, 6]
