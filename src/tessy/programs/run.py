"""A run: questions stream in, trajectories grow independently under one concurrency limit, rows stream out.

A fan-out that calls other things: a desk writes (here, or in other processes), the engines retry requests, the store
remembers, and this retries trajectories, counts, and stops when nearly everything fails. It keeps no question longer
than it is in flight.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tessy.adapters.store import Failure, Store
from tessy.core.strategies import Grader
from tessy.errors import ConfigError, RunError
from tessy.programs.backlog import Backlog, Task
from tessy.programs.check import check
from tessy.programs.config import RunConfig
from tessy.programs.desk import Desk, goes_on
from tessy.programs.directory import claim, log, logged, provenance, write_summary
from tessy.programs.processes import Processes, processes
from tessy.programs.progress import Progress, Summary, summarize
from tessy.programs.questions import prepare_questions
from tessy.programs.speakers import participants
from tessy.programs.stopping import Outage, to_the_end, until
from tessy.trajectory import Trajectory


class Run:
    """What is owed of a run directory, handed out and put down by the process that has it open."""

    def __init__(
        self,
        config: RunConfig,
        desk: Desk | Processes,
        store: Store,
        backlog: Backlog,
        progress: Progress,
    ) -> None:
        self._config = config
        self._desk = desk
        self._store = store
        self._backlog = backlog
        self._progress = progress
        self._outage = Outage(config.requests.outage_seconds)
        self.stopped_because = ""
        """Why nothing new is begun; empty while all is well."""

    async def finish(self) -> None:
        """Work until nothing is owed that can be had, or nearly everything fails.

        Raises:
            RunError: a row cannot be written.
        """
        workers = min(self._config.concurrency, self._progress.owed)
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        pause = 0.0
        while not self.stopped_because and (task := self._backlog.next()):
            self._progress.in_flight += 1
            try:
                outcome = await self._desk.write(task, self._store.attempts(task.id) + 1)
                await to_the_end(self._settle(task, outcome))
            finally:
                self._progress.in_flight -= 1
            # A server in trouble gets rest, and an outage does not burn through the questions.
            server_failed = isinstance(outcome, Failure) and bool(outcome.message)
            pause = min(30.0, 2 * pause or 0.5) if server_failed else 0.0
            await asyncio.sleep(pause * random.uniform(0.5, 1))

    async def _settle(self, task: Task, outcome: Trajectory | Failure) -> None:
        """Put down how an attempt went, on disk and in the counts."""
        if isinstance(outcome, Failure):
            await self._failed(task, outcome)
        else:
            await self._store.keep(outcome)
            self._desk.settled(task.id)
            self._progress.note_kept(outcome)
            self._outage.note(True, time.monotonic())

    async def _failed(self, task: Task, failure: Failure) -> None:
        final = failure.attempt >= self._config.attempts
        await self._store.fail(failure, keep_steps=goes_on(failure, self._config))
        words = self._progress.note_failed(failure, final=final)
        log.warning("question %s, attempt %d: %s", failure.question.id, failure.attempt, words)
        if not final:
            self._backlog.put_back(task)
        if self._outage.note(False, time.monotonic()):
            seconds = self._config.requests.outage_seconds
            self.stopped_because = f"nearly everything has failed for {seconds:g} s"


async def synthesize(
    config: RunConfig,
    *,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    grader: Grader | None = None,
) -> Summary:
    """Do what is owed of a run, and leave its rows in `config.run_dir`.

    Args:
        config: the run. Its directory may hold an earlier part of the same run, which goes on.
        progress: filled while the run goes on, for a display.
        stop: set it to stop cleanly: what is finished is kept, what is in flight can go on later.
        grader: grades the candidates of `teacher_score` in the teacher's place.

    Raises:
        ConfigError: `config.processes` is more than 1, and there is a `grader`, which is of this process.
        RunError: the directory is in use, was made under another configuration or cannot be written, or the check
            before the run found that it would fail; nothing was sent but the check's own requests.
        DataError: a question cannot be read; nothing was sent.
        ModelError: a tokenizer, model or predictor cannot be loaded.
    """
    if grader and config.processes > 1:
        raise ConfigError(f"processes: expected 1 with a grader of one's own, found {config.processes}")
    progress = progress if progress is not None else Progress()
    store = Store(config.run_dir, provenance(config, own_grader=grader is not None))
    try:
        claim(config)
        with logged(config):
            reason = await until(stop, _do(config, store, progress, grader))
        summary = summarize(progress, store.totals(), reason)
        write_summary(config, summary)
        return summary
    finally:
        await store.close()


async def _do(config: RunConfig, store: Store, progress: Progress, grader: Grader | None) -> str:
    """Count, check, and work off what is owed; why it ended before that, or nothing."""
    await prepare_questions(config)
    backlog = Backlog(config, store, progress)
    await backlog.count()
    if not progress.owed:
        return ""
    async with _checked_desk(config, store, progress, grader) as desk:
        progress.started = time.monotonic()
        run = Run(config, desk, store, backlog, progress)
        await run.finish()
        return run.stopped_because


@asynccontextmanager
async def _checked_desk(
    config: RunConfig, store: Store, progress: Progress, grader: Grader | None
) -> AsyncIterator[Desk | Processes]:
    """Where the run is written, after a look at everything that it needs."""
    async with participants(config) as speakers:
        progress.findings = await check(config, speakers)
        fatal = [f"{finding.subject}: {finding.message}" for finding in progress.findings if finding.fatal]
        if fatal:
            raise RunError("\n".join(fatal))
        progress.engines = {speaker: speakers[speaker].engine.stats for speaker in config.speakers}
        if config.processes == 1:
            yield Desk(config, speakers, store, progress.note_step, grader)
            return
        del speakers  # each process loads its own
    async with processes(config, store, progress) as desks:
        yield desks
