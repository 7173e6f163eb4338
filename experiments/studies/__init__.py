"""What is compared. A file here declares a study: its arms, how each is drawn, its questions, claims and report."""

from pathlib import Path

from experiments.declared import declared
from experiments.reports.results import Results
from experiments.studies.study import Study


def every_study() -> dict[str, Study]:
    """All studies by name."""
    return declared(__name__, Study)


def study_of(results: Results) -> Study:
    """That by which the results say they were made; a plain one for arms of several studies, or of one that is gone."""
    return every_study().get(results.study, Study(results.study))


def save(results: Results, folder: Path) -> str:
    """Writes the report of the study to a folder, and returns the text that ends a run.

    **Raises:** `UserError` if it cannot be written.
    """
    return study_of(results).save(results, folder)
