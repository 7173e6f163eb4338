"""What is trained. Each file here declares tasks: data, a model and suitable settings, or a problem whose losses are
computed exactly, without training."""

from experiments.declared import declared
from experiments.tasks.task import Sampled, Task


def every_task() -> dict[str, Task]:
    """All tasks by name, from the shortest run to the longest."""
    found = declared(__name__, Task)
    return {name: found[name] for name in sorted(found, key=lambda name: found[name].steps)}


def sampled_tasks() -> dict[str, Sampled]:
    """The tasks that are trained on data, by name."""
    return {name: task for name, task in every_task().items() if isinstance(task, Sampled)}
