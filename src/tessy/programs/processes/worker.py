"""One process of several: writes what it is handed, journals steps in a file of its own, and tells how it went.

It ends when its parent does, at once and whatever it does, as it may be killed at any time: its steps are on record.
Knows no row, no backlog and no other worker.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from threading import Thread
from typing import BinaryIO

import orjson

from tessy.adapters.store import journal_beside
from tessy.errors import TessyError
from tessy.programs.desk import Desk
from tessy.programs.processes.messages import Beginning, Order, line, line_of
from tessy.programs.progress import Progress
from tessy.programs.speakers import participants

COUNTS_EVERY = 0.25
"""Seconds."""


async def serve(lines: BinaryIO, tell: BinaryIO) -> None:
    """Do what the parent says in `lines`, and tell it in `tell`. Returns only when that cannot go on."""
    if not (told := lines.readline()).endswith(b"\n"):
        return  # the parent has ended already
    inbox = _inbox(lines)
    async with _outbox(tell) as send:
        try:
            await _begin(Beginning.of(told), inbox, send)
        except* TessyError as group:
            send(line({"must_end": str(_first(group))}))


def _first(error: BaseException) -> BaseException:
    """The first error of a group."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _begin(beginning: Beginning, inbox: asyncio.Queue[bytes], send: Callable[[bytes], None]) -> None:
    """Load what the desk needs, and work at it."""
    config, progress = beginning.config, Progress()
    async with participants(config) as speakers:
        progress.engines = {speaker: speakers[speaker].engine.stats for speaker in config.speakers}
        with journal_beside(beginning.run_dir, beginning.number) as journal:
            desk = Desk(config, speakers, journal, progress.note_step)
            await _Work(desk, progress, send).go_on(inbox)


class _Work:
    """All that is written here at a time."""

    def __init__(self, desk: Desk, progress: Progress, send: Callable[[bytes], None]) -> None:
        self._desk = desk
        self._progress = progress
        self._send = send
        self._counted: dict[str, dict[str, int]] = {}

    async def go_on(self, inbox: asyncio.Queue[bytes]) -> None:
        """Do what comes."""
        self._send(line({"ready": True}))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_counts_now_and_then())
            while True:
                message = orjson.loads(await inbox.get())
                if "write" in message:
                    group.create_task(self._write(Order.of(message["write"])))
                else:
                    self._desk.settled(message["settled"])

    async def _write(self, order: Order) -> None:
        outcome = await self._desk.write(order.task, order.attempt, order.before)
        self._tell_counts()  # before it, so that with the last outcome all is counted
        self._send(line_of(outcome))

    async def _tell_counts_now_and_then(self) -> None:
        while True:
            self._tell_counts()
            await asyncio.sleep(COUNTS_EVERY)

    def _tell_counts(self) -> None:
        if (counts := self._progress.counts()) != self._counted:
            self._counted = counts
            self._send(line({"counts": counts}))


def _inbox(lines: BinaryIO) -> asyncio.Queue[bytes]:
    """What the parent says. A thread listens, so that its end is noticed even where the event loop stands still."""
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[bytes]()

    def listen() -> None:
        for each in _whole(lines):
            loop.call_soon_threadsafe(inbox.put_nowait, each)
        os._exit(0)

    Thread(target=listen, daemon=True).start()
    return inbox


def _whole(lines: BinaryIO) -> Iterator[bytes]:
    """Lines to the end, without one that breaks off there."""
    return (each for each in lines if each.endswith(b"\n"))


class _Pipe(asyncio.BaseProtocol):
    """Tells when all is written and the pipe is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self.closed.set_result(None)


@asynccontextmanager
async def _outbox(tell: BinaryIO) -> AsyncIterator[Callable[[bytes], None]]:
    """What sends a line without waiting; all are sent when the block ends."""
    transport, pipe = await asyncio.get_running_loop().connect_write_pipe(_Pipe, tell)
    try:
        yield transport.write
    finally:
        transport.close()
        await pipe.closed
