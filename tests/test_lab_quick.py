"""The quick form of the lab: tessy's data make the embedded student better, and it forgets nothing for it."""

from pathlib import Path

import pytest

from tessy.programs.lab.config import load_lab_config
from tessy.programs.lab.results import Measured, Results
from tessy.programs.lab.run import run_lab
from tessy.programs.lab.show import write_lab

pytestmark = pytest.mark.lab

RECIPE = Path(__file__).parents[1] / "recipes" / "lab" / "quick.yaml"


def test_tessys_data_improve_the_student(tmp_path: Path) -> None:
    """The margins are wide: with 120 questions a share of right answers has a standard error of 4 points."""
    lab = load_lab_config(RECIPE, [f"folder={tmp_path / 'lab'}"])
    run_lab(lab)
    results = Results(lab)
    print((write_lab(results)[1]).read_text(encoding="utf-8"))
    student, tessy = (results.measured(name) for name in ("student", "tessy"))
    assert isinstance(student, Measured)
    assert isinstance(tessy, Measured)
    gain = tessy.sets["story"].accuracy.value - student.sets["story"].accuracy.value
    assert gain >= 0.10
    assert student.others
    assert tessy.others
    assert tessy.others.accuracy.value >= student.others.accuracy.value - 0.15
    against = results.compared("student_only", "tessy")
    assert against
    assert against.low > 0
