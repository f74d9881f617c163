"""The embedded pair: two small reasoning models and their boundary predictors, shipped with the package.

Owns where their folders lie. How they were made is in `recipes/embedded`; the problems that they solve are in
`world`, the ways in which they write in `voices`. Loads nothing: any `from_pretrained` does.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

Member = Literal["student", "teacher", "student_predictor", "teacher_predictor"]


MEMBERS: tuple[Member, ...] = get_args(Member)


def path(name: Member) -> Path:
    """The folder of a model, in the layout that `from_pretrained` and vLLM read."""
    return Path(str(files(__name__))) / name
