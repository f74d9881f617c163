"""Files of lines that only ever grow: whole lines, on disk before anyone is told so, written by one process.

What several adapters stand on that each own a format. Lines that are added at the same time share one fsync, off the
event loop. Refuses to know what a line says.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tessy.errors import RunError, TessyError


class Appender:
    """Some files of a folder, opened for appending by this process alone."""

    def __init__(
        self, folder: Path, names: Sequence[str], written: Callable[[str], None] = lambda name: None
    ) -> None:
        """Open or create them; a torn last line is cut off.

        `written` is told the name of a file that has new lines on disk, before those who added them go on.

        Raises:
            OSError: they cannot be opened; BlockingIOError: another process has them.
        """
        self.folder = folder
        self._written = written
        self._waiting: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        with ExitStack() as opened:
            self._files = {name: _open_whole_lines(folder / name, opened) for name in names}
            self._opened = opened.pop_all()

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return os.fstat(self._files[name]).st_size

    async def append(self, name: str, line: bytes) -> None:
        """Add a line (with its line break); returns when it is on disk.

        Raises:
            RunError: it cannot be written.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, line, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._drain())
        await asyncio.shield(written)

    async def settle(self) -> None:
        """Finish what is being written."""
        if self._writer is not None:
            await self._writer

    def close(self) -> None:
        """Free the files for other processes; nothing may be waiting (`settle`)."""
        self._opened.close()

    async def _drain(self) -> None:
        """Write what waits, with one fsync for all of it, until nothing waits: off the event loop."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failed: TessyError | None = None
            try:
                for name in {name for name, _, _ in batch}:
                    lines = [line for file, line, _ in batch if file == name]
                    await asyncio.to_thread(_append_synced, self._files[name], lines)
                    self._written(name)
            except OSError as error:
                failed = RunError(f"{self.folder}: a row cannot be written: {error.strerror}")
            except TessyError as error:
                failed = error
            for written in (future for _, _, future in batch if not future.done()):
                if failed:
                    written.set_exception(failed)
                else:
                    written.set_result(None)


def _open_whole_lines(path: Path, opened: ExitStack) -> int:
    """Open for appending, locked, cut after the last whole line; closed with `opened`."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    opened.callback(os.close, fd)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    size = end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - 2**20)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return fd


def _append_synced(fd: int, lines: Sequence[bytes]) -> None:
    size = os.fstat(fd).st_size
    try:
        for line in lines:  # joined, thousands of long rows that end together would be held twice
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)  # half a line must not run into the next one
        raise
