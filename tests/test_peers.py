"""The schedules of other libraries, written as docs/coming-from.md says, give their numbers."""

import ast
import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import schedules
from schedules import Schedule

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "coming-from.md").read_text()
pytestmark = pytest.mark.usefixtures("quick_compilation")

# Arguments that the cases leave to the peers, which document these defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "CyclicLR": {"step_size_down": None, "mode": "triangular"},
    "OneCycleLR": {
        "total_steps": None,
        "pct_start": 0.3,
        "anneal_strategy": "cos",
        "three_phase": False,
        "div_factor": 25.0,
        "final_div_factor": 1e4,
    },
    "SWALR": {"before": None},
    "CosineLRScheduler": {"cycle_limit": 1, "cycle_mul": 1.0, "cycle_decay": 1.0, "k_decay": 1.0},
    "TanhLRScheduler": {"cycle_limit": 1, "cycle_mul": 1.0, "cycle_decay": 1.0, "lb": -7.0, "ub": 3.0},
    "PolyLRScheduler": {"cycle_limit": 1, "cycle_mul": 1.0, "cycle_decay": 1.0, "k_decay": 1.0},
    "WSDLRScheduler": {"stable_timescale": None, "stable_power": 0.5},
    "cosine": {"num_cycles": 0.5},
    "cosine_with_restarts": {"num_cycles": 1},
    "polynomial": {"lr_end": 1e-7, "power": 1.0},
    "inverse_sqrt": {"timescale": None},
    "cosine_with_min_lr": {"min_lr_rate": None},
    "cosine_warmup_with_min_lr": {"min_lr_rate": None, "warmup_lr_rate": None},
    "warmup_stable_decay": {
        "warmup_type": "linear",
        "decay_type": "linear",
        "num_cycles": 0.5,
        "num_training_steps": None,
    },
    "PolynomialDecay": {"cycle": False},
    "CosineDecay": {"warmup_target": None},
    "linear_schedule": {"transition_begin": 0},
    "polynomial_schedule": {"transition_begin": 0},
    "exponential_decay": {"transition_begin": 0, "staircase": False, "end_value": None},
    "warmup_exponential_decay_schedule": {"end_value": None},
    "cosine_decay_schedule": {"exponent": 1.0},
    "warmup_cosine_decay_schedule": {"exponent": 1.0},
    "linear_onecycle_schedule": {"pct_start": 0.3, "pct_final": 0.85, "div_factor": 25.0, "final_div_factor": 1e4},
    "cosine_onecycle_schedule": {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
    "MultiStepParamScheduler": {"num_updates": None, "milestones": None},
    "fit_one_cycle": {"div": 25.0, "div_final": 1e5, "pct_start": 0.25, "moms": (0.95, 0.85, 0.95)},
    "fit_flat_cos": {"div_final": 1e5, "pct_start": 0.75},
    "fit_sgdr": {"cycle_mult": 2},
}
TIMM = {"warmup_t": 0, "warmup_lr_init": 0.0, "warmup_prefix": False}
WRAPPED = ("CosineLRScheduler", "TanhLRScheduler", "PolyLRScheduler", "StepLRScheduler", "MultiStepLRScheduler")
IGNITE = {"cycle_mult": 1.0, "start_value_mult": 1.0, "end_value_mult": 1.0, "warmup_duration": 0, "monotonic": False}
DEFAULTS |= {name: DEFAULTS.get(name, {}) | TIMM for name in WRAPPED}
DEFAULTS |= dict.fromkeys(("LinearCyclicalScheduler", "CosineAnnealingScheduler"), IGNITE)


# The document ---------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of a table: the class it is for, the arguments and the condition it asks for, and our expression."""

    peer: str
    name: str
    keywords: tuple[tuple[str, Any], ...]
    condition: str
    here: str

    def fits(self, names: dict[str, Any]) -> bool:
        asked = all(names.get(name) == value for name, value in self.keywords)
        return asked and (not self.condition or bool(evaluate(self.condition, self.peer, names)))


