"""Puts an experiment's tables and pictures down in its folder: `lab.json`, `lab.txt`, PNG and SVG."""

from __future__ import annotations

import io
from pathlib import Path

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from tessy.errors import RunError
from tessy.programs.directory import replace_whole
from tessy.programs.lab.results import Results
from tessy.programs.lab.table import COLUMNS, figures, tables


def shown_tables(results: Results) -> list[Table]:
    """A table for each group of arms of which something is there."""
    made = []
    for group, rows in tables(results).items():
        if rows:
            table = Table(title=group, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            for n, title in enumerate(COLUMNS):
                table.add_column(title, justify="right" if n else "left", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            made.append(table)
    return made


def write_lab(results: Results) -> list[Path]:
    """Write `lab.json`, `lab.txt` and the pictures of what is there so far; the files.

    Raises:
        RunError: they cannot be written.
        ConfigError: matplotlib is missing.
    """
    # Late: matplotlib takes a second.
    from tessy.programs.lab.pictures import draw_lab

    folder, text = results.lab.path, io.StringIO()
    console = Console(file=text, width=200)
    for table in shown_tables(results):
        console.print(table)
    try:
        content = orjson.dumps(figures(results), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
        replace_whole(folder / "lab.json", content + b"\n")
        replace_whole(folder / "lab.txt", text.getvalue().encode())
        return [folder / "lab.json", folder / "lab.txt", *draw_lab(results, folder)]
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be written: {error.strerror}") from error
