"""Whatever walks a schedule takes work in proportion to its size, however deep it is nested or wide it is joined."""

import sys

import jax
import numpy as np
import pytest
from jax.extend.core import Jaxpr, subjaxprs

from schedules import (
    add,
    boundaries,
    check,
    clip,
    constant,
    cooldown,
    cosine,
    delay,
    describe,
    join,
    linear,
    maximum,
    minimum,
    multiply,
    parse,
    per_epoch,
    power_cooldown,
    restarts,
    stretch,
    tabulate,
    warmup,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
NESTED = {
    "add": lambda lr: add(lr, 1.0),
    "multiply": lambda lr: multiply(lr, 0.5),
    "minimum": lambda lr: minimum(lr, 0.5),
    "maximum": lambda lr: maximum(0.1, lr),
    "operators": lambda lr: 0.5 * (1.0 - lr),
    "power": lambda lr: lr**1.5,
    "clip": lambda lr: clip(lr, 0.1, 0.5),
    "join": lambda lr: join([0.5, lr], [3]),
    "warmup": lambda lr: warmup(lr, 3),
    "cooldown": lambda lr: cooldown(lr, 20, 5),
    "power_cooldown": lambda lr: power_cooldown(lr, 20, 5),
    "delay": lambda lr: delay(lr, 3),
    "per_epoch": lambda lr: per_epoch(lr, 2),
}
WIDE = {
    "sum": lambda n: sum((cosine(1.0, 0.0, 9 + i) for i in range(n)), start=constant(0.0)),
    "add": lambda n: add(*(cosine(1.0, 0.0, 9 + i) for i in range(n))),
    "join": lambda n: join([cosine(1.0, 0.0, 3 + i % 2) for i in range(n)], list(range(1, n))),
}
WALKS = {
    "repr": repr,
    "hash": hash,
    "equality": lambda lr: lr == lr.replace(),
    "parse": lambda lr: parse(repr(lr)),
    "flatten": jax.tree.flatten,
    "trace": lambda lr: jax.make_jaxpr(lr)(3),
    "boundaries": lambda lr: boundaries(lr, 100),
}


def nested(wrap, depth: int):
    lr = linear(1.0, 0.0, 9)
    for _ in range(depth):
        lr = wrap(lr)
    return lr


def calls(walk, lr) -> int:
    """How many functions are called, which is as good as a time and the same every time."""
    walk(lr)  # what is compiled once is not counted
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        walk(lr)
    finally:
        sys.setprofile(None)
    return count


def equations(jaxpr: Jaxpr) -> int:
    """How many operations are compiled, those of jitted functions within included."""
    return len(jaxpr.eqns) + sum(equations(inner) for inner in subjaxprs(jaxpr))


@pytest.mark.parametrize("name", NESTED)
def test_the_work_grows_with_the_depth(name):
    small, large = nested(NESTED[name], 5), nested(NESTED[name], 15)
    for walk in WALKS.values():
        assert calls(walk, large) < 3.5 * calls(walk, small) + 500


@pytest.mark.parametrize(
    "wrap", [lambda lr: restarts(lr, 30, 2.0, 0.9), lambda lr: stretch(lr, 1.5)], ids=["restarts", "stretch"]
)
def test_clocks_within_clocks_are_traced_in_proportion_to_their_depth(wrap):
    """Durations are stretched again at every level: all of a level together."""
    small, large = (equations(jax.make_jaxpr(nested(wrap, depth))(3).jaxpr) for depth in (3, 12))
    assert large < 4.5 * small


@pytest.mark.parametrize("name", WIDE)
def test_the_work_grows_with_the_width(name):
    for walk in WALKS.values():
        assert calls(walk, WIDE[name](90)) < 3.5 * calls(walk, WIDE[name](30)) + 500


@pytest.mark.parametrize("name", NESTED)
def test_fifty_deep_everything_works(name):
    lr = nested(NESTED[name], 16 if name == "operators" else 50)  # of operators, a level is three schedules deep
    for walk in WALKS.values():
        walk(lr)
    assert parse(repr(lr)) == lr


@pytest.mark.parametrize("name", ["join", "warmup", "delay"])
def test_fifty_deep_it_is_described_checked_and_evaluated(name):
    lr = nested(NESTED[name], 50)
    assert describe(lr, 100).phases[-1].stop == 100
    assert isinstance(check(lr, 100), list)
    assert np.isfinite(tabulate(lr, 100)).all()


def test_a_thousand_wide_everything_works():
    for lr in (WIDE["sum"](1000), WIDE["join"](1000)):
        for walk in WALKS.values():
            walk(lr)
        assert parse(repr(lr)) == lr
        assert describe(lr, 1100).phases[-1].stop == 1100
        assert isinstance(check(lr, 1100), list)


def test_sums_and_products_are_flat():
    a, b, c = (cosine(1.0, 0.0, n) for n in (3, 5, 7))
    assert a + b + c == add(a, b, c)
    assert 2.0 * a * b == multiply(2.0, a, b)
    assert parse(f"{a!r} + {b!r} + {c!r}") == add(a, b, c)
    assert parse("1 + 2 + cosine(1, 0, 3) + 4") == 3 + a + 4
    # Of floats, a + (b + c) is another sum than (a + b) + c.
    assert a + (b + c) == add(a, add(b, c))