def parsed(section: str) -> Iterator[Row]:
    peer = section.partition("\n")[0].lower()
    for line in re.findall(r"^\| `.*", section, re.MULTILINE):
        key, here, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
        called, condition = re.fullmatch(r"`(.+?)`(?: if `(.+?)`)?", key).groups()
        name, keywords = called_with(called)
        yield Row(peer, name, keywords, condition or "", re.fullmatch("`(.+)`", here)[1])


def called_with(key: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """The class and the arguments of `Class(argument=1)`, or of `Class(lambda t: formula)`."""
    tree = ast.parse(key, mode="eval").body
    if not isinstance(tree, ast.Call):
        return key, ()
    keywords = [(k.arg, ast.literal_eval(k.value)) for k in tree.keywords]
    formulas = [("formula", ast.unparse(argument.body)) for argument in tree.args]
    return ast.unparse(tree.func), (*keywords, *formulas)


def code_blocks() -> dict[str, Any]:
    """What the document's own definitions define."""
    namespace: dict[str, Any] = {"__name__": "coming_from"}
    for block in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(compile(block, "coming-from.md", "exec"), namespace)
    return namespace


SECTIONS = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]
ROWS = [row for section in SECTIONS for row in parsed(section)]
# Names that a section defines in its text, as `name = expression`.
TEXTS = {s.partition("\n")[0].lower(): dict(re.findall(r"`(\w+) = ([^`]+)`", s)) for s in SECTIONS}
VOCABULARY = {**vars(schedules), **code_blocks(), "np": np, "math": math}


def evaluate(expression: str, peer: str, names: dict[str, Any]) -> Any:
    """`expression` with `names`, to which those are added that the text defines and the expression needs."""
    for node in ast.walk(ast.parse(expression, mode="eval")):
        if isinstance(node, ast.Name) and node.id not in names and node.id in TEXTS[peer]:
            names[node.id] = evaluate(TEXTS[peer][node.id], peer, names)
    return eval(expression, names)


# The peers' schedules, written here -----------------------------------------------------------------------


EXERCISED: set[Row] = set()


def written_here(peer: str, case: dict[str, Any], **given: Any) -> Schedule:
    """The schedule that the most specific row for the case makes of its arguments, and of `given` ones."""
    name = case["class"]
    names = {**VOCABULARY, **given, **arguments(case)}
    names |= nested(peer, name, case["kwargs"], names)
    made = by_row(peer, name, names)
    if name in WRAPPED:
        made = by_row(peer, "Scheduler", names | {"schedule": made, "of": name})
    return made


def by_row(peer: str, name: str, names: dict[str, Any]) -> Any:
    fitting = [row for row in ROWS if (row.peer, row.name) == (peer, name) and row.fits(names)]
    specific = [len(row.keywords) + bool(row.condition) for row in fitting]
    best = max(specific, default=0)
    assert specific.count(best) == 1, f"one row should fit {name} best, not {specific.count(best)}"
    row = fitting[specific.index(best)]
    EXERCISED.add(row)
    return evaluate(row.here, peer, names)


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    """The arguments by the peer's names, its defaults included, and those of a function in it among them."""
    defaults = DEFAULTS.get(re.sub(r"\.mom\w+$", "", case["class"]), {})
    kwargs = defaults | case["kwargs"] | case["kwargs"].get("scheduler_specific_kwargs", {})
    if isinstance(kwargs.get("lr_lambda"), dict):
        kwargs |= kwargs["lr_lambda"]
        kwargs["formula"] = ast.unparse(ast.parse(kwargs["formula"], mode="eval").body)
    if "boundaries_and_scales" in kwargs:
        kwargs["boundaries_and_scales"] = {int(b): scale for b, scale in kwargs["boundaries_and_scales"].items()}
    return kwargs


