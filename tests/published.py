"""Published tokenizers and questions, which lie beside the repository and not in it; tests that need them are skipped
where they are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

DATA = Path(os.environ.get("TESSY_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
_MISSING = f"nothing published: TESSY_SHARED_DATA is not set and {DATA} does not exist"

needs_published = pytest.mark.skipif(not DATA.is_dir(), reason=_MISSING)


def published(kind: Literal["tokenizers", "questions"], name: str) -> Path:
    """The folder of a tokenizer, or the file of questions."""
    if not DATA.is_dir():
        pytest.skip(_MISSING)
    return DATA / kind / name
