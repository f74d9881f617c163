"""The program that serves models for benchmarks and tests: it ends when it is told to, and its servers with it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SERVE_NOTHING = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from vllm_servers import _serve_until_interrupted
_serve_until_interrupted([], "float32", usual=False)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_the_background_of_a_script_too(number: signal.Signals) -> None:
    """There, processes begin with SIGINT ignored."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE_NOTHING], cwd=FOLDER, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "{}\n"
        process.send_signal(number)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
