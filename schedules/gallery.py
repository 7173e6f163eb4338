"""One picture's worth of every schedule: the example in its documentation, and the run to see it over."""

import inspect
import re
from collections.abc import Mapping
from types import ModuleType

EXAMPLE = re.compile(r"^Example: `(.+)` over (\d+) steps\.$", re.MULTILINE)


def examples(module: ModuleType) -> Mapping[str, tuple[str, int]]:
    """What is public in a module and has an example, by name: an expression, and a number of steps.

    `parse` reads the expressions of `schedules`, but for that of `function`, which holds a plain callable.
    """
    documented = {name: inspect.getdoc(getattr(module, name)) or "" for name in vars(module) if name[0] != "_"}
    found = {name: EXAMPLE.search(text) for name, text in documented.items()}
    return {name: (match[1], int(match[2])) for name, match in found.items() if match}
