"""Numbers, and tables of them, as text."""

from collections.abc import Sequence

import numpy as np


def decimals(number: float, digits: int, sign: str = "") -> str:
    """`number` with `digits` decimals, or in scientific notation if it is huge."""
    return f"{number:{sign}.1e}" if abs(number) >= 1e5 else f"{number:{sign}.{digits}f}"


def signed(number: float | None, digits: int) -> str:
    return "-" if number is None else decimals(number, digits, "+")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def spread(values: np.ndarray, digits: int, unit: str = "", sign: str = "") -> str:
    """Mean and standard error over seeds; without the error for one seed."""
    error = f" ± {decimals(float(standard_error(values)), digits)}" if len(values) > 1 else ""
    return f"{decimals(float(values.mean()), digits, sign)}{error}{unit}"


def standard_error(values: np.ndarray) -> np.ndarray:
    """The standard error of the mean over seeds, the last axis; there must be two or more."""
    return np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1]))


def markdown(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table that is readable as plain text too; the first `left` columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [aligned[0], rule, *aligned[1:]])
