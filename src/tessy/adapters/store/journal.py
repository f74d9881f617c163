"""The steps of the trajectories in flight, in a table of SQLite: what a process leaves that is killed.

One of a run directory's own (in `state.sqlite`), and one more for each process that writes beside the first
(`steps-0.sqlite` …), which the next one that opens the directory takes over. A step outlives its process, not a power
cut. Refuses to know what has become of a trajectory.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from tessy.adapters.store.rows import to_span
from tessy.errors import RunError
from tessy.trajectory import Ended, Speaker, Step, StopReason

STEPS = "CREATE TABLE IF NOT EXISTS steps (id TEXT, n INTEGER, step BLOB, PRIMARY KEY (id, n)) WITHOUT ROWID;"


class Journal:
    """Steps by trajectory, in the order in which they were kept."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        """`path`: of the database, for messages."""
        self._db = db
        self._file = path
        self._steps_of: dict[str, int] = {}  # trajectory in flight -> how many of its steps are journalled
        self._waiting: list[tuple[str, int, bytes]] = []
        """Steps that are written when the event loop has gone round once."""
        self._lost: sqlite3.Error | None = None
        """Why some could not be written."""

    def steps(self, trajectory: str, after: int = 0) -> list[Step]:
        """The journalled steps of a trajectory that was in flight when an earlier process ended.

        `after`: how many steps come before them that another journal has.
        """
        self.commit()
        rows = self._execute("SELECT step FROM steps WHERE id = ? ORDER BY n", (trajectory,)).fetchall()
        self._steps_of[trajectory] = after + len(rows)
        return [to_step(orjson.loads(row[0])) for row in rows]

    def record(self, trajectory: str, step: Step) -> None:
        """Journal one step, after those that `steps` told: a write to the page cache, no fsync.

        Inside an event loop all steps of one round of it are written together, at its end, which costs less than
        a write for each.

        Raises:
            RunError: it cannot be written, or what was journalled before it could not.
        """
        self._look_out()
        n = self._steps_of.get(trajectory, 0)
        self._steps_of[trajectory] = n + 1
        self._waiting.append((trajectory, n, orjson.dumps(step)))
        if len(self._waiting) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self.commit)
        except RuntimeError:  # nobody would write it later
            self.commit()
            self._look_out()

    def forget(self, trajectory: str) -> None:
        """Drop the journalled steps of a trajectory."""
        if self._steps_of.pop(trajectory, 0):
            self.commit()
            self._execute("DELETE FROM steps WHERE id = ?", (trajectory,))

    def commit(self) -> None:
        """Write what was journalled in this round of the event loop now. If it cannot be, whoever asks next is told."""
        if not self._waiting:
            return
        steps, self._waiting = self._waiting, []
        try:
            with self._db:  # all of them, or none
                self._db.execute("BEGIN")
                self._db.executemany("INSERT INTO steps VALUES (?, ?, ?)", steps)
        except sqlite3.Error as error:
            self._lost = error

    def _look_out(self) -> None:
        if self._lost is not None:
            raise self._unwritable(self._lost) from self._lost

    def _unwritable(self, error: sqlite3.Error) -> RunError:
        return RunError(f"{self._file}: cannot be written: {error}")

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._look_out()
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._unwritable(error) from error


@contextmanager
def journal_beside(folder: Path, number: int) -> Iterator[Journal]:
    """The journal of the process `number` of those that write beside the one that has the run directory open.

    Raises:
        RunError: it cannot be written, or another process has it.
    """
    path = folder / f"steps-{number}.sqlite"
    try:
        db = sound_database(path, STEPS)
    except (OSError, sqlite3.Error) as error:
        raise RunError(f"{path}: cannot be written: {error}") from error
    with closing(db):
        journal = Journal(db, path)
        try:
            yield journal
        finally:
            journal.commit()


def take_over(db: sqlite3.Connection, folder: Path) -> None:
    """Move the steps of all journals beside the run directory's own into it. No process may write to them.

    A kill in the middle does no harm: steps are moved again, to the same places, until their file is gone.

    Raises:
        OSError, sqlite3.Error: they cannot be read or written.
    """
    for path in sorted(folder.glob("steps-*.sqlite")):
        with closing(sound_database(path, STEPS)) as beside, db:  # all of them, or none
            db.execute("BEGIN")
            steps = beside.execute("SELECT id, n, step FROM steps")
            db.executemany("INSERT OR REPLACE INTO steps VALUES (?, ?, ?)", steps)
        path.unlink()


def sound_database(path: Path, tables: str) -> sqlite3.Connection:
    """A database with these tables; one that is damaged, which only a power cut does, is begun anew.

    Raises:
        OSError, sqlite3.Error: it cannot be read or written, or another process has it.
    """
    try:
        db = _connect(path, tables)
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
            return db
        db.close()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        pass
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    return _connect(path, tables)


def _connect(path: Path, tables: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    # One process has it to itself; a write need only outlive that process (the rows are fsynced elsewhere).
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.executescript(tables)
    return db


def to_step(fields: dict[str, Any]) -> Step:
    """A step from its stored form.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    lists: Sequence[str] = ("ids", "tail")
    return Step(
        **fields
        | {name: tuple(fields[name]) for name in lists}
        | {"speaker": Speaker(fields["speaker"]), "ended": _to_ended(fields.get("ended"))}
    )


def _to_ended(fields: Mapping[str, Any] | None) -> Ended | None:
    """None where there is none, and in journals of a tessy that knew none."""
    if fields is None:
        return None
    return Ended(StopReason(fields["stop"]), None if fields["answer"] is None else to_span(fields["answer"]))
