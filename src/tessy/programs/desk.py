"""Where trajectories are written: the speakers of one process, and the journal of what they have written.

One attempt at one trajectory at a time is asked of it, as many at once as the caller likes. How it ended comes back;
refuses to know rows, who is asked next and how often it is tried.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

from tessy.adapters.store import Failure, Journal
from tessy.core.dialogue import Writer
from tessy.core.strategies import STRATEGIES, Grader, Job
from tessy.errors import CompletionError, ModelError
from tessy.programs.backlog import Task
from tessy.programs.config import RunConfig
from tessy.programs.speakers import Participant
from tessy.questions import Message, under
from tessy.trajectory import Speaker, Step, Trajectory


class Desk:
    """Writes trajectories in this process."""

    def __init__(
        self,
        config: RunConfig,
        speakers: Mapping[Speaker, Participant],
        journal: Journal,
        note_step: Callable[[Step], None],
        grader: Grader | None = None,
    ) -> None:
        """`note_step` is told each step when it is journalled."""
        self._config = config
        self._speakers = speakers
        self._journal = journal
        self._note_step = note_step
        self._grader = grader

    async def write(self, task: Task, attempt: int, before: list[Step] | None = None) -> Trajectory | Failure:
        """Try a trajectory once, going on from its journalled steps. They stay until it is `settled`, or go now where
        the next attempt begins anew.

        Args:
            task: which.
            attempt: which attempt at it this is, from 1.
            before: steps that come before those that are journalled here; emptied.

        Raises:
            RunError: a step cannot be journalled.
        """
        outcome = await self._attempt(task, attempt, before if before is not None else [])
        if isinstance(outcome, Failure) and not goes_on(outcome, self._config):
            self._journal.forget(task.id)
        return outcome

    def settled(self, trajectory: str) -> None:
        """Its row is on disk: its steps are of no more use."""
        self._journal.forget(trajectory)

    async def _attempt(self, task: Task, attempt: int, before: list[Step]) -> Trajectory | Failure:
        try:
            trajectory = await self._respond(task, attempt, before)
        except (CompletionError, ModelError) as error:
            kind, where = getattr(error, "kind", "model"), getattr(error, "where", "")
            return Failure(task.id, task.question, attempt, kind, str(error), where)
        if trajectory.stop.kept or self._config.limits.unfinished == "keep":
            return trajectory
        return Failure(task.id, task.question, attempt, trajectory.stop.value)

    async def _respond(self, task: Task, attempt: int, before: list[Step]) -> Trajectory:
        config, started = self._config, time.monotonic()

        def record(step: Step) -> None:
            self._journal.record(task.id, step)
            self._note_step(step)

        def hire(speaker: Speaker, messages: Sequence[Message], part: str) -> Writer:
            draws = " ".join(filter(None, (task.id, str(attempt), speaker, part)))
            return self._writer(speaker, messages, task.id, draws, deadline)

        deadline = started + config.requests.trajectory_seconds
        messages = task.question.messages
        before.extend(self._journal.steps(task.id, after=len(before)))
        job = Job(
            task.question,
            {speaker: under(config.system_of(speaker), messages) for speaker in config.speakers},
            config.limits.limits(),
            hire,
            done=before,
            record=record,
            opener=Speaker(config.opener),
            answerer=Speaker(config.answerer),
            candidates=config.candidates,
            grader=self._grader,
        )
        response = await STRATEGIES[config.strategy](job)
        return Trajectory(
            task.question,
            task.index,
            response.spans,
            response.answer,
            response.stop,
            seconds=time.monotonic() - started,
            attempt=attempt,
            system=config.row_system,
            asides=response.asides,
            choice=response.choice,
        )

    def _writer(
        self, speaker: Speaker, messages: Sequence[Message], key: str, draws: str, deadline: float
    ) -> Writer:
        """`draws`: what the speaker draws for; two that differ are drawn apart."""
        participant, seed = self._speakers[speaker], None
        if self._config.seed is not None:
            seed = random.Random(f"{self._config.seed} {draws}").getrandbits(31)
        return Writer(
            participant.engine.completer(key, seed=seed, deadline=deadline),
            participant.predictor,
            participant.tokenizer,
            participant.thinking,
            participant.thinking.prompt(messages),
            self._config.chunk_of(speaker),
            participant.config.threshold,
        )


def goes_on(failure: Failure, config: RunConfig) -> bool:
    """Whether there is a next attempt and it goes on from the steps of this one.

    The text before a failed completion is still good; a text that went wrong is not.
    """
    return bool(failure.message) and failure.attempt < config.attempts
