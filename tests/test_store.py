"""The run directory: what was written is there, once and whole, whatever happened to the process or the disk."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs import failures, largest_file, question
from tessy.adapters.store import (
    Failure,
    Store,
    from_row,
    journal_beside,
    read_rows,
    read_trajectories,
    to_row,
)
from tessy.errors import DataError, RunError
from tessy.questions import Message, Question
from tessy.trajectory import Choice, Span, Speaker, Step, StopReason, Trajectory

STUDENT, TEACHER = Speaker

texts = st.text(st.characters(exclude_categories=["Cs"]))
counts = st.integers(0, 2**40)
spans = st.builds(Span, st.sampled_from(Speaker), texts, counts, counts, counts)
metadata = st.dictionaries(texts, st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), texts))
questions = st.builds(Question, st.lists(st.builds(Message, texts, texts), min_size=1).map(tuple), metadata)
trajectories = st.builds(
    Trajectory,
    questions,
    st.integers(0, 100),
    st.lists(spans).map(tuple),
    st.none() | spans,
    st.sampled_from(StopReason),
    st.integers(0, 10**7).map(lambda ms: ms / 1000),
    st.integers(1, 9),
)
ids = st.lists(st.integers(0, 2**31 - 1)).map(tuple)
steps = st.builds(
    Step, st.sampled_from(Speaker), texts, ids, st.integers(0, 10**6), ids, st.booleans(), st.booleans()
)


def trajectory(n: int, words: str = "Okay, 4.") -> Trajectory:
    parts = (Span(STUDENT, words, 3, 2, 5), Span(TEACHER, " 2 + 2 = 4.\u2028é", 4, 1, 9))
    return Trajectory(question(n), 0, parts, Span(STUDENT, "4", 1, 1, 2), StopReason.FINISHED)


def step(n: int) -> Step:
    return Step(STUDENT, f"word {n}", (n, n + 1), drafted=5, tail=(7,), switch=bool(n % 2))


async def keep(run_dir: Path, *numbers: int) -> None:
    store = Store(run_dir)
    for n in numbers:
        await store.keep(trajectory(n))
    await store.close()


async def look(run_dir: Path, count: int) -> set[int]:
    """Which of the first so many questions a newly opened store says are kept."""
    store = Store(run_dir)
    try:
        return {n for n in range(count) if store.is_kept(question(n).id)}
    finally:
        await store.close()


# Rows and steps


@given(trajectories)
def test_a_row_is_its_trajectory(whole: Trajectory) -> None:
    row = orjson.loads(orjson.dumps(to_row(whole)))
    assert from_row(row) == whole
    assert from_row(row).question.metadata == whole.question.metadata
    assert row["id"] == whole.id


@settings(max_examples=20, deadline=None)
@given(st.lists(steps, max_size=8))
async def test_steps_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, written: list[Step]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    store = Store(folder)
    for each in written:
        store.record("a", each)
    await store.close()
    again = Store(folder)
    assert again.steps("a") == written
    await again.close()


async def test_kept_rows_come_back_with_their_provenance(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "run", {"made_with": {"seed": 3}})
    await asyncio.gather(*(store.keep(trajectory(n)) for n in range(50)))
    totals = store.totals()
    await store.close()
    rows = {row["id"]: row for row in read_rows(store.path)}
    assert rows.keys() == {question(n).id for n in range(50)}
    assert all(row["made_with"] == {"seed": 3} for row in rows.values())
    assert {row.question.text: row for row in read_trajectories(store.path)} == {
        question(n).text: trajectory(n) for n in range(50)
    }
    assert totals.stops == {"finished": 50}
    assert totals.switches == 50
    assert totals.tokens == {"student": 200, "teacher": 200}
    assert totals.drafted == {"student": 350, "teacher": 450}


async def test_metadata_that_is_no_json_does_not_lose_the_row(tmp_path: Path) -> None:
    numbered: dict[Any, str] = {3: "three"}  # as a Parquet file may have it
    odd = replace(question(1), metadata={"path": tmp_path} | numbered)
    store = Store(tmp_path)
    await store.keep(replace(trajectory(1), question=odd))
    await store.close()
    (row,) = read_rows(tmp_path)
    assert row["metadata"] == {"path": str(tmp_path), "3": "three"}


# The journal


async def test_steps_outlive_the_process_and_go_with_the_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = question(1).id
    store.record(name, step(0))
    store.record(name, step(1))
    store.record("other", step(5))
    await store.close()
    store = Store(tmp_path)
    assert store.steps(name) == [step(0), step(1)]
    store.record(name, step(2))
    assert store.steps(name) == [step(0), step(1), step(2)]
    await store.keep(trajectory(1))
    assert store.steps(name) == []
    assert store.steps("other") == [step(5)]
    await store.close()


async def test_a_kill_between_a_row_and_its_journal_leaves_no_journal(tmp_path: Path) -> None:
    name = question(1).id
    store = Store(tmp_path)
    store.record(name, step(0))
    await store.close()
    row = orjson.dumps(to_row(trajectory(1))) + b"\n"
    (tmp_path / "trajectories.jsonl").write_bytes(row)
    store = Store(tmp_path)
    assert store.is_kept(name)
    assert store.steps(name) == []
    await store.close()


@pytest.mark.parametrize("keep_steps", [True, False])
async def test_failed_attempts_are_counted_over_restarts(tmp_path: Path, keep_steps: bool) -> None:
    name = question(1).id
    for attempt in (1, 2, 3):
        store = Store(tmp_path)
        assert store.attempts(name) == attempt - 1
        assert len(store.steps(name)) == (attempt - 1) * keep_steps
        store.record(name, step(attempt))
        failed = Failure(name, question(1), attempt, f"reason {attempt}", "a message", "a server")
        await store.fail(failed, keep_steps=keep_steps)
        assert store.attempts(name) == attempt
        assert store.last_reason(name) == f"reason {attempt}"
        assert len(store.steps(name)) == attempt * keep_steps
        await store.close()
    assert [row["attempt"] for row in failures(tmp_path)] == [1, 2, 3]
    assert failures(tmp_path)[0] == {
        "id": name,
        "question_id": name,
        "attempt": 1,
        "reason": "reason 1",
        "message": "a message",
        "where": "a server",
        "question": "What is 1 + 1?",
    }


# Torn lines, and an index that does not fit


async def test_a_torn_last_line_of_any_length_is_cut_off_and_owed(tmp_path: Path) -> None:
    await keep(tmp_path, 0, 1)
    path = tmp_path / "trajectories.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        assert [row.question.text for row in read_trajectories(tmp_path)] == ["What is 0 + 0?"]
        store = Store(tmp_path)
        assert path.read_bytes() == whole[:first]
        assert store.is_kept(question(0).id)
        assert not store.is_kept(question(1).id)
        await store.close()
    before = list(read_trajectories(tmp_path))
    await keep(tmp_path, 1)
    assert list(read_trajectories(tmp_path)) == [*before, trajectory(1)]


async def test_a_torn_line_longer_than_what_is_read_at_a_time(tmp_path: Path) -> None:
    await keep(tmp_path, 0)
    path = tmp_path / "trajectories.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * (5 * 2**20))
    assert await look(tmp_path, 2) == {0}
    assert path.read_bytes() == whole
    path.write_bytes(b"x" * (3 * 2**20))
    assert await look(tmp_path, 2) == set()
    assert path.read_bytes() == b""


async def test_a_torn_failure_is_cut_off_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for attempt in (1, 2):
        await store.fail(Failure("a", question(1), attempt, "empty"), keep_steps=False)
    await store.close()
    path = tmp_path / "failures.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    store = Store(tmp_path)
    assert store.attempts("a") == 1
    await store.fail(Failure("a", question(1), 2, "empty"), keep_steps=False)
    await store.close()
    assert [row["attempt"] for row in failures(tmp_path)] == [1, 2]


async def _failing_store(run_dir: Path) -> None:
    store = Store(run_dir)
    for n in range(3):
        await store.keep(trajectory(n))
    await store.fail(Failure("a", question(9), 1, "empty"), keep_steps=False)
    await store.close()


@pytest.mark.parametrize("damage", ["deleted", "emptied", "garbage", "half", "holes"])
async def test_the_index_is_made_again_from_the_rows(tmp_path: Path, damage: str) -> None:
    await _failing_store(tmp_path)
    state = tmp_path / "state.sqlite"
    content = state.read_bytes()
    match damage:
        case "deleted":
            state.unlink()
        case "emptied":
            state.write_bytes(b"")
        case "garbage":
            state.write_bytes(b"no database " * 4096)
        case "half":
            state.write_bytes(content[: len(content) // 2 + 100])
        case "holes":
            state.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    store = Store(tmp_path)
    assert [store.is_kept(question(n).id) for n in range(4)] == [True, True, True, False]
    assert store.attempts("a") == 1
    assert store.totals().stops == {"finished": 3}
    await store.keep(trajectory(3))
    await store.close()
    assert await look(tmp_path, 5) == {0, 1, 2, 3}


def chosen(n: int, *scores: float | None, failed: int = 0) -> Trajectory:
    """One that was chosen among candidates, the first of the best."""
    taken = scores.index(max((score for score in scores if score is not None), default=None))
    choice = Choice(taken, scores, failed, scores.count(None) - failed)
    return replace(trajectory(n), choice=choice)


async def test_choices_are_counted(tmp_path: Path) -> None:
    rows = (
        chosen(1, 4.0, 9.0, 9.0),
        chosen(2, 4.0, 9.0, None, failed=1),
        chosen(3, None, None),
        chosen(4, 0.0, None),
    )
    store = Store(tmp_path)
    await store.keep(trajectory(0))
    assert store.totals().choices == {}
    for row in rows:
        await store.keep(row)
    await store.close()
    for damage in (False, True):
        if damage:
            (tmp_path / "state.sqlite").unlink()
        store = Store(tmp_path)
        assert store.totals().choices == CHOSEN
        await store.close()


CHOSEN = {"rows": 4, "candidates": 10, "failed": 1, "unparsable": 3, "tied": 2}

OLD_INDEX = """
CREATE TABLE kept (
    id TEXT PRIMARY KEY, stop TEXT, switches INTEGER,
    student_tokens INTEGER, teacher_tokens INTEGER, student_drafted INTEGER, teacher_drafted INTEGER
) WITHOUT ROWID;
CREATE TABLE choices (
    id TEXT PRIMARY KEY, candidates INTEGER, failed INTEGER, unparsable INTEGER
) WITHOUT ROWID;
CREATE TABLE failed (id TEXT PRIMARY KEY, attempts INTEGER, reason TEXT) WITHOUT ROWID;
CREATE TABLE indexed (file TEXT PRIMARY KEY, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE steps (id TEXT, n INTEGER, step BLOB, PRIMARY KEY (id, n)) WITHOUT ROWID;
"""
"""As it was before ties were counted."""


async def test_an_index_of_an_earlier_tessy_is_made_again_from_the_rows(tmp_path: Path) -> None:
    """Ties are counted of rows that were written before ties were; the journal stays."""
    rows = (chosen(1, 4.0, 9.0, 9.0), chosen(2, 4.0, 9.0, None, failed=1), chosen(3, None, None))
    store = Store(tmp_path)
    for row in (trajectory(0), *rows):
        await store.keep(row)
    for attempt in (1, 2):
        await store.fail(Failure("a", question(9), attempt, "empty"), keep_steps=False)
    totals = store.totals()
    await store.close()
    state = tmp_path / "state.sqlite"
    state.unlink()
    with closing(sqlite3.connect(state)) as db, db:
        db.executescript(OLD_INDEX)
        for row in (trajectory(0), *rows):
            counts = [count(speaker) for count in (row.tokens, row.drafted) for speaker in Speaker]
            old = (row.id, row.stop, row.switches, *counts)
            db.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)", old)
            if choice := row.choice:
                counted = (row.id, len(choice.scores), choice.failed, choice.unparsable)
                db.execute("INSERT INTO choices VALUES (?, ?, ?, ?)", counted)
        db.execute("INSERT INTO failed VALUES ('a', 2, 'empty')")
        for name in ("trajectories.jsonl", "failures.jsonl"):
            size = (tmp_path / name).stat().st_size
            db.execute("INSERT INTO indexed VALUES (?, ?)", (name, size))
        db.execute("INSERT INTO steps VALUES ('b', 0, ?)", (orjson.dumps(step(5)),))
    store = Store(tmp_path)
    assert store.totals() == totals
    assert store.attempts("a") == 2
    assert store.steps("b") == [step(5)]
    await store.keep(chosen(4, 0.0, None))
    assert store.totals().choices == CHOSEN
    await store.close()
    store = Store(tmp_path)
    assert store.totals().choices == CHOSEN
    assert store.attempts("a") == 2
    assert store.steps("b") == [step(5)]
    await store.close()


async def test_an_index_behind_the_rows_catches_up(tmp_path: Path) -> None:
    await keep(tmp_path, 0, 1)
    state = (tmp_path / "state.sqlite").read_bytes()
    await keep(tmp_path, 2, 3)
    (tmp_path / "state.sqlite").write_bytes(state)
    assert await look(tmp_path, 5) == {0, 1, 2, 3}


async def test_an_index_ahead_of_the_rows_is_made_again(tmp_path: Path) -> None:
    await keep(tmp_path, 0, 1)
    rows = (tmp_path / "trajectories.jsonl").read_bytes()
    await keep(tmp_path, 2, 3)
    (tmp_path / "trajectories.jsonl").write_bytes(rows)
    store = Store(tmp_path)
    assert store.totals().stops == {"finished": 2}
    await store.close()
    assert await look(tmp_path, 5) == {0, 1}


@pytest.mark.parametrize("line", [b"{}\n", b"no json\n", b'{"id": 3}\n', b"[]\n", b"null\n"])
async def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: bytes) -> None:
    await keep(tmp_path, 0)
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(DataError, match=r"trajectories\.jsonl.*no row of a run"):
        Store(tmp_path)
    with pytest.raises(DataError, match=r"line 2.*no row of a run|row .*no trajectory"):
        list(read_trajectories(tmp_path))


@pytest.mark.parametrize("taken", [3, -1])
async def test_a_choice_of_none_of_its_candidates_is_named(tmp_path: Path, taken: int) -> None:
    row = chosen(0, 4.0, 9.0, 9.0)
    assert row.choice
    wrong = to_row(replace(row, choice=replace(row.choice, taken=taken)))
    (tmp_path / "trajectories.jsonl").write_bytes(orjson.dumps(wrong) + b"\n")
    with pytest.raises(DataError, match="no row of a run"):
        Store(tmp_path)
    with pytest.raises(DataError, match=rf"no trajectory: candidate {taken} of 3 is taken"):
        list(read_trajectories(tmp_path))


def test_rows_of_another_schema_are_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "trajectories.jsonl").write_bytes(
        orjson.dumps(to_row(trajectory(0)) | {"schema": 99}) + b"\n"
    )
    with pytest.raises(DataError, match="line 1: schema 99, expected 1"):
        list(read_rows(tmp_path))


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run is kept here"):
        list(read_rows(tmp_path))


# One process, one row


HOLD = """
import sys
from tessy.adapters.store import Store
store = Store(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process is writing to this run directory"):
            Store(tmp_path)
        process.kill()
    asyncio.run(keep(tmp_path, 0))


async def test_nothing_is_indexed_twice(tmp_path: Path) -> None:
    await keep(tmp_path, 0, 1)
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(2 * path.read_bytes())  # somebody's `cat`
    store = Store(tmp_path)
    assert store.totals().stops == {"finished": 2}
    await store.close()


async def test_a_question_is_asked_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.first_asked("a")
    assert not store.first_asked("a")
    store.ask_again()
    assert store.first_asked("a")
    await store.close()


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used as a run directory"):
        Store(tmp_path / "file" / "run")


# A full disk


async def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = tmp_path / "trajectories.jsonl"
    big = "word " * 100_000
    await store.keep(trajectory(0, big))
    whole = path.read_bytes()
    with largest_file(len(whole) + 1000):
        results = await asyncio.gather(
            *(store.keep(trajectory(n, big)) for n in (1, 2)), return_exceptions=True
        )
    assert [type(result) for result in results] == [RunError, RunError]
    assert "a row cannot be written" in str(results[0])
    assert path.read_bytes() == whole
    assert not store.is_kept(question(1).id)
    await store.keep(trajectory(2))  # there is room again
    await store.close()
    assert [row.question.text for row in read_trajectories(tmp_path)] == ["What is 0 + 0?", "What is 2 + 2?"]
    assert await look(tmp_path, 4) == {0, 2}


async def test_a_disk_too_full_for_the_journal_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with largest_file(1):
        store.record("a", step(0))
        await asyncio.sleep(0)  # steps are written when the event loop has gone round
    with pytest.raises(RunError, match="cannot be written"):
        store.record("a", step(1))
    with pytest.raises(RunError, match="cannot be written"):  # no step without those before it
        store.record("a", step(2))
    await store.close()
    store = Store(tmp_path)
    assert store.steps("a") == []
    await store.close()


async def test_steps_of_one_round_of_the_event_loop_are_written_together(tmp_path: Path) -> None:
    def on_disk() -> int:
        copy = tmp_path / "copy"
        shutil.copytree(run_dir, copy, dirs_exist_ok=True)
        with closing(sqlite3.connect(copy / "state.sqlite")) as db:
            return int(db.execute("SELECT COUNT(*) FROM steps").fetchone()[0])

    run_dir = tmp_path / "run"
    store = Store(run_dir)
    store.record("a", step(0))
    store.record("b", step(1))
    assert (on_disk(), store.steps("a")) == (0, [step(0)])
    await asyncio.sleep(0)
    assert on_disk() == 2
    store.record("a", step(2))
    with store.at_once():  # what begins a transaction of its own ends that one
        await asyncio.sleep(0)
    assert on_disk() == 3
    store.record("a", step(3))
    store.forget("a")  # with what waits to be written
    assert on_disk() == 1
    store.record("a", step(4))
    await store.close()
    assert on_disk() == 2


async def test_a_disk_too_full_for_the_index_is_an_error_and_the_row_is_there_later(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for n in range(200):  # the index has grown beyond the rows
        store.record("other", step(n))
    store.commit()
    with largest_file(5000), pytest.raises(RunError, match="cannot be written"):
        await asyncio.wait_for(store.keep(trajectory(0)), 5)
    await store.close()
    assert await look(tmp_path, 2) == {0}


async def test_a_row_tells_when_it_was_kept(tmp_path: Path) -> None:
    before = time.time()
    await keep(tmp_path, 0, 1)
    kept = [
        orjson.loads(line)["kept_at"] for line in (tmp_path / "trajectories.jsonl").read_bytes().splitlines()
    ]
    assert round(before, 3) <= kept[0] <= kept[1] <= time.time() + 0.001


# Processes that write beside the one that has the directory open


async def test_what_others_left_is_taken_over_once(tmp_path: Path) -> None:
    await keep(tmp_path, 1)
    store = Store(tmp_path)
    store.record("a", step(0))
    await store.close()
    with journal_beside(tmp_path, 3) as beside:
        assert beside.steps("a", after=1) == []
        beside.record("a", step(1))
        beside.record("a", step(2))
    with journal_beside(tmp_path, 0) as beside:
        beside.record(question(1).id, step(7))  # its row is there
    left = {path: path.read_bytes() for path in tmp_path.glob("steps-*")}
    for _ in range(2):  # the second time as if it had been killed before it could remove them
        for path, content in left.items():
            path.write_bytes(content)
        store = Store(tmp_path)
        assert store.steps("a") == [step(0), step(1), step(2)]
        assert store.steps(question(1).id) == []
        await store.close()
        assert not list(tmp_path.glob("steps-*"))


async def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    with journal_beside(tmp_path, 0) as beside:
        beside.record("a", step(0))
        beside.record("b", step(5))
    with journal_beside(tmp_path, 0) as beside:
        assert beside.steps("a") == [step(0)]
        beside.forget("a")
    store = Store(tmp_path)
    assert (store.steps("a"), store.steps("b")) == ([], [step(5)])
    await store.close()


async def test_a_journal_that_a_power_cut_damaged_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "steps-0.sqlite").write_bytes(b"no database " * 4096)
    with journal_beside(tmp_path, 1) as beside:
        beside.record("a", step(0))
    store = Store(tmp_path)
    assert store.steps("a") == [step(0)]
    await store.close()


def test_the_directory_is_refused_as_long_as_one_that_writes_beside_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessy.adapters.store.store.LEFT_AFTER", 0.2)
    store = Store(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[store.lock]) as process:
        asyncio.run(store.close())
        with pytest.raises(RunError, match="another process is writing to this run directory"):
            Store(tmp_path)
        process.kill()
    asyncio.run(keep(tmp_path, 0))
