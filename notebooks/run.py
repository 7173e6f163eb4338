"""Runs notebooks: writes the .ipynb of each script, with its outputs, and the picture that its first cell shows.

python notebooks/run.py [6_averaging_is_decay ...]     # all of them, if none is named
"""

import base64
import sys
import time
import zlib
from pathlib import Path

import jupytext
from jupytext.config import load_jupytext_config
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
CONFIG = load_jupytext_config(str(HERE))


def run(name: str) -> None:
    notebook = jupytext.read(HERE / f"{name}.py", config=CONFIG)
    for cell in notebook.cells:
        cell.id = f"{zlib.crc32(cell.source.encode()):08x}"  # a random id would change in every run
    # Printed lines arrive in pieces that depend on timing: join them.
    options = {"kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources={"metadata": {"path": str(HERE)}}, **options).execute()
    jupytext.write(notebook, HERE / f"{name}.ipynb")
    (HERE / "pictures" / f"{name}.png").write_bytes(finding(notebook))


def finding(notebook: NotebookNode) -> bytes:
    """The one picture of the one cell that is tagged `finding`."""
    (cell,) = (cell for cell in notebook.cells if "finding" in cell.metadata.get("tags", []))
    (picture,) = (output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
    return base64.b64decode(picture)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in HERE.glob("[0-9]*.py")):
        started = time.perf_counter()
        run(name)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
