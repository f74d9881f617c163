"""Boundary predictors: a two-class token classifier, here or behind a server, and a lexicon that needs no model.

`published` reads what a classifier's config and vocabulary say, `classifier` runs it in this process, `pooling` has it
run elsewhere; `rules` is the lexicon.
"""

from tessy.adapters.predictors.classifier import Runtime, TokenClassifier
from tessy.adapters.predictors.pooling import PoolingBoundary, Probabilities
from tessy.adapters.predictors.published import WINDOW
from tessy.adapters.predictors.rules import RuleBoundary, rule_marks

__all__ = [
    "WINDOW",
    "PoolingBoundary",
    "Probabilities",
    "RuleBoundary",
    "Runtime",
    "TokenClassifier",
    "load_predictor",
    "rule_marks",
]


def load_predictor(
    name: str, *, device: str = "auto", dtype: str = "auto", runtime: Runtime = "torch", in_flight: int = 64
) -> TokenClassifier | RuleBoundary:
    """The boundary predictor that a config names: `rules`, or the hub name or folder of a classifier.

    The options are a classifier's: see `TokenClassifier`.

    Raises:
        ModelError: see `TokenClassifier`.
    """
    if name == "rules":
        return RuleBoundary()
    return TokenClassifier(name, device=device, dtype=dtype, runtime=runtime, in_flight=in_flight)
