"""Folders and figures of a report."""

import io
import warnings
from pathlib import Path

from matplotlib.figure import Figure

from experiments.errors import UserError, reason
from experiments.files import require_writable, write_bytes


def new_report(folder: Path, numbers: str) -> None:
    """Makes a folder for a report, or reuses one with a report of the same kind, which has a file named `numbers`.

    **Raises:** `UserError` if the folder cannot be written, or holds anything else.
    """
    try:
        require_writable(folder)
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written, got {folder} ({reason(error)})") from None
    held = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if "config.json" in held:
        raise UserError(f"--out must be a folder that holds no run, got {folder}")
    if held and numbers not in held:
        raise UserError(f"--out must be a new or empty folder, or one with {numbers}, got {folder} with {min(held)}")


def save_figure(figure: Figure, path: Path) -> None:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box takes the place of an emoji
        figure.savefig(file, format="png", dpi=160)
    write_bytes(path, file.getvalue())
