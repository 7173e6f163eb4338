"""What is trained. A file here declares tasks: their data, their model and the settings that suit them,
or a problem on which nothing need be trained."""

from experiments.declared import declared
from experiments.tasks.task import Sampled, Task


def every_task() -> dict[str, Task]:
    """All tasks by name, from the shortest run to the longest."""
    found = declared(__name__, Task)
    return {name: found[name] for name in sorted(found, key=lambda name: found[name].steps)}


def sampled_tasks() -> dict[str, Sampled]:
    """Those that are trained on data."""
    return {name: task for name, task in every_task().items() if isinstance(task, Sampled)}
