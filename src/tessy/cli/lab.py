"""tessy lab: an experiment that tells whether data make a student better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tessy.cli.shell import Overrides, app, out
from tessy.programs.lab.config import LabConfig, chosen, load_lab_config
from tessy.programs.lab.results import Results
from tessy.programs.lab.run import run_lab
from tessy.programs.lab.show import shown_tables, write_lab

lab = typer.Typer(
    help="Fine-tune a student on the data of each strategy, and measure it.", no_args_is_help=True
)
app.add_typer(lab, name="lab")

Config = Annotated[Path, typer.Option("--config", "-c", help="A lab.yaml, such as recipes/lab/quick.yaml.")]


@lab.command()
def run(
    config: Config,
    overrides: Overrides = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (several times for several).")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Parts at a time; one for each core if not given.")
    ] = None,
) -> None:
    """Do what is left of an experiment, and show its tables."""
    asked = chosen(load_lab_config(config, overrides or ()), arm or ())

    def told(unit: str, done: int, total: int) -> None:
        out.print(f"{done} of {total}: {unit}", markup=False, highlight=False, soft_wrap=True)

    run_lab(asked, jobs=jobs, told=told)
    _show(asked)


@lab.command()
def show(config: Config, overrides: Overrides = None) -> None:
    """Show the tables of what is there of an experiment, and draw its pictures anew."""
    _show(load_lab_config(config, overrides or ()))


def _show(asked: LabConfig) -> None:
    results = Results(asked)
    for table in shown_tables(results):
        Console(width=max(out.width, 110)).print(table)  # a narrow terminal wraps it, and loses nothing
    for path in write_lab(results):
        out.print(str(path), markup=False, highlight=False, soft_wrap=True)
