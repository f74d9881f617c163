"""Commands around a run: init, check, synthesize, demo, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessy import display
from tessy.adapters.store import read_trajectories
from tessy.cli.shell import Force, Overrides, app, await_, out, stop_on_signals, write_template
from tessy.errors import DataError
from tessy.programs import config as configs
from tessy.programs.check import check as check_run
from tessy.programs.demo import demonstrate
from tessy.programs.progress import Progress
from tessy.programs.run import synthesize as synthesize_run
from tessy.programs.speakers import participants

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The run.yaml.")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("run.yaml"),
    force: Force = False,
) -> None:
    """Write a commented run.yaml."""
    write_template(
        path,
        configs.TEMPLATE,
        f"fill in the questions and the two servers, then: tessy check --config {path}",
        force=force,
    )


@app.command()
def check(config: ConfigOption = Path("run.yaml"), overrides: Overrides = None) -> None:
    """Try the servers, their settings, tokenizers and predictors of a run, in a few seconds."""
    run = configs.load(config, overrides or ())

    async def look() -> bool:
        async with participants(run) as speakers:
            findings = await check_run(run, speakers)
            display.print_findings(findings, out)
            return not any(finding.fatal for finding in findings)

    if not await_(look()):
        raise typer.Exit(2)


@app.command()
def synthesize(
    config: ConfigOption = Path("run.yaml"),
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    trajectories: Annotated[int | None, typer.Option(help="Trajectories per question.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Trajectories in flight.")] = None,
    questions: Annotated[Path | None, typer.Option(help="The questions file.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run directory.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes draws repeatable where the servers can.")] = None,
) -> None:
    """Let student and teacher answer the questions together. Run it again to go on, or to extend the run."""
    flags = {
        "limit": limit,
        "trajectories": trajectories,
        "concurrency": concurrency,
        "questions": questions,
        "run_dir": run_dir,
        "seed": seed,
    }
    given = [f"{name}={value}" for name, value in flags.items() if value is not None]
    run = configs.load(config, [*(overrides or ()), *given])
    raise typer.Exit(await_(_synthesize(run)))


async def _synthesize(run: configs.RunConfig) -> int:
    """Run, show and account; the exit code."""
    stop, progress = stop_on_signals(), Progress()
    async with display.shown(progress, out):
        summary = await synthesize_run(run, progress=progress, stop=stop)
    display.print_findings((finding for finding in progress.findings if not finding.ok), out)
    display.print_summary(summary, run.run_dir, out)
    return 130 if stop.is_set() and summary.stopped_because else 1 if summary.owed else 0


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where to put it; an earlier one there is replaced.")
    ] = Path("runs/demo"),
    questions: Annotated[int, typer.Option("--questions", "-n", min=1, max=1000, help="How many.")] = 40,
) -> None:
    """Let the embedded pair answer hard questions together: no server, no GPU, no download."""

    async def work() -> None:
        progress = Progress()
        async with display.shown(progress, out):
            made = await demonstrate(folder, questions, progress)
        display.print_demo(made, out)

    await_(work())


@app.command()
def show(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    question_id: Annotated[str | None, typer.Argument(help="A question's id, or its beginning.")] = None,
) -> None:
    """Print one trajectory, coloured by speaker, with its counts (the first one, or the question's)."""
    found = (row for row in read_trajectories(run_dir) if row.id.startswith(question_id or ""))
    trajectory = next(found, None)
    if trajectory is None:
        raise DataError(
            f"{run_dir}: nothing is kept" + (f" of question {question_id}" if question_id else "")
        )
    display.print_trajectory(trajectory, out)
