"""How far a run is, and how it ended: counters that the run writes, and whoever displays it reads.

Everything here is bounded, however many questions there are. Knows nothing of how the counting comes about.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tessy.adapters.store import Failure, Totals
from tessy.programs.check import Finding
from tessy.protocols import EngineStats
from tessy.trajectory import Speaker, Step, Trajectory

MAX_KINDS_OF_ERROR = 1000
"""Messages that are told apart in the summary; servers may put anything into theirs."""


@dataclass
class Progress:
    """What a run has done so far. Written by the run, read by whoever displays it."""

    asked: int = 0
    kept: int = 0
    failed: int = 0
    duplicates: int = 0
    in_flight: int = 0
    kept_before: int = 0
    """Of `kept`, how many an earlier process had made."""
    tokens: Counter[Speaker] = field(default_factory=Counter)
    """Kept tokens of this process, of steps in flight too."""
    row_tokens: int = 0
    """Tokens of this process's kept rows."""
    failures: Counter[str] = field(default_factory=Counter)
    """Why trajectories failed for good."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failed attempts of this process by kind, server and message."""
    examples: dict[str, str] = field(default_factory=dict)
    """For each of these the first question that it happened to, in the order in which they first happened."""
    started: float = field(default_factory=time.monotonic)
    findings: Sequence[Finding] = ()
    """What the check before the run found."""
    engines: Mapping[Speaker, EngineStats] = field(default_factory=dict)

    @property
    def owed(self) -> int:
        """Trajectories that are neither kept nor failed for good."""
        return self.asked - self.kept - self.failed

    @property
    def retries(self) -> int:
        """Requests that were sent again."""
        return sum(stats.retries for stats in self.engines.values())

    def counts(self) -> dict[str, dict[str, int]]:
        """What another process is told of the work of this one: by speaker kept tokens and what its engine did."""
        return {
            speaker.value: {"tokens": self.tokens[speaker], **asdict(stats)}
            for speaker, stats in self.engines.items()
        }

    def add_counts(
        self, now: Mapping[str, Mapping[str, int]], before: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Count what another process has done since it told the counts `before` (empty: since it began)."""
        for speaker, stats in self.engines.items():
            for name, count in now.get(speaker, {}).items():
                more = count - before.get(speaker, {}).get(name, 0)
                if name == "tokens":
                    self.tokens[speaker] += more
                else:
                    setattr(stats, name, getattr(stats, name) + more)

    def note_step(self, step: Step) -> None:
        """Count a step that is journalled. Of a part it is not known yet whether it becomes the trajectory's text."""
        if not step.part:
            self.tokens[step.speaker] += len(step.ids)

    def note_kept(self, trajectory: Trajectory) -> None:
        """Count a row that is on disk."""
        self.kept += 1
        self.row_tokens += trajectory.tokens()
        if trajectory.choice:
            self.tokens.update({speaker: trajectory.tokens(speaker) for speaker in Speaker})
        elif trajectory.answer:
            self.tokens[trajectory.answer.speaker] += trajectory.answer.tokens

    def note_failed(self, failure: Failure, *, final: bool) -> str:
        """Count a failed attempt; returns it in words."""
        words = failure.message or failure.reason  # an error's message begins with where it happened
        if words in self.errors or len(self.errors) < MAX_KINDS_OF_ERROR:
            self.errors[words] += 1
            self.examples.setdefault(words, failure.question.id)
        if final:
            self.failed += 1
            self.failures[failure.reason] += 1
        return words


@dataclass(frozen=True)
class Summary:
    """How a run ended; also `summary.json`. `asked = kept + failed + owed`, in trajectories."""

    asked: int
    kept: int
    failed: int
    owed: int
    duplicates: int
    """Questions that stood in the file before."""
    stopped_because: str
    """Empty if the run came to its end."""
    totals: Totals
    """Of all rows in the run directory."""
    failures: Mapping[str, int]
    """Why trajectories failed for good."""
    requests: Mapping[str, int]
    """By speaker, in this process, as are the fields that follow."""
    retries: int
    seconds: float
    kept_tokens_per_second: float
    first_error: str
    commonest_error: str


def summarize(progress: Progress, totals: Totals, stopped_because: str) -> Summary:
    """The end of a run in figures."""
    seconds = time.monotonic() - progress.started
    errors = progress.errors.most_common(1)
    return Summary(
        asked=progress.asked,
        kept=progress.kept,
        failed=progress.failed,
        owed=progress.owed,
        duplicates=progress.duplicates,
        stopped_because=stopped_because,
        totals=totals,
        failures=dict(progress.failures),
        requests={speaker.value: stats.requests for speaker, stats in progress.engines.items()},
        retries=progress.retries,
        seconds=round(seconds, 3),
        kept_tokens_per_second=round(progress.row_tokens / max(seconds, 1e-9), 1),
        first_error=_told(next(iter(progress.examples), ""), progress),
        commonest_error=_told(errors[0][0], progress) if errors else "",
    )


def _told(error: str, progress: Progress) -> str:
    times = f"{progress.errors[error]} times, " if progress.errors[error] > 1 else ""
    return f"{error} ({times}question {progress.examples[error]})" if error else ""