def nested(peer: str, name: str, kwargs: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """The schedulers among the arguments, as schedules; those of fvcore's composition as functions of a length."""
    if name == "CompositeParamScheduler":
        parts = [functools.partial(part_of_length, peer, part) for part in kwargs["schedulers"]]
        return {"schedulers": parts}
    given = {"base_lr": 1.0 if name == "ChainedScheduler" else names.get("base_lr")}
    made: dict[str, Any] = {}
    for argument, value in kwargs.items():
        if is_scheduler(value):
            made[argument] = written_here(of_class(peer, value), value, **given)
        elif isinstance(value, list) and all(map(is_scheduler, value)):
            made[argument] = [written_here(of_class(peer, each), each, **given) for each in value]
    return made


def part_of_length(peer: str, part: dict[str, Any], total_steps: int) -> Schedule:
    return written_here(peer, part, total_steps=total_steps)


def is_scheduler(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"class", "kwargs"}


def of_class(peer: str, case: dict[str, Any]) -> str:
    """ignite wraps schedulers of PyTorch."""
    return next(p for p in (peer, "pytorch") if any((row.peer, row.name) == (p, case["class"]) for row in ROWS))


# Cases ----------------------------------------------------------------------------------------------------


LIBRARIES = ("torch", "timm", "transformers", "keras", "optax", "fvcore", "ignite")
STACKS = ("maxtext", "levanter", "axlearn", "big_vision", "easydel", "modded-nanogpt", "airbench")


def recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in (*LIBRARIES, *STACKS):
        peer = "pytorch" if file == "torch" else file
        for case in json.loads((ROOT / "tests" / "golden" / f"{file}.json").read_text())["cases"]:
            if case["kind"] == "schedule":
                yield peer, case
                if "momentum" in case:
                    yield peer, case | named(case, ".momentum", "class") | {"values": case["momentum"]}
                if case["class"] == "LambdaLR":  # also as the function that it is
                    yield peer, case | named(case, ".function") | {"kwargs": {"lr_lambda": function_of(case)}}


def named(case: dict[str, Any], ending: str, *others: str) -> dict[str, str]:
    return {key: case[key] + ending for key in ("name", *others)}


def function_of(case: dict[str, Any]) -> Callable[[Any], Any]:
    constants = case["kwargs"]["lr_lambda"]
    return eval(f"lambda t: {constants['formula']}", {"min": jnp.minimum, "max": jnp.maximum, **constants})


def cosine_between(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def two_cosines(share: float, first: float, middle: float, last: float, fraction: float) -> float:
    """fastai's `combined_cos`, the first cosine for `share` of the run."""
    if fraction < share:
        return cosine_between(first, middle, fraction / share)
    return cosine_between(middle, last, (fraction - share) / (1 - share))


def one_of(lengths: list[int], peak: float, step: int) -> float:
    """Half a cosine from `peak` to 0, one for each of `lengths`."""
    for length in lengths:
        if step < length:
            return cosine_between(peak, 0.0, step / length)
        step -= length
    raise AssertionError("the run is over")


def fastai(n_epoch: int, batches: int, peak: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Nothing is recorded of fastai: its schedules, with their defaults, from its formulas."""
    run, lengths = n_epoch * batches, [batches, 2 * batches, 4 * batches]
    length = {"n_epoch": n_epoch, "batches": batches}
    cycle = {"cycle_len": 1, "batches": batches}
    for name, kwargs, steps, value in (
        ("fit_one_cycle", {"lr_max": peak, **length}, run, lambda t: two_cosines(0.25, peak / 25, peak, peak / 1e5, t / run)),
        ("fit_one_cycle.moms", length, run, lambda t: two_cosines(0.25, 0.95, 0.85, 0.95, t / run)),
        ("fit_flat_cos", {"lr": peak, **length}, run, lambda t: two_cosines(0.75, peak, peak, peak / 1e5, t / run)),
        ("fit_sgdr", {"lr_max": peak, **cycle}, sum(lengths), lambda t: one_of(lengths, peak, t)),
    ):  # fmt: skip
        values = [value(t) for t in range(steps)]
        case = {"name": f"{name}-{run}", "class": name, "kwargs": kwargs, "steps": [*range(steps)], "values": values}
        yield "fastai", case


EVERY = (*recorded(), *fastai(3, 7, 0.02), *fastai(5, 13, 0.5))
CASES = {f"{peer}-{case['name']}": (peer, case) for peer, case in EVERY}
LONGEST = max(len(case["steps"]) for _, case in CASES.values())


@functools.cache
def ours(name: str) -> Schedule:
    peer, case = CASES[name]
    return written_here(peer, case, base_lr=case.get("base_lr"), total_steps=case.get("total_steps"))


# Where a peer is wrong, what is right: by a formula of its own for every case that says where.
RIGHT = {
    "pytorch-ConstantLR-06-zero": lambda k, base, t: base,
    "pytorch-LinearLR-07-zero": lambda k, base, t: base * k["end_factor"],
    # Step 121 = 1 + 3 + 9 + 27 + 81 begins the cycle after five.
    "timm-CosineLRScheduler-15-cycle_mul3-restart": lambda k, base, t: base * k["cycle_decay"] ** 5,
    "keras-CosineDecayRestarts-11-restart-index": lambda k, base, t: base * (0.05 + 0.95 * k["m_mul"] ** 5),
    "optax-warmup_constant_schedule-03-zero": lambda k, base, t: k["peak_value"],
    "optax-cosine_onecycle_schedule-05-tiny": lambda k, base, t: k["peak_value"] / 25,
    "maxtext-wsd-10-linear-one-step": lambda k, base, t: k["learning_rate"] * k["learning_rate_final_fraction"],
    "ignite-LRScheduler-03-ExponentialLR": lambda k, base, t: base * 0.81**t,
}


def expected(name: str) -> np.ndarray:
    """The peer's values, where they are right; at the end of a cosine that would rise again, our end value."""
    peer, case = CASES[name]
    values = np.array(case["values"])
    for i, step in enumerate(case["steps"]):
        if step in case.get("defect_steps", ()):
            values[i] = RIGHT[name](case["kwargs"], case.get("base_lr"), step)
            assert abs(values[i] - case["values"][i]) > 1e-3 * values.max()
    if (peer, case["class"]) == ("transformers", "cosine"):
        values[np.array(case["steps"]) > case["kwargs"]["num_training_steps"]] = 0.0
    return values


values_at = jax.jit(Schedule.__call__)


def compare(name: str, tolerance: float) -> None:
    steps, values = CASES[name][1]["steps"], expected(name)
    # As many steps for every case: schedules that differ in their numbers only are compiled once.
    padded = np.pad(steps, (0, LONGEST - len(steps)), mode="edge")
    found = np.asarray(values_at(ours(name), padded), float)[: len(steps)]
    np.testing.assert_allclose(found, values, rtol=0, atol=tolerance * np.abs(values).max())


@pytest.mark.parametrize("name", CASES)
def test_a_peers_schedule_written_here_is_its_own_number_for_number(name, x64):
    compare(name, 1e-9)


def form(peer: str, case: dict[str, Any]) -> tuple[str, ...]:
    """The case's class and what its rows ask for by name."""
    asked = {name for row in ROWS if (row.peer, row.name) == (peer, case["class"]) for name, _ in row.keywords}
    return peer, case["class"], *(str(case["kwargs"].get(name)) for name in sorted(asked))


# In float64 the formulas are seen to be the same. How float32 rounds them is tested with each law of `test_laws.py`.
@pytest.mark.parametrize("name", {form(peer, case): name for name, (peer, case) in CASES.items()}.values())
def test_a_peers_schedule_written_here_is_its_own_in_float32(name):
    compare(name, 1e-6)


def test_every_class_has_a_row_and_every_row_a_case():
    for name in CASES:
        ours(name)
    assert set(ROWS) == EXERCISED
    assert {(peer, case["class"]) for peer, case in CASES.values()} <= {(row.peer, row.name) for row in ROWS}
    assert {peer for peer, _ in CASES.values()} == set(TEXTS)
    assert len(ROWS) == len({row[:4] for row in ROWS})


def test_every_name_defined_in_the_text_is_used():
    for peer, texts in TEXTS.items():
        expressions = [*texts.values(), *(e for row in ROWS if row.peer == peer for e in (row.here, row.condition))]
        assert texts.keys() <= set(re.findall(r"\w+", " ".join(expressions)))


def test_the_defects_recorded_are_the_ones_corrected():
    assert {name for name, (_, case) in CASES.items() if "defect" in case} == RIGHT.keys()
