"""Imports go down the layers only, and never sideways between adapters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tessy"
WORDS = {"trajectory", "questions", "errors", "protocols"}
SHARED = {"appending", "lines", "locks", "memory", "models"}
"""What adapters of several formats stand on; they own none."""


def layer(module: str) -> int:
    """The layer of a module, by its dotted name inside the package."""
    first = module.split(".")[0]
    if first in WORDS:
        return 0
    # The embedded pair is data and the pure world that it was trained on.
    return {"core": 1, "embedded": 1, "adapters": 2, "programs": 3}.get(first, 4)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The tessy modules that a file imports, by their dotted names inside the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            module = node.module or ""
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            names = [
                name
                for name in submodules
                if (PACKAGE.parent / name.replace(".", "/")).exists()
                or (PACKAGE.parent / (name.replace(".", "/") + ".py")).exists()
            ] or [module]
        found |= {name.removeprefix("tessy.") for name in names if name.startswith("tessy.")}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    own = name_of(path)
    for imported in imports(path):
        assert layer(imported) <= layer(own), f"{own} imports {imported}, a layer above it"
        if layer(own) == layer(imported) == 2:
            room, other = own.split(".")[1], imported.split(".")[1]
            assert other in {room, *SHARED}, f"{own} imports {imported}: adapters do not know one another"


@pytest.mark.parametrize("path", [p for p in FILES if layer(name_of(p)) == 1], ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.split(".")[0] for name in names}
    assert not tops & {
        "torch",
        "transformers",
        "aiohttp",
        "orjson",
        "os",
        "time",
        "socket",
        "asyncio",
        "random",
    } or (
        name_of(path).startswith("embedded")
        and tops <= {"random", "tessy", "__future__"} | tops - {"torch", "os"}
    )


def test_only_processes_of_their_own_start_an_event_loop() -> None:
    starters = [
        name_of(p) for p in FILES if "uvloop.run(" in p.read_text() or "asyncio.run(" in p.read_text()
    ]
    assert [s for s in starters if not s.endswith("__main__")] == ["cli.shell", "programs.lab.run"]


def test_the_command_line_loads_nothing_that_a_plain_install_lacks() -> None:
    """Nor what takes seconds: models, plots and training are loaded by the commands that need them."""
    heavy = "torch transformers sklearn scipy matplotlib trl peft accelerate datasets huggingface_hub"
    code = f"import sys, tessy, tessy.cli; print([n for n in {heavy.split()!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
