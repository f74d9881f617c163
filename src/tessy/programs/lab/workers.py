"""The processes that the units of an experiment are done in: each keeps to a share of the cores.

None of them outlives the process that began them, however that one ends, and nobody works in a lab's folder beside
those of an earlier call. Knows nothing of what they do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.queues import Queue
from pathlib import Path

from tessy.adapters.locks import LEFT_AFTER, alone, locked
from tessy.errors import RunError

LOCK = "lock"
"""Who has it runs the experiment."""
WORKERS = "lock.workers"
"""Shared by all processes that work on it."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder of an experiment, if it is not there, and have it while the block runs; nobody works in it.

    Raises:
        RunError: another call has it, or nothing can be written.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(folder / LOCK, f"{folder}: another `tessy lab run` is at work there"))
            with alone(
                folder / WORKERS, f"{folder}: processes of an earlier `tessy lab run` work there", LEFT_AFTER
            ):
                pass
        except OSError as error:
            raise RunError(f"{error.filename}: {error.strerror}") from error
        yield


@contextmanager
def workers(folder: Path, jobs: int | None) -> Iterator[ProcessPoolExecutor]:
    """So many processes (None: one for each core) for the units of the experiment in `folder`."""
    cores = _cores()
    jobs = min(jobs or len(cores), len(cores))
    # Not forked: torch's threads do not survive that.
    context = multiprocessing.get_context("spawn")
    shares: Queue[list[int]] = context.Queue()
    for job in range(jobs):
        shares.put(cores[job::jobs])
    before = os.environ.get("OMP_NUM_THREADS")
    # Before torch is loaded in the workers: it asks for the number of threads once.
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(cores) // jobs))
    try:
        with ProcessPoolExecutor(jobs, context, _begin, (shares, folder / WORKERS)) as pool:
            yield pool
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _cores() -> list[int]:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _begin(shares: Queue[list[int]], lock: Path) -> None:
    """In a worker: keep to a share of the cores, and leave Ctrl-C to the process that all workers are of."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    locked(lock, shared=True)  # as long as this process lives
    if sys.platform == "linux":
        os.sched_setaffinity(0, shares.get())


def _end_with_parent() -> None:
    """End this process when its parent is gone: what is under way is journalled, and others may go on with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker"
    parent.join()
    os._exit(1)
