"""`python -m tessy.programs.processes`: a worker, begun by its parent and spoken to over stdin and stdout."""

import os
import signal
import sys
import traceback

import uvloop

from tessy.programs.processes.worker import serve


def main() -> None:
    """Work until the parent ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent is told, and ends its workers
    tell = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no message
    try:
        uvloop.run(serve(sys.stdin.buffer, tell))
    except BaseException:  # noqa: BLE001 - whatever it is, the parent says that it is above
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)  # a thread still listens to stdin, and an orderly end would wait for it


if __name__ == "__main__":
    main()
