"""A whole experiment: every unit once, several at a time, each in a process with cores of its own.

Data come first; a student begins when its data are there. A unit that fails ends the experiment when those under way
are done; the same call goes on. Knows no unit from the inside.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import yaml

from tessy.errors import RunError, TessyError
from tessy.programs.directory import replace_whole
from tessy.programs.lab.config import LabConfig
from tessy.programs.lab.questions import write_questions
from tessy.programs.lab.results import MODELS
from tessy.programs.lab.units import Unit
from tessy.programs.lab.workers import alone_in, workers


def run_lab(
    lab: LabConfig, *, jobs: int | None = None, told: Callable[[str, int, int], None] = lambda *_: None
) -> None:
    """Do what is left of an experiment, in `lab.folder`.

    Args:
        lab: see `load_lab_config`.
        jobs: units at a time (None: one for each core); each has its share of the cores.
        told: called when a unit is done, with its name, how many are done and how many there are.

    Raises:
        RunError: a unit failed, the folder holds another experiment or is at work in another call, or a process died.
    """
    with alone_in(lab.path):
        _claim(lab)
        write_questions(lab)
        with workers(lab.path, jobs) as pool:
            _work(lab, pool, told)


def units(lab: LabConfig) -> Iterator[Unit]:
    """All units, in the order in which they begin: an arm's data before the students that learn them."""
    for name in MODELS:
        yield from (Unit(lab, name, seed) for seed in lab.seeds)
    for source in lab.own_data():
        yield Unit(lab, source)
        for arm in lab.arms:
            if lab.source(arm) == source:
                yield from (Unit(lab, arm, seed) for seed in lab.seeds)


def _work(lab: LabConfig, pool: ProcessPoolExecutor, told: Callable[[str, int, int], None]) -> None:
    everything = list(units(lab))
    waiting = [unit for unit in everything if not unit.done]
    done, total = len(everything) - len(waiting), len(everything)
    running: dict[Future[None], Unit] = {}
    ready: set[str] = set()
    try:
        while waiting or running:
            for unit in [unit for unit in waiting if unit.seed is None or _can_begin(lab, unit, ready)]:
                running[pool.submit(_do, unit)] = unit
                waiting.remove(unit)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(future)
                future.result()
                if unit.seed is None:
                    ready.add(unit.name)
                done += 1
                told(str(unit), done, total)
    except BrokenProcessPool as error:
        raise RunError(f"{lab.folder}: a process died; the same command goes on") from error
    except Exception:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except KeyboardInterrupt:
        # What is under way is journalled, and goes on with the next call.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise


def _do(unit: Unit) -> None:
    try:
        asyncio.run(unit.do())
    except TessyError as error:  # as one that another process can read
        raise RunError(f"{unit}: {error}") from None


def _can_begin(lab: LabConfig, unit: Unit, ready: set[str]) -> bool:
    return unit.name in MODELS or lab.source(unit.name) in ready


def _claim(lab: LabConfig) -> None:
    """Write the experiment into its folder, or see that it is the one that is there; arms and seeds may be added.

    Raises:
        RunError: it is another one, or nothing can be written.
    """
    path, given = lab.path / "lab.yaml", lab.model_dump(mode="json")
    try:
        if path.exists():
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
            fixed = set(given) - {"folder", "arms", "seeds"}
            changed = [name for name in sorted(fixed) if before.get(name) != given[name]]
            arms = [name for name, arm in given["arms"].items() if before["arms"].get(name, arm) != arm]
            if changed or arms:
                fields = ", ".join([*changed, *(f"arms.{name}" for name in arms)])
                raise RunError(f"{lab.folder} holds an experiment with other {fields}: use another folder")
            given["arms"] = before["arms"] | given["arms"]
        replace_whole(path, yaml.safe_dump(given, sort_keys=False, allow_unicode=True).encode())
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}") from error
