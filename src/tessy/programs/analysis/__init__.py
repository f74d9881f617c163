"""What is in the data: tables and figures over runs and data sets of any mix of strategies (paper, Figures 6 to 17).

`sources` reads, `gather` counts in one pass, `tokens`, `outcomes`, `resemblance` and `wording` make the figures;
`scoring` asks the student how likely the responses are to it. Reads stored files only; changes no run.

Importing this package imports numpy, scipy, scikit-learn and matplotlib; nothing else in tessy imports it at its top.
"""

from tessy.errors import ConfigError

try:
    import matplotlib  # noqa: F401
    import sklearn  # noqa: F401
except ImportError as error:
    raise ConfigError(
        "an analysis needs scikit-learn and matplotlib: pip install 'tessy[analysis]'"
    ) from error

from tessy.programs.analysis.program import Measured, analyze, measure
from tessy.programs.analysis.records import Analysis, AnalysisOptions, Figure, LeftOut, Table
from tessy.programs.analysis.scoring import Scores, score
from tessy.programs.report.figures import INDEX

__all__ = [
    "INDEX",
    "Analysis",
    "AnalysisOptions",
    "Figure",
    "LeftOut",
    "Measured",
    "Scores",
    "Table",
    "analyze",
    "measure",
    "score",
]
