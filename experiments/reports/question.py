"""A question that the project answers with a measurement: its report, numbers and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Answer:
    """The answer to a question: `text` in Markdown, `numbers` as JSON, and figures by the names of their files."""

    text: str
    numbers: Mapping[str, Any]
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """`asks`: the question in words, which is the heading of the report; `measure`: finds the answer; `needs`: a
    package to install for it, by its name on PyPI, if the project does not depend on it."""

    name: str
    asks: str
    measure: Callable[[], Answer]
    needs: str = ""
