"""What is compared. Each file here declares a study: its arms, how to draw them, its questions, claims and report."""

from pathlib import Path

from experiments.declared import declared
from experiments.reports.results import Results
from experiments.studies.study import Study


def every_study() -> dict[str, Study]:
    """All studies by name."""
    return declared(__name__, Study)


def study_of(results: Results) -> Study:
    """The study that made the results; a plain one if their arms are of several studies, or of an unknown one."""
    return every_study().get(results.study, Study(results.study))


def save(results: Results, folder: Path) -> str:
    """Writes the report of the study to a folder, and returns the text to print at the end of a run.

    **Raises:** `UserError` if it cannot be written.
    """
    return study_of(results).save(results, folder)
