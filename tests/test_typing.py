"""Type checkers accept a user's program and find its mistakes, in the packages as they are installed."""

import re
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

TYPED = Path(__file__).parent / "typed"
# What mypy has read of jax, numpy and optax, from one run of the tests to the next, beside what it keeps of its own.
CACHE = Path(__file__).parent.parent / ".mypy_cache" / "typed"
pytestmark = pytest.mark.slow
# optax has annotations, but no py.typed that says so.
CONFIG = "[mypy]\nstrict = true\n[mypy-optax.*]\nfollow_untyped_imports = true\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The codes of the errors that mypy finds, by file and line."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # where only what is installed, with py.typed, can be found
    (elsewhere / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--cache-dir", CACHE, "--show-absolute-path"]
    command += [TYPED / "passes.py", TYPED / "fails.py"]
    said = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    errors = defaultdict(set)
    for path, line, code in re.findall(r"^(.*?):(\d+): error: .*\[([\w-]+)\]$", said.stdout, re.MULTILINE):
        errors[Path(path).name, int(line)].add(code)
    assert errors, said.stdout + said.stderr
    return errors


def marked(path: Path) -> dict[int, set[str]]:
    """The codes in the comments `# error: CODE, CODE` of a program, by line."""
    marks = (re.search(r"# error: (.*)$", line) for line in path.read_text().splitlines())
    return {n: set(mark[1].split(", ")) for n, mark in enumerate(marks, 1) if mark}


@pytest.mark.parametrize("name", ["passes.py", "fails.py"])
def test_the_lines_with_mistakes_are_those_found(name, found):
    assert {line: codes for (file, line), codes in found.items() if file == name} == marked(TYPED / name)


def test_there_are_mistakes_to_find():
    assert len(marked(TYPED / "fails.py")) > 60
    assert not marked(TYPED / "passes.py")


@pytest.mark.usefixtures("quick_compilation")
def test_the_program_that_passes_runs(capsys):
    runpy.run_path(str(TYPED / "passes.py"))
    assert not capsys.readouterr().err
