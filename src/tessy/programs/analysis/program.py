"""`analyze`: sources in, tables and figures out, with an index; what cannot be had is left out with its reason.

Owns the order of the parts and what lies in the folder. What is measured is the other modules'.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import orjson

from tessy.errors import DataError
from tessy.programs.analysis import outcomes, tokens
from tessy.programs.analysis.gather import Gathered, gather
from tessy.programs.analysis.on_policy import on_policy
from tessy.programs.analysis.records import (
    Analysis,
    AnalysisOptions,
    Cell,
    Figure,
    LeftOut,
    Part,
    Table,
)
from tessy.programs.analysis.resemblance import principal_components, similarity
from tessy.programs.analysis.scoring import Scores
from tessy.programs.analysis.sources import Source, open_sources
from tessy.programs.analysis.student import tokenizer_of
from tessy.programs.analysis.style import draw_to
from tessy.programs.analysis.vectors import tf_idf
from tessy.programs.analysis.wording import wording
from tessy.programs.report.figures import INDEX

_NO_VOCABULARY = "the student's tokenizer is not known: no source is a run with a student; name one"


def analyze(
    sources: Sequence[str | Path],
    to: Path,
    options: AnalysisOptions | None = None,
    scores: Scores | None = None,
) -> Analysis:
    """Measure and draw what is in `sources` (run directories, published or exported sets, `name=path`) into `to`.

    Args:
        sources: at least one.
        to: a folder; files of the same names in it are replaced.
        options: what is not in the runs' configurations.
        scores: what `score` found; without it the figure of on-policyness is left out.

    Raises:
        DataError: a source cannot be read, or a file cannot be written.
        ConfigError: a run's configuration cannot be read, or an option is wrong.
        ModelError: the student's tokenizer cannot be loaded.
    """
    measured = measure(sources, options, scores)
    figures: list[Figure] = []
    try:
        to.mkdir(parents=True, exist_ok=True)
        for part in measured.parts:
            svg, png = draw_to(to, part.name, part.height, part.draw)
            figures.append(Figure(part.name, part.title, part.caption, svg, png))
        analysis = Analysis(to, measured.tables, tuple(figures), measured.left_out)
        _write(analysis, measured.sources)
    except OSError as error:
        raise DataError(f"{error.filename or to}: cannot be written: {error.strerror}") from error
    return analysis


@dataclass(frozen=True, slots=True)
class Measured:
    """An analysis that is not drawn yet."""

    sources: tuple[Source, ...]
    tables: tuple[Table, ...]
    parts: tuple[Part, ...]
    left_out: tuple[LeftOut, ...]


def measure(
    sources: Sequence[str | Path], options: AnalysisOptions | None = None, scores: Scores | None = None
) -> Measured:
    """All of `analyze` but the drawing and writing; arguments and errors are the same."""
    options = options or AnalysisOptions()
    opened = open_sources(sources)
    vocabulary = tokenizer_of(opened, options)
    gathered = [gather(source, vocabulary) for source in opened]
    found = list(_parts(gathered, options, scores or Scores()))
    parts = tuple(part for part in found if isinstance(part, Part))
    tables = (_overview(gathered), *(table for part in parts for table in part.tables))
    return Measured(opened, tables, parts, tuple(each for each in found if isinstance(each, LeftOut)))


def _parts(
    gathered: Sequence[Gathered], options: AnalysisOptions, scores: Scores
) -> Iterator[Part | LeftOut]:
    """All parts, those of a few numbers first; the large matrices are let go before the words."""
    yield tokens.shares(gathered)
    yield tokens.counts(gathered)
    yield tokens.switches(gathered)
    yield tokens.span_lengths(gathered)
    yield outcomes.ended_by(gathered)
    yield outcomes.stops(gathered)
    yield outcomes.accuracy(gathered)
    yield from _resemblance(gathered, options)
    yield from wording(gathered)
    yield on_policy(scores)


def _resemblance(gathered: Sequence[Gathered], options: AnalysisOptions) -> Iterator[Part | LeftOut]:
    vectors = [(each, each.take_matrix()) for each in gathered if each.size and each.rows]
    if vectors:
        tf_idf([rows for _, rows in vectors])
        yield principal_components(vectors, options.plotted)
        yield similarity(vectors)
        return
    reason = "no source has responses" if any(each.size for each in gathered) else _NO_VOCABULARY
    yield LeftOut("pca", "Responses in the plane of their principal components", reason)
    yield LeftOut("similarity", "Cosine similarity under the same question", reason)


def _overview(gathered: Sequence[Gathered]) -> Table:
    columns = ("source", "path", "kind", "responses", "questions", "failed_attempts")
    rows = tuple(
        (
            each.name,
            str(each.source.path),
            "run" if each.source.is_run else "data set",
            each.rows,
            len(set(each.questions)),
            each.failed.total(),
        )
        for each in gathered
    )
    return Table("sources", "What was analysed", columns, rows)


def _write(analysis: Analysis, sources: Sequence[Source]) -> None:
    for table in analysis.tables:
        with (analysis.folder / f"{table.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table.columns)
            writer.writerows([_cell(cell) for cell in row] for row in table.rows)
        rows = [dict(zip(table.columns, map(_plain, row), strict=True)) for row in table.rows]
        _write_json(analysis.folder / f"{table.name}.json", {"title": table.title, "rows": rows})
    index = {
        "tessy": version("tessy"),
        "sources": {source.name: str(source.path) for source in sources},
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "csv": f"{table.name}.csv",
                "json": f"{table.name}.json",
            }
            for table in analysis.tables
        ],
        "figures": [
            asdict(figure) | {"svg": figure.svg.name, "png": figure.png.name} for figure in analysis.figures
        ],
        "left_out": [asdict(each) for each in analysis.left_out],
    }
    _write_json(analysis.folder / INDEX, index)


def _write_json(path: Path, content: object) -> None:
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def _plain(cell: Cell) -> Cell:
    """No NaN: JSON has none."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _cell(cell: Cell) -> Cell:
    """A cell of a CSV file. What a spreadsheet would take for a formula is text: words come from models."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else _plain(cell)
