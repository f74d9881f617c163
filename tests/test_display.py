"""What a person sees while a run goes on."""

import asyncio

import pytest
from rich.console import Console

from tessy import display
from tessy.programs.progress import Progress
from tessy.protocols import EngineStats
from tessy.trajectory import Speaker


def progress() -> Progress:
    made = Progress(asked=10, kept=3, failed=1, in_flight=4)
    made.tokens.update({Speaker.STUDENT: 20, Speaker.TEACHER: 60})
    made.engines = {speaker: EngineStats(retries=2, in_flight=3, limit=8) for speaker in Speaker}
    return made


@pytest.mark.parametrize("terminal", [True, False])
async def test_a_run_shows_its_counts_and_both_speakers(terminal: bool) -> None:
    console = Console(force_terminal=terminal, width=100, height=20, color_system=None)
    with console.capture() as captured:
        async with display.shown(progress(), console):
            await asyncio.sleep(0.7)
    shown = captured.get()
    for expected in ("3 kept", "4 in flight", "1 failed", "of 10", "4 retries", "student", "teacher"):
        assert expected in shown
    assert ("25% of tokens" if terminal else "student 25%") in shown
    if terminal:
        rows = {line.strip("│ ").partition(" ")[0] for line in shown.splitlines()}
        assert {"student", "teacher"} <= rows, "each has a row of its own"
