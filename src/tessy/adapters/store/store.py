"""The run directory: rows that are never lost and never written twice, and the steps of what is in flight.

    trajectories.jsonl   one row for each kept trajectory, appended and fsynced: the truth
    failures.jsonl       one row for each attempt that failed, the same way
    state.sqlite         an index of both files, rebuilt from them where it is behind or of another tessy, and the
                         journal: every kept step of the trajectories in flight
    steps-0.sqlite …     the journals of processes that write beside the one that has the directory open
    lock                 held as long as one of all these lives

A journalled step outlives the process, not a power cut; a row outlives both. Refuses to know how trajectories are
made and what of a configuration matters.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tessy.adapters.appending import Appender
from tessy.adapters.locks import LEFT_AFTER, REFUSED_AFTER, locked, patiently
from tessy.adapters.store.journal import STEPS, Journal, sound_database, take_over
from tessy.adapters.store.rows import FAILED, KEPT, from_row, to_row
from tessy.errors import DataError, RunError
from tessy.questions import Question
from tessy.trajectory import Speaker, Trajectory

_TABLES = "CREATE TEMP TABLE asked (id TEXT PRIMARY KEY) WITHOUT ROWID;" + STEPS

INDEX = 1
"""Version of the index's tables, to be raised when they change: the `user_version` of the database, 0 in older ones."""

_NEW_INDEX = f"""
BEGIN;
DROP TABLE IF EXISTS kept;
DROP TABLE IF EXISTS choices;
DROP TABLE IF EXISTS failed;
DROP TABLE IF EXISTS indexed;
CREATE TABLE kept (
    id TEXT PRIMARY KEY, stop TEXT, switches INTEGER,
    student_tokens INTEGER, teacher_tokens INTEGER, student_drafted INTEGER, teacher_drafted INTEGER
) WITHOUT ROWID;
CREATE TABLE choices (
    id TEXT PRIMARY KEY, candidates INTEGER, failed INTEGER, unparsable INTEGER, tied INTEGER
) WITHOUT ROWID;
CREATE TABLE failed (id TEXT PRIMARY KEY, attempts INTEGER, reason TEXT) WITHOUT ROWID;
CREATE TABLE indexed (file TEXT PRIMARY KEY, bytes INTEGER) WITHOUT ROWID;
PRAGMA user_version = {INDEX};
COMMIT;
"""

