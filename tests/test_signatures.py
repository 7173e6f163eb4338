"""What people see of a name: in `help`, in Jupyter, and where an editor completes it."""

import inspect
import pydoc
import re
from pathlib import Path

import jedi
import pytest
from IPython.core.oinspect import Inspector

import optim
import schedules
import theory
from schedules import Formula, Positive, Schedule, cosine, linear, schedule

ROOT = Path(__file__).parent.parent
PUBLIC = {
    (module.__name__, name): value
    for module in (schedules, optim, theory)
    for name, value in vars(module).items()
    if not name.startswith("_") and not inspect.ismodule(value)
}
FORMULAS = {key: value for key, value in PUBLIC.items() if isinstance(value, Formula)}
FUNCTIONS = {key: value for key, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {key: value for key, value in PUBLIC.items() if inspect.isclass(value)}
CALLED = [pytest.param(*key, value, id=".".join(key)) for key, value in {**FORMULAS, **FUNCTIONS}.items()]
OWN = """
from schedules import Schedule, Steps, Value, linear, recipe, schedule

@schedule
def sawtooth(step, peak: Value, period: Steps):
    return peak * (1 - step % period / period)

@schedule(check=lambda **_: None)
def checked(step, peak: Value, *more: Schedule, period: Steps = 2):
    return peak * (1 - step % period / period)

@recipe
def tent(peak: Value, up: Steps = 5) -> Schedule:
    return linear(0.0, peak, up)

@recipe(check=lambda **_: None)
def checked_tent(peak: Value, up: Steps = 5) -> Schedule:
    return linear(0.0, peak, up)

"""


def assert_readable(text):
    assert not re.search(r"Annotated| object at 0x|P\.args", text), text


def test_there_is_something_to_see():
    assert len(FORMULAS) > 50
    assert {("optim", "adam"), ("optim", "reduce_on_plateau"), ("schedules", "describe")} <= FUNCTIONS.keys()
    assert {("schedules", "Schedule"), ("optim", "Plateau")} <= CLASSES.keys()


def test_a_signature_is_that_of_the_call_with_types_by_their_names():
    assert str(inspect.signature(cosine)) == "(start: Value, end: Value, steps: Steps) -> schedules.core.Schedule"
    shown = str(inspect.signature(schedules.warmup))
    assert shown.startswith("(schedule: ScheduleLike, steps: Steps, init: Value = 0.0, shape: Shape = linear) -> ")
    assert str(inspect.signature(schedules.add)).startswith("(*schedules: ScheduleLike) -> ")
    assert "staircase: bool = False" in str(inspect.signature(schedules.exponential_decay))


def test_kinds_of_a_users_own_leave_the_type_in_the_signature():
    from typing import Annotated

    from schedules.kinds import Number

    @schedule
    def halved(step, half: Annotated[float, Number(float, most=0.5)], rest: Positive):
        return half

    assert str(inspect.signature(halved)).startswith("(half: float, rest: Positive) -> ")
    with pytest.raises(ValueError, match="^halved: `half` must be a number, 0.5 or less, got 1$"):
        halved(1, 1)


@pytest.mark.parametrize(("module", "name", "value"), CALLED)
def test_help_shows_the_signature_and_then_the_documentation(module, name, value):
    _, _, signature, documentation, *_ = pydoc.plain(pydoc.render_doc(value)).splitlines()
    assert signature == f"{name}{inspect.signature(value)}"
    assert documentation.strip() == inspect.getdoc(value).splitlines()[0]
    assert_readable(signature)


@pytest.mark.parametrize(("module", "name", "value"), CALLED)
def test_jupyter_shows_one_signature(module, name, value):
    shown = Inspector(theme_name="nocolor").info(value, name)
    joined = re.sub(r"\(\s+", "(", re.sub(r",\s+\)", ")", shown["definition"]))
    assert re.sub(r"\s+", " ", joined) == f"{name}{inspect.signature(value)}"
    assert shown["call_def"] is None
    assert shown["docstring"] == inspect.getdoc(value)
    assert shown["file"].endswith(f"{value.__module__.replace('.', '/')}.py")


def seen(script, value):
    """The one signature that jedi finds at the end of a script, with the names of the arguments that `value` takes,
    and the kinds by which jedi completes those that may be given by name."""
    (signature,) = script.get_signatures()
    parameters = inspect.signature(value).parameters.values()
    assert [(p.name, p.kind) for p in signature.params] == [(p.name, p.kind) for p in parameters]
    assert_readable(signature.to_string())
    return signature


def script(text):
    return jedi.Script(text, project=jedi.Project(ROOT), environment=jedi.InterpreterEnvironment())


@pytest.mark.parametrize(("module", "name", "value"), CALLED)
def test_an_editor_shows_the_arguments(module, name, value):
    assert seen(script(f"from {module} import {name}\n{name}("), value).name == name
    assert seen(jedi.Interpreter(f"{name}(", [{name: value}]), value).name == name


def completed(script):
    return {each.name for each in script.complete() if each.name.endswith("=")}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (schedules.cosine, {"start=", "end=", "steps="}),
        (schedules.add, set()),
        (schedules.noam, {"width=", "warmup_steps="}),
        (optim.ema, {"decay="}),
        (schedules.tabulate, {"schedule=", "steps="}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_editor_completes_the_arguments(value, expected):
    name = value.__name__
    assert completed(script(f"from {value.__module__} import {name}\n{name}(")) == expected
    assert completed(jedi.Interpreter(f"{name}(", [{name: value}])) == expected


def test_an_editor_shows_what_is_written_in_the_source():
    read = lambda name: script(f"from schedules import {name}\n{name}(").get_signatures()[0].to_string()  # noqa: E731
    assert read("cosine") == "cosine(start: Value, end: Value, steps: Steps) -> Schedule"
    assert read("join") == "join(schedules: Schedules, boundaries: Boundaries) -> Schedule"
    assert read("add") == "add(*schedules: ScheduleLike) -> Schedule"


@pytest.mark.parametrize("name", ["sawtooth", "checked", "tent", "checked_tent"])
def test_an_editor_reads_a_users_own(name):
    own = {"__name__": "own"}
    exec(OWN, own)
    call = script(f"{OWN}{name}(")
    assert seen(call, own[name]).name == name
    assert completed(call) == {
        f"{p.name}=" for p in inspect.signature(own[name]).parameters.values() if p.kind != p.VAR_POSITIONAL
    }
    assert {"replace", "expand"} <= {each.name for each in script(f"{OWN}{name}(1.0).").complete()}


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_classes_are_readable(module, name):
    methods = inspect.getmembers(CLASSES[module, name], inspect.isfunction)
    for method in (CLASSES[module, name], *(m for n, m in methods if n == "__call__" or not n.startswith("_"))):
        if method is not Formula.__call__:
            assert_readable(str(inspect.signature(method)))


def test_a_schedule_is_shown_as_what_it_is_and_what_it_does():
    lr = cosine(0.1, 0.0, 9)
    shown = Inspector(theme_name="nocolor").info(lr, "lr")
    assert shown["string_form"] == "cosine(start=0.1, end=0.0, steps=9)"
    assert "step:" in shown["definition"]
    assert shown["docstring"] == inspect.getdoc(Schedule)
    assert not shown["init_docstring"]
    assert "uses `schedule(0)`" in pydoc.plain(pydoc.render_doc(lr))


def test_a_formula_that_is_an_attribute_of_a_class_stays_a_formula():
    class Settings:
        shape = linear

    assert Settings.shape is Settings().shape is linear
