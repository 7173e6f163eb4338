"""Every notebook runs from top to bottom at toy size, and what is committed is a full run of its script."""

import base64
import os
import re
from importlib.util import find_spec
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# Run after the cell that is tagged `parameters`, as papermill has it. What the comparison trains is a small model.
TOY = {
    "2_comparison": """
import sys, tempfile
sys.path.append("../tests")
import engine
from experiments.tasks import digits
digits.DIGITS = engine.SMALL
recorded, task, steps, seeds, out = None, "digits", 20, 2, tempfile.mkdtemp()
""",
    "4_finding_a_rate": "steps, seeds = 32, 4",
    "5_averaging": "steps, seeds, updates = 150, 2, 200",
    "6_averaging_is_decay": "steps, seeds, cooldowns = 200, 2, [40, 200]",
    "7_how_long_a_cooldown": "resamples, every = 2, 8",
}
# What one notebook leaves behind is not seen by the next. What is pending is the kernel's own, at its end.
FRESH = """
import matplotlib.pyplot
matplotlib.pyplot.close("all")
%reset -f
import warnings
warnings.simplefilter("error")
warnings.simplefilter("ignore", PendingDeprecationWarning)
"""
# For cells that need what the tests do not install; such a cell is tagged with the package's name.
OPTIONAL = ("torch",)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def tagged(path: Path, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if tag in cell.metadata.get("tags", [])]


def findings(path: Path) -> list[str]:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return re.findall(r"^\*\*.+\*\*", text, re.MULTILINE)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def test_there_are_notebooks_and_toy_sizes_for_them():
    assert len(NOTEBOOKS) == 7
    assert TOY.keys() <= {path.stem for path in NOTEBOOKS}


@pytest.fixture(scope="module")
def kernel():
    """One for all, in their folder, as a user runs them: they import and compile much that is the same."""
    quickly = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    manager, client = start_new_kernel(startup_timeout=600, cwd=str(NOTEBOOKS[0].parent), env=quickly)
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own loop
def test_it_runs_at_toy_size(path, kernel):
    notebook = read(path)
    missing = [name for name in OPTIONAL if find_spec(name) is None]
    notebook.cells = [cell for cell in notebook.cells if not {*missing} & {*cell.metadata.get("tags", [])}]
    parameters = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == (path.stem in TOY)
    if parameters:
        notebook.cells.insert(parameters[0] + 1, nbformat.v4.new_code_cell(TOY[path.stem]))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FRESH))
    client = NotebookClient(notebook, kernel, timeout=600)
    client.execute()
    client.kc.stop_channels()


def test_it_is_the_run_of_its_script(path):
    notebook, script = read(path), jupytext.read(path.with_suffix(".py"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [cell for cell in code if "execution" in cell.metadata]  # the time of day, in every diff


def test_it_begins_with_its_finding_and_the_picture_of_it(path):
    """Then how to run it on Colab, then the imports."""
    first, colab, imports = read(path).cells[:3]
    assert first.source.startswith(f"# {path.stem[0]}. ")
    assert re.findall(r"!\[.+\]\((.*)\)", first.source) == [f"pictures/{path.stem}.png"]
    (finding,) = tagged(path, "finding")
    (drawn,) = [o.data["image/png"] for o in finding.outputs if "image/png" in o.get("data", {})]
    assert (path.parent / "pictures" / f"{path.stem}.png").read_bytes() == base64.b64decode(drawn)
    assert tagged(path, "colab") == [colab]
    assert [imports.cell_type, imports.source.split()[0] in ("import", "from")] == ["code", True]


def test_the_cell_for_colab_is_the_same_in_all():
    assert len({cell.source for path in NOTEBOOKS for cell in tagged(path, "colab")}) == 1


def test_it_is_short_and_has_pictures_and_findings(path):
    cells = read(path).cells
    assert len(cells) <= 26
    pictures = [o for cell in cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3
    assert len(findings(path)) >= 3


def test_the_numbers_of_its_findings_are_those_it_printed(path):
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    said = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    printed = "".join([*said, *(cell.source for cell in code)])
    for finding in [read(path).cells[0].source, *findings(path)]:
        assert [n for n in re.findall(r"\d+\.\d+", finding) if n not in printed] == [], finding


def test_it_names_no_path_of_the_machine_it_ran_on(path):
    assert not re.search(r"/(tmp|home|root|Users|work)/", path.read_text())
