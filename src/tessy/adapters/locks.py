"""Files that are locked as long as a process lives: who has a folder, and whether anybody still works in it.

What several adapters and programs stand on. The system itself takes a lock from a process that ends, however it ends;
a process that was killed may have begun others, which need a moment to notice, so that whoever comes next waits for a
while. Refuses to know what lies in a folder.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tessy.errors import RunError

T = TypeVar("T")

REFUSED_AFTER = 1.0
"""Seconds in which a process that was killed may still let go of a folder: the one that had it open …"""
LEFT_AFTER = 30.0
"""… and those that wrote beside it, which end as soon as they notice."""


def locked(path: Path, *, shared: bool = False) -> int:
    """A lock on a file, which is made if it is not there: a file descriptor, and who inherits it has the lock as well.

    Args:
        path: the file.
        shared: others may share it; nobody has it alone meanwhile.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be opened.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def patiently(seconds: float, take: Callable[[], T]) -> T:
    """What `take` gives, asked again for so long while another process has it.

    Raises:
        BlockingIOError: it has it still.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return take()
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


@contextmanager
def alone(path: Path, refused: str, seconds: float = REFUSED_AFTER) -> Iterator[None]:
    """Have the lock on a file while the block runs; the file stays.

    Raises:
        RunError: another process has it, after so many seconds still; `refused` says so.
        OSError: it cannot be opened.
    """
    try:
        lock = patiently(seconds, lambda: locked(path))
    except BlockingIOError as error:
        raise RunError(refused) from error
    try:
        yield
    finally:
        os.close(lock)
