"""The linter of imports, on trial: it finds an arrow that points up, and a circle."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("importlinter", reason="the linter of imports is in the extra lint")


@pytest.fixture
def house(tmp_path):
    """A copy of the package, with the linter's contracts."""
    shutil.copytree(ROOT / "hpcdist", tmp_path / "hpcdist", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(house):
    """(exit code, what the linter says)."""
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=house, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_house_as_it_is_passes(house):
    code, said = lint(house)
    assert code == 0, said
    assert "0 broken" in said


def test_an_arrow_that_points_up_is_found(house):
    with (house / "hpcdist/util/sizes.py").open("a") as module:
        module.write("\nfrom hpcdist.transport import threads\n")
    code, said = lint(house)
    assert code == 1
    assert "imports point down BROKEN" in said
    assert "hpcdist.util is not allowed to import hpcdist.transport" in said


def test_an_import_within_a_function_is_seen(house):
    with (house / "hpcdist/schedule/ir.py").open("a") as module:
        module.write("\ndef late():\n    from hpcdist.simulate import cost\n    return cost\n")
    assert "hpcdist.schedule is not allowed to import hpcdist.simulate" in lint(house)[1]


def test_a_circle_within_a_room_is_found(house):
    with (house / "hpcdist/schedule/ir.py").open("a") as module:
        module.write("\nfrom hpcdist.schedule import verify\n")
    assert "no circles within a room BROKEN" in lint(house)[1]


def test_a_room_without_a_layer_is_found(house):
    (house / "hpcdist/cellar.py").write_text('"""No layer has it."""\n')
    code, said = lint(house)
    assert code != 0
    assert "cellar" in said


def test_only_front_doors_import_by_name():
    """What is imported by a name in a text is not seen by the linter."""
    files = (path for path in (ROOT / "hpcdist").rglob("*.py") if "import_module(" in path.read_text())
    doors = {"__init__.py", "util/verbs.py", "checkpoint/__init__.py"}
    torch = {"checkpoint/tool/export.py"}
    assert {path.relative_to(ROOT / "hpcdist").as_posix() for path in files} == doors | torch
