"""Declares what evidence is: a question, and a function that measures the answer."""

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
class Evidence:
    """`question`: the heading of the report; `measure`: computes the answer from data in this repository."""

    name: str
    question: str
    measure: Callable[[], Answer]
