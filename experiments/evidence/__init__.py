"""How well theory predicts runs. A file here declares a question, and how its answer is measured."""

from experiments.declared import declared
from experiments.evidence.evidence import Evidence


def every_evidence() -> dict[str, Evidence]:
    """All of it by name."""
    return declared(__name__, Evidence)
