"""Runs in processes that can be killed: forked from one that has imported everything, since starting takes long.

Run as a program, this reads a line for each run, the path of a run.yaml, forks a process that does the run, prints its
id, and when it is gone its exit code (negative: the signal). It is single-threaded itself, so that forking is safe.
"""

from __future__ import annotations

import os
import sys

import uvloop

from tessy.programs.config import load
from tessy.programs.run import synthesize


def child(path: str) -> None:
    """Do the run, as `tessy synthesize` does it."""
    summary = uvloop.run(synthesize(load(path)))
    os._exit(1 if summary.owed else 0)


def main() -> None:
    """Serve runs until the input ends."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                child(line.strip())
            finally:
                os._exit(99)  # an exception: its traceback is on stderr
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