_CHOICES = ("rows", "candidates", "failed", "unparsable", "tied")


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all rows of the kept trajectories."""

    stops: Mapping[str, int]
    switches: int
    tokens: Mapping[str, int]
    """By speaker, as kept."""
    drafted: Mapping[str, int]
    """By speaker, as generated."""
    choices: Mapping[str, int] = field(default_factory=dict)
    """Where `rows` were chosen among candidates: `candidates` written for them, of which `failed` were not graded and
    the grades of `unparsable` could not be read; `tied` of the rows were chosen among equals (`Choice.tied`)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt at a trajectory that did not give one."""

    trajectory: str
    question: Question
    attempt: int
    reason: str
    """A `StopReason`, or the kind of the error."""
    message: str = ""
    where: str = ""
    """The server or model at which it happened."""


class Store(Journal):
    """A run directory, opened for writing by this process alone."""

    lock: int
    """A file descriptor: whoever inherits it keeps the directory from others until it ends itself."""

    def __init__(self, run_dir: str | Path, made_with: Mapping[str, Any] | None = None) -> None:
        """Open or create it; a torn last line is cut off (its trajectory is owed again).

        `made_with`: provenance that goes into every row.

        Raises:
            RunError: the directory cannot be written, or another process holds it.
            DataError: a whole line in it is no row of a run.
        """
        self.path = Path(run_dir)
        self._made_with = dict(made_with or {})
        with ExitStack() as opened:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                # The rows first: who has them is at work. Who has but the lock is about to end.
                self._rows = patiently(
                    REFUSED_AFTER, lambda: Appender(self.path, (KEPT, FAILED), self._catch_up)
                )
                opened.callback(self._rows.close)
                self.lock = patiently(LEFT_AFTER, lambda: locked(self.path / "lock"))
                opened.callback(os.close, self.lock)
                super().__init__(
                    sound_database(self.path / "state.sqlite", _TABLES), self.path / "state.sqlite"
                )
                opened.callback(self._db.close)
                self._fit_index()
                take_over(self._db, self.path)
            except BlockingIOError as error:
                raise RunError(f"{self.path}: another process is writing to this run directory") from error
            except (OSError, sqlite3.Error) as error:
                reason = getattr(error, "strerror", None) or error
                raise RunError(f"{self.path}: cannot be used as a run directory: {reason}") from error
            for name in (KEPT, FAILED):
                self._catch_up(name)
            # A kill between a row and the end of its journal leaves the journal.
            self._execute("DELETE FROM steps WHERE id IN (SELECT id FROM kept)")
            self._opened = opened.pop_all()

    async def close(self) -> None:
        """Finish what is being written, and free the directory for other processes.

        Those that wrote beside this one are gone: what they left is taken over now or, if that fails, at the next time.
        """
        await self._rows.settle()
        self.commit()
        with suppress(OSError, sqlite3.Error):
            take_over(self._db, self.path)
        self._opened.close()

    # What is there

    def first_asked(self, question: str) -> bool:
        """Note that a question was read; False if it was read before (since `ask_again`)."""
        return self._execute("INSERT OR IGNORE INTO asked VALUES (?)", (question,)).rowcount == 1

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is noted in the block is noted in one go: half the time. Nothing may be added meanwhile."""
        self.commit()
        self._execute("BEGIN")
        try:
            yield
        finally:
            self._execute("COMMIT")

    def ask_again(self) -> None:
        """Forget which questions were read."""
        self._execute("DELETE FROM asked")

    def is_kept(self, trajectory: str) -> bool:
        """Whether its row is on disk."""
        return self._execute("SELECT 1 FROM kept WHERE id = ?", (trajectory,)).fetchone() is not None

    def attempts(self, trajectory: str) -> int:
        """How many attempts at it have failed."""
        found = self._execute("SELECT attempts FROM failed WHERE id = ?", (trajectory,)).fetchone()
        return int(found[0]) if found else 0

    def last_reason(self, trajectory: str) -> str:
        """Why its last failed attempt failed."""
        found = self._execute("SELECT reason FROM failed WHERE id = ?", (trajectory,)).fetchone()
        return str(found[0]) if found else ""

    def totals(self) -> Totals:
        """What is kept, in figures."""
        rows = self._execute(
            "SELECT stop, COUNT(*), SUM(switches), SUM(student_tokens), SUM(teacher_tokens), "
            "SUM(student_drafted), SUM(teacher_drafted) FROM kept GROUP BY stop"
        ).fetchall()
        names = [speaker.value for speaker in Speaker]
        switches, *sums = (sum(row[column] for row in rows) for column in range(2, 7))
        choices = self._execute(
            "SELECT COUNT(*), SUM(candidates), SUM(failed), SUM(unparsable), SUM(tied > 0) FROM choices"
        ).fetchone()
        return Totals(
            {row[0]: row[1] for row in rows},
            switches,
            dict(zip(names, sums[:2], strict=True)),
            dict(zip(names, sums[2:], strict=True)),
            dict(zip(_CHOICES, choices, strict=True)) if choices[0] else {},
        )

    # What is added

    async def keep(self, trajectory: Trajectory) -> None:
        """Append its row; returns when that is on disk.

        Raises:
            RunError: the row cannot be written.
        """
        kept_at = {"kept_at": round(time.time(), 3)}  # UTC, in seconds
        await self._rows.append(KEPT, _line(to_row(trajectory) | kept_at | self._made_with))
        self.forget(trajectory.id)

    async def fail(self, failure: Failure, *, keep_steps: bool) -> None:
        """Append a failed attempt; returns when that is on disk.

        `keep_steps`: the next attempt goes on from the journalled steps (a server failed); otherwise it begins
        anew (the text itself was bad).

        Raises:
            RunError: the row cannot be written.
        """
        if not keep_steps:
            # Before the row: a kill in between then costs an uncounted attempt, not a second count for one.
            self.forget(failure.trajectory)
        row = {
            "id": failure.trajectory,
            "question_id": failure.question.id,
            "attempt": failure.attempt,
            "reason": failure.reason,
            "message": failure.message,
            "where": failure.where,
            "question": failure.question.text,
        }
        await self._rows.append(FAILED, _line(row))

    # The index

    def _fit_index(self) -> None:
        """Begin the index anew, empty, where its tables are those of another tessy: the rows say all of it again."""
        if self._execute("PRAGMA user_version").fetchone()[0] != INDEX:
            self._db.executescript(_NEW_INDEX)

    def _catch_up(self, name: str) -> None:
        """Index the rows that were appended since the last time."""
        found = self._execute("SELECT bytes FROM indexed WHERE file = ?", (name,)).fetchone()
        start, size = (found[0] if found else 0), self._rows.size(name)
        with self._db, (self.path / name).open("rb") as file:  # all of it, or nothing
            self._execute("BEGIN")
            if start > size:  # the file was replaced or cut by somebody
                for table in ("kept", "choices") if name == KEPT else ("failed",):
                    self._execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
                start = 0
            file.seek(start)
            for line in file:
                self._index(name, line)
            self._execute("INSERT OR REPLACE INTO indexed VALUES (?, ?)", (name, size))
            self._execute("COMMIT")

    def _index(self, name: str, line: bytes) -> None:
        try:
            row = orjson.loads(line)
            if name == KEPT:
                kept = from_row(row)
                counts = [count(speaker) for count in (kept.tokens, kept.drafted) for speaker in Speaker]
                self._execute(
                    "INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (row["id"], kept.stop.value, kept.switches, *counts),
                )
                if choice := kept.choice:
                    self._execute(
                        "INSERT OR IGNORE INTO choices VALUES (?, ?, ?, ?, ?)",
                        (row["id"], len(choice.scores), choice.failed, choice.unparsable, choice.tied),
                    )
            else:
                self._execute(
                    "INSERT INTO failed VALUES (?, 1, ?) ON CONFLICT (id) DO UPDATE "
                    "SET attempts = attempts + 1, reason = excluded.reason",
                    (row["id"], row["reason"]),
                )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path / name}: a line is no row of a run: {line[:60]!r}") from error


def _line(row: Mapping[str, Any]) -> bytes:
    return orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS) + b"\n"
