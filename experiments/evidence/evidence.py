"""What evidence is: a question, and a function that measures its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Answer:
    """What was found: `text` in Markdown, `numbers` as JSON, and figures by the names of their files."""

    text: str
    numbers: Mapping[str, Any]
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """`question`: the heading of the report; `measure`: its answer, from data that come with the repository."""

    name: str
    question: str
    measure: Callable[[], Answer]
