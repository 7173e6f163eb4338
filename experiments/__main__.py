"""`python -m experiments`: the comparison; `sweep`, `range-test`, `report`, `evidence` and `bench` are its others."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, make_dataclass
from typing import Annotated, Any, Literal

try:
    import tyro

    from experiments.commands.answer import Bench, Evidence, bench, evidence
    from experiments.commands.answering import answered
    from experiments.commands.compare import Compare, compare
    from experiments.commands.range_test import Range, find_range
    from experiments.commands.report import Report, report
    from experiments.commands.sweep import Sweep, sweep
    from experiments.engine.devices import use_all_cores
    from experiments.errors import UsageError
    from schedules.terminal import exit_status
except ModuleNotFoundError as error:
    if error.name == "experiments":  # as for `python experiments`
        sys.exit("python -m experiments: run it so, in the folder of the repository")
    if (error.name or "").partition(".")[0] in ("", "experiments", "optim", "schedules", "theory"):
        raise
    told = f"{error.name} is needed and not installed: pip install 'pure-schedules[experiments]'"
    sys.exit(f"python -m experiments: {told}")
except ValueError as error:  # of a variable that a library reads when it is imported
    sys.exit(f"python -m experiments: an environment variable cannot be used ({str(error).partition('; ')[0]})")
except KeyboardInterrupt:
    sys.exit(130)


# By the first word of the command line; without one of these it is the comparison.
COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "sweep": (Sweep, sweep),
    "range-test": (Range, find_range),
    "report": (Report, report),
    "evidence": (Evidence, evidence),
    "bench": (Bench, bench),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words[:1] and words[0] in COMMANDS else ""
    options, command = COMMANDS.get(name, (Compare, compare))
    prog = f"python -m experiments {name}".strip()
    config = (tyro.conf.DisallowNone,)

    def run() -> int:
        _require_once(options, words)
        return command(tyro.cli(described(options), prog=prog, args=words, config=config))

    return answered("python -m experiments", run)


def _require_once(options: type, words: Sequence[str]) -> None:
    """**Raises:** `UsageError` for a list that is given twice, of which only the last would count."""
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    lists = [f"--{field.name.replace('_', '-')}" for field in fields(options) if isinstance(field.default, tuple)]
    if twice := [option for option in lists if given.count(option) > 1]:
        raise UsageError(f"{twice[0]} must be given once, with all its values, got it {given.count(twice[0])} times")


def described(options: type) -> type:
    """`options` with the help and the choices that are found out when they are asked for, and without calling None a
    default: what is done without an option is told in [brackets]."""
    changed = [each for each in fields(options) if each.metadata or each.default in (None, ())]
    return make_dataclass(
        options.__name__,
        [(each.name, _option(each), each) for each in changed],
        bases=(options,),
        namespace={"__doc__": options.__doc__},
        frozen=True,
    )


def _option(given: Field[Any]) -> Any:
    about, choices = given.metadata.get("about"), given.metadata.get("choices")
    told = tyro.conf.arg(
        help=about(given.name) if about else None,
        help_behavior_hint="" if given.default in (None, ()) else None,
    )
    return Annotated[Literal[*choices()] if choices else given.type, told]


if __name__ == "__main__":
    use_all_cores()
    sys.exit(exit_status(main))
