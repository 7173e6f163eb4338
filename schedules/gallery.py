"""The examples of all schedules, read from their docstrings: an expression, and how many steps to plot it over."""

import inspect
import re
from collections.abc import Mapping
from types import ModuleType

EXAMPLE = re.compile(r"^Example: `(.+)` over (\d+) steps\.$", re.MULTILINE)


def examples(module: ModuleType) -> Mapping[str, tuple[str, int]]:
    """The examples of the public names of a module that have one: an expression, and a number of steps.

    `parse` reads the expressions of `schedules`, except that of `function`, which holds a plain callable.
    """
    documented = {name: inspect.getdoc(getattr(module, name)) or "" for name in vars(module) if name[0] != "_"}
    found = {name: EXAMPLE.search(text) for name, text in documented.items()}
    return {name: (match[1], int(match[2])) for name, match in found.items() if match}
