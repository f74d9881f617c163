"""The lab: configurations, what is done in which order, a whole small experiment, and what its figures say."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tessy.adapters.predictors.world import guessed_labels, true_labels
from tessy.adapters.store import Store, read_trajectories
from tessy.embedded.voices import Voice, respond
from tessy.embedded.world import Family, problems
from tessy.errors import ConfigError, DataError, RunError
from tessy.programs.lab.config import LabConfig, chosen, load_lab_config
from tessy.programs.lab.data import Data, measure_data
from tessy.programs.lab.results import compared, data_of, measured
from tessy.programs.lab.run import run_lab, units
from tessy.programs.lab.show import shown_tables, write_lab
from tessy.programs.lab.table import groups
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


def test_a_whole_experiment(tmp_path: Path) -> None:
    lab, told = load(tmp_path, small(tmp_path / "lab")), []
    run_lab(lab, told=lambda unit, done, total: told.append((done, total)))
    assert told == [(n, 7) for n in range(1, 8)]

    written = list(read_trajectories(lab.data_dir("formal")))
    assert len(written) == 6
    formal, half = data_of(lab, "formal"), data_of(lab, "half")
    assert formal is not None
    assert (formal.rows, formal.failed, formal.right) == (6, 0, 1.0)
    assert half is not None
    assert half.rows + half.failed == 3

    everything = orjson.loads((write_lab(lab)[0]).read_bytes())
    assert list(everything["arms"]) == ["student", "teacher", "student_only", "half", "formal"]
    assert list(everything["arms"]["student_only"]["epochs"]) == ["1"]  # the second is the last
    assert everything["arms"]["formal"]["epochs"] == {}
    first = measured(lab, "student_only")
    assert first is not None
    assert first.sets["story"].by_seed[0] in (0, 0.25, 0.5, 0.75, 1)
    assert compared(lab, "student_only", "student_only").value == 0  # type: ignore[union-attr]
    assert [table.title for table in shown_tables(lab)] == ["strategies", "amount", "style"]
    for picture in ("scores_strategies", "scores_style", "data", "epochs", "losses"):
        assert (lab.path / f"{picture}.png").stat().st_size > 5000

    # The same again does nothing; another experiment does not go into the same folder; more arms do.
    before = {path: path.stat().st_mtime_ns for path in lab.path.rglob("evaluation.json")}
    run_lab(lab)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = load(tmp_path, small(tmp_path / "lab", sft={"epochs": 3}))
    with pytest.raises(RunError, match="holds an experiment with other sft"):
        run_lab(other)


def test_a_unit_that_fails_is_named(tmp_path: Path) -> None:
    data = small(
        tmp_path / "lab",
        arms={"a": {"run": {"student.model": str(tmp_path / "nowhere"), "strategy": "student_only"}}},
    )
    with pytest.raises(RunError, match=r"data of a: .*nowhere"):
        run_lab(load(tmp_path, data), jobs=1)


@pytest.mark.parametrize(
    ("gold", "kind", "right"), [("1/2", "math", 0.5), ("0.25", "math", 0.5), ("one half", "choice", None)]
)
async def test_somebody_elses_data_are_judged_by_the_kind_of_their_answers(
    tmp_path: Path, gold: str, kind: str, right: float | None
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
        assert measure_data(tmp_path, 3) == Data(2, 1, right, 6, 4 / 6)


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
