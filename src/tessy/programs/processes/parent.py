"""What the process that has a run directory open knows of those that write beside it: a place for each of them.

A place outlives its process: where one is killed, a new one goes on with the same trajectories from the same journal.
Hands each trajectory to the place that has its steps, else to the one with least to do. Refuses to know what becomes of
an outcome.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson

from tessy.adapters.store import Failure, Store
from tessy.errors import RunError
from tessy.programs.backlog import Task
from tessy.programs.config import RunConfig
from tessy.programs.desk import goes_on
from tessy.programs.directory import log
from tessy.programs.processes.messages import Beginning, Order, failed, kept, line
from tessy.programs.progress import Progress
from tessy.programs.speakers import cores
from tessy.trajectory import Trajectory

DEATHS = 3
"""So many processes of a place killed one after the other, none of which finished anything, and the run ends."""
EXIT_SECONDS = 10.0
"""For a process that has closed its pipe to end."""
NOTHING_NOW = {"in_flight": 0, "limit": 0}
"""Of the counts of a process that is gone."""
LONGEST_LINE = 2**30
"""Bytes of a message that is read; a trajectory has a few million at most."""


@dataclass(frozen=True, slots=True)
class _Asked:
    task: Task
    attempt: int
    outcome: asyncio.Future[Trajectory | Failure]


class Processes:
    """Writes trajectories in other processes; see `processes`."""

    def __init__(self, config: RunConfig, places: list[_Place]) -> None:
        self._config = config
        self._places = places
        self._at: dict[str, _Place] = {}
        """Where the steps of a trajectory are, from when it is begun until they are of no more use."""

    async def write(self, task: Task, attempt: int) -> Trajectory | Failure:
        """Try a trajectory once, as `Desk.write` does.

        Raises:
            RunError: the process that should do it cannot go on.
        """
        place = self._at.get(task.id) or min(self._places, key=lambda place: len(place.asked))
        self._at[task.id] = place
        outcome = await place.write(task, attempt)
        if isinstance(outcome, Failure) and not goes_on(outcome, self._config):
            del self._at[task.id]
        return outcome

    def settled(self, trajectory: str) -> None:
        """Its row is on disk: its steps are of no more use."""
        self._at.pop(trajectory).settled(trajectory)


@asynccontextmanager
async def processes(config: RunConfig, store: Store, progress: Progress) -> AsyncIterator[Processes]:
    """As many processes as `config.processes` says and there is work for, ready to write, and killed at the end.

    `progress` counts what they do as if it were done here.

    Raises:
        RunError: one of them cannot begin.
    """
    count = min(config.processes, config.concurrency, progress.owed)
    share = config.model_copy(update={"concurrency": -(-config.concurrency // count)})
    progress.engines = {
        speaker: replace(stats, in_flight=0, limit=0) for speaker, stats in progress.engines.items()
    }
    # Threads of a predictor in each of them that all take all cores slow one another down.
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // count)), **os.environ}
    places = [_Place(Beginning(n, share, store.path), environment, store, progress) for n in range(count)]
    tasks = [asyncio.create_task(place.keep_alive()) for place in places]
    try:
        await asyncio.gather(*(place.ready for place in places))
        yield Processes(config, places)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Place:
    """A worker process and what it was asked for."""

    def __init__(
        self, beginning: Beginning, environment: Mapping[str, str], store: Store, progress: Progress
    ) -> None:
        self.asked: dict[str, _Asked] = {}
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when its first process can write."""
        self._beginning = beginning
        self._environment = environment
        self._store = store
        self._progress = progress
        self._counts: Mapping[str, Mapping[str, int]] = {}
        self._to_it: asyncio.StreamWriter | None = None
        self._name = f"process {beginning.number}"
        self._useful = False
        """Whether the present process has finished anything."""
        self._broken = ""
        """Why there will be no process any more."""

    async def write(self, task: Task, attempt: int) -> Trajectory | Failure:
        """Try a trajectory once.

        Raises:
            RunError: its process cannot go on.
        """
        if self._broken:
            raise RunError(self._broken)
        asked = _Asked(task, attempt, asyncio.get_running_loop().create_future())
        self.asked[task.id] = asked
        self._order(asked)
        try:
            return await asked.outcome
        finally:
            del self.asked[task.id]

    def settled(self, trajectory: str) -> None:
        """Its row is on disk. A process that dies before it hears of it leaves steps, which the next run forgets."""
        self._tell(line({"settled": trajectory}))

    async def keep_alive(self) -> None:
        """Have a process, until this is cancelled or one cannot go on; those who wait for it are told."""
        try:
            deaths = 0
            while deaths < DEATHS:
                self._useful = False
                number = await self._live()
                deaths = 1 if self._useful else deaths + 1
                log.warning("%s was killed by signal %d", self._name, number)
            raise RunError(f"was killed {DEATHS} times in a row (signal {number}; out of memory?)")
        except OSError as error:
            self._break(f"{self._name} cannot be started: {error.strerror}")
        except RunError as error:
            self._break(f"{self._name} {error}")
        except Exception as error:  # a bug must not leave anybody waiting
            self._break(f"{self._name}: {error!r}")
            raise

    async def _live(self) -> int:
        """Have one process to its end; the signal that killed it.

        Raises:
            RunError: it ended by itself.
            OSError: it cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tessy.programs.processes"),
            stdin=PIPE,
            stdout=PIPE,
            limit=LONGEST_LINE,
            env=self._environment,
            pass_fds=[self._store.lock],  # nobody else takes the directory as long as it lives
            start_new_session=True,  # Ctrl-C is its parent's
        )
        assert process.stdin
        assert process.stdout
        self._to_it = process.stdin
        try:
            self._tell(self._beginning.line())
            for asked in self.asked.values():
                self._order(asked)
            while (told := await process.stdout.readline()).endswith(b"\n"):
                self._hear(orjson.loads(told))
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), EXIT_SECONDS)
        finally:
            self._to_it = None
            with suppress(ProcessLookupError):
                process.kill()  # as it may be killed at any time
            code = await process.wait()
            self._count({name: {**counts, **NOTHING_NOW} for name, counts in self._counts.items()})
            self._counts = {}
        if code >= 0:
            raise RunError(f"ended with exit code {code}, see above; the same command goes on")
        return -code

    def _hear(self, told: dict[str, Any]) -> None:
        """Heed a message of the process.

        Raises:
            RunError: it says that it cannot go on.
        """
        ((kind, fields),) = told.items()
        match kind:
            case "ready":
                if not self.ready.done():
                    self.ready.set_result(None)
            case "counts":
                self._count(fields)
            case "must_end":
                raise RunError(f"cannot go on: {fields}")
            case "kept" | "failed":
                asked = self.asked.get(fields["id"])
                if asked and not asked.outcome.done():
                    self._useful = True
                    outcome = kept(fields, asked.task) if kind == "kept" else failed(fields, asked.task)
                    asked.outcome.set_result(outcome)

    def _count(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        self._progress.add_counts(counts, self._counts)
        self._counts = counts

    def _break(self, why: str) -> None:
        """Tell everybody who waits, now or later, that this place does no more."""
        self._broken = why
        waiting: list[asyncio.Future[Any]] = [self.ready, *(asked.outcome for asked in self.asked.values())]
        for future in waiting:
            if not future.done():
                future.set_exception(RunError(why))

    def _order(self, asked: _Asked) -> None:
        before = self._store.steps(asked.task.id)
        self._tell(Order(asked.task, asked.attempt, before).line())

    def _tell(self, message: bytes) -> None:
        """To the process, if there is one; what was asked for is said again to the next one."""
        if self._to_it and not self._to_it.is_closing():
            self._to_it.write(message)
