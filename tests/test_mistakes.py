"""Mistakes: each is one clear sentence, when the schedule is built."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from schedules import (
    Steps,
    Value,
    Values,
    advance,
    as_schedule,
    check,
    clip,
    constant,
    cooldown,
    cosine,
    delay,
    describe,
    exponential,
    exponential_decay,
    extend,
    function,
    infinite,
    interpolate,
    inverse_sqrt,
    inverse_time,
    join,
    linear,
    multiply,
    multistep,
    noam,
    noise,
    one_cycle,
    one_cycle_three_phase,
    parse,
    per_epoch,
    per_update,
    piecewise_constant,
    plot,
    polynomial,
    power,
    power_law,
    recipe,
    restarts,
    rex,
    schedule,
    sgdr,
    stack,
    step_decay,
    stretch,
    table,
    tabulate,
    tanh,
    triangular,
    warmup,
    wsd,
)

# Mistakes ---------------------------------------------------------------------------------------------


@schedule
def settings(step, kind: Literal["up", "down"], staircase: bool, peak: Value = 1.0, values: Values = ()):
    """A user's schedule with every other kind of argument."""
    t = jnp.floor(step) if staircase else step
    return (peak if kind == "up" else -peak) * (t + len(values))


@recipe
def _not_a_schedule(peak: Value):
    return peak


def _without_step():
    @schedule
    def triangle_wave(peak: Value, period: Steps):
        return peak * period


def _step_elsewhere():
    @schedule
    def triangle_wave(peak: Value, step):
        return peak * step


def _any_step():
    schedule(lambda *step: step)


def _no_argument():
    schedule(lambda: 1.0)


def _taken():
    def cosine(step, peak: Value):
        return peak

    schedule(cosine)


STEPS = "a whole number of steps from 0 to 2147483647"
BOUNDARIES = "a list of whole numbers of steps from 0 to 2147483647 that never decreases"
SCHEDULE = "a schedule, a number or a function of the step"
POSITIVE = "a positive number"
PERIOD = "a whole number of steps from 1 to 2147483647"
SHAPE = "a ramp such as linear or cosine, not called"

MISTAKES = [
    (lambda: constant("fast"), "constant: `value` must be a finite number, got 'fast'"),
    (lambda: constant(True), "constant: `value` must be a finite number, got True"),
    (lambda: constant(1j), "constant: `value` must be a finite number, got 1j"),
    (lambda: constant(10**400), f"constant: `value` must be a finite number, got 1{'0' * 196}..."),
    (lambda: constant(1e39), "constant: `value` must be a finite number, got 1e+39"),  # infinite in float32
    (lambda: linear(float("nan"), 0.0, 9), "linear: `start` must be a finite number, got nan"),
    (lambda: linear(0.0, float("inf"), 9), "linear: `end` must be a finite number, got inf"),
    (lambda: linear(None, 0.0, 9), "linear: `start` must be a finite number, got None"),
    (lambda: linear(np.ones(2), 0.0, 9), "linear: `start` must be a finite number, got array([1., 1.])"),
    (lambda: cosine(1.0, 0.0, -1), f"cosine: `steps` must be {STEPS}, got -1"),
    (lambda: cosine(1.0, 0.0, 2**31), f"cosine: `steps` must be {STEPS}, got 2147483648"),
    (lambda: cosine(1.0, 0.0, 1.5), f"cosine: `steps` must be {STEPS}, got 1.5"),
    (lambda: cosine(1.0, 0.0, False), f"cosine: `steps` must be {STEPS}, got False"),
    (lambda: cosine(1.0, 0.0, steps=jnp.float32(3)), f"cosine: `steps` must be {STEPS}, got Array(3., dtype=float32)"),
    (lambda: cosine(1.0, 0.0, "9"), f"cosine: `steps` must be {STEPS}, got '9'"),
    (lambda: piecewise_constant([1.0], [5]), "piecewise_constant: `boundaries` must have one entry less than `values`, got 1 and 1"),
    (lambda: piecewise_constant([1.0, 2.0, 3.0], [5, 4]), f"piecewise_constant: `boundaries` must be {BOUNDARIES}, got [5, 4]"),
    (lambda: piecewise_constant(1.0, []), "piecewise_constant: `values` must be a list of finite numbers, got 1.0"),
    (lambda: piecewise_constant("ab", [1]), "piecewise_constant: `values` must be a list of finite numbers, got 'ab'"),
    (lambda: multistep(1.0, [-1]), f"multistep: `milestones` must be {BOUNDARIES}, got [-1]"),
    (lambda: multistep(1.0, 30), f"multistep: `milestones` must be {BOUNDARIES}, got 30"),
    (lambda: table(jnp.ones((2, 2))), "table: `values` must be a list of finite numbers, got Array([[1., 1.],\n       [1., 1.]], dtype=float32)"),
    (lambda: table([]), "table: `values` must hold at least one number, got none"),
    (lambda: join([1.0, 2.0, 3.0], [9]), "join: `boundaries` must have one entry less than `schedules`, got 1 and 3"),
    (lambda: join([], []), "join: `schedules` must be one or more schedules or numbers, got []"),
    (lambda: join(constant(1.0), [9]), "join: `schedules` must be one or more schedules or numbers, got constant(value=1.0)"),
    (lambda: join([1.0, 2.0, 3.0], [9, 8]), f"join: `boundaries` must be {BOUNDARIES}, got [9, 8]"),
    (lambda: multiply(), "multiply: `schedules` must be one or more schedules or numbers, got ()"),
    (lambda: multiply(cosine, 2.0), "multiply: `schedules` must be one or more schedules or numbers, got (cosine, 2.0)"),
    (lambda: warmup("cosine", 9), f"warmup: `schedule` must be {SCHEDULE}, got 'cosine'"),
    (lambda: warmup(cosine, 9), f"warmup: `schedule` must be {SCHEDULE}, got cosine, which was not called"),
    (lambda: warmup(1.0, 9, shape=linear(0.0, 1.0, 9)), f"warmup: `shape` must be {SHAPE}, got linear(start=0.0, end=1.0, steps=9)"),
    (lambda: warmup(1.0, 9, shape=constant), f"warmup: `shape` must be {SHAPE}, got constant"),
    (lambda: warmup(1.0, 9, shape="cosine"), f"warmup: `shape` must be {SHAPE}, got 'cosine'"),
    (lambda: exponential(0.0, 1.0, 9), f"exponential: `start` must be {POSITIVE}, got 0.0"),
    (lambda: exponential(1.0, -1e-3, 9), f"exponential: `end` must be {POSITIVE}, got -0.001"),
    (lambda: polynomial(1.0, 0.0, 9, 0), f"polynomial: `exponent` must be {POSITIVE}, got 0"),
    (lambda: polynomial(1.0, 0.0, 9, 1e39), f"polynomial: `exponent` must be {POSITIVE}, got 1e+39"),
    (lambda: rex(1.0, 0.0, 9, bend=-0.5), f"rex: `bend` must be {POSITIVE}, got -0.5"),
    (lambda: tanh(1.0, 0.0, 9, low=3.0, high=-7.0), "tanh: `low` must be below `high`, got 3.0 and -7.0"),
    (lambda: tanh(1.0, 0.0, 9, low=float("-inf")), "tanh: `low` must be a number from -20 to 20, got -inf"),
    (lambda: tanh(1.0, 0.0, 9, high=50), "tanh: `high` must be a number from -20 to 20, got 50"),
    (lambda: piecewise_constant([1.0, 2.0], jnp.array([1.7])), f"piecewise_constant: `boundaries` must be {BOUNDARIES}, got Array([1.7], dtype=float32)"),
    (lambda: piecewise_constant([1.0, 2.0, 3.0], jnp.array([9, 4])), f"piecewise_constant: `boundaries` must be {BOUNDARIES}, got Array([9, 4], dtype=int32)"),
    (lambda: linear(1.0, 0.0, jnp.int32(-5)), f"linear: `steps` must be {STEPS}, got Array(-5, dtype=int32)"),
    (lambda: linear(jnp.float32(jnp.nan), 0.0, 9), "linear: `start` must be a finite number, got Array(nan, dtype=float32)"),
    (lambda: constant(10**5000), "constant: `value` must be a finite number, got an integer of thousands of digits"),
    (lambda: multistep(1.0, [9], factor=0.0), f"multistep: `factor` must be {POSITIVE}, got 0.0"),
    (lambda: exponential_decay(1.0, -0.5, 9), f"exponential_decay: `factor` must be {POSITIVE}, got -0.5"),
    (lambda: exponential_decay(1.0, 0.5, 0), f"exponential_decay: `steps` must be {PERIOD}, got 0"),
    (lambda: exponential_decay(1.0, 0.5, 9, staircase=1), "exponential_decay: `staircase` must be one of False, True, got 1"),
    (lambda: step_decay(1.0, 0.5), f"step_decay: `steps` must be {PERIOD}, got 0.5"),
    (lambda: inverse_time(1.0, 0.0), f"inverse_time: `rate` must be {POSITIVE}, got 0.0"),
    (lambda: power_law(1.0, -0.5), f"power_law: `exponent` must be {POSITIVE}, got -0.5"),
    (lambda: inverse_sqrt(1.0, 0), f"inverse_sqrt: `timescale` must be {PERIOD}, got 0"),
    (lambda: inverse_sqrt(1.0, 10, shift=-1), f"inverse_sqrt: `shift` must be {STEPS}, got -1"),
    (lambda: table([1.0], every=0), f"table: `every` must be {PERIOD}, got 0"),
    (lambda: interpolate([1.0, 2.0], [0]), "interpolate: `values` and `boundaries` must have the same length, 1 or more, got 2 and 1"),
    (lambda: interpolate([], []), "interpolate: `values` and `boundaries` must have the same length, 1 or more, got 0 and 0"),
    (lambda: interpolate([1.0, 2.0], [9, 0]), f"interpolate: `boundaries` must be {BOUNDARIES}, got [9, 0]"),
    (lambda: noise(1.0, seed=-1), "noise: `seed` must be a whole number from 0 to 2147483647, got -1"),
    (lambda: noise(1.0, seed=0.5), "noise: `seed` must be a whole number from 0 to 2147483647, got 0.5"),
    (lambda: restarts(1.0, 0), f"restarts: `period` must be {PERIOD}, got 0"),
    (lambda: restarts(1.0, 9, growth=0.5), "restarts: `growth` must be 1, or a number that is 1.1 or more, got 0.5"),
    (lambda: restarts(1.0, 9, growth=1.05), "restarts: `growth` must be 1, or a number that is 1.1 or more, got 1.05"),
    (lambda: restarts(1.0, 9, decay=0.0), f"restarts: `decay` must be {POSITIVE}, got 0.0"),
    (lambda: sgdr(1.0, 9, 0.9), "sgdr: `growth` must be 1, or a number that is 1.1 or more, got 0.9"),
    (lambda: triangular(0.0, 1.0, 0, 0), f"triangular: restarts: `period` must be {PERIOD}, got 0"),
    (lambda: clip(1.0, 2.0, 1.0), "clip: `low` must be below `high`, got 2.0 and 1.0"),
    (lambda: power(1.0, -1.0), f"power: `exponent` must be {POSITIVE}, got -1.0"),
    (lambda: delay(1.0, -1), f"delay: `steps` must be {STEPS}, got -1"),
    (lambda: advance(1.0, -1), f"advance: `steps` must be {STEPS}, got -1"),
    (lambda: extend(1.0, 3, -1), f"extend: `steps` must be {STEPS}, got -1"),
    (lambda: stretch(1.0, 0), f"stretch: `factor` must be {POSITIVE}, got 0"),
    (lambda: per_epoch(1.0, 0), f"per_epoch: `steps_per_epoch` must be {PERIOD}, got 0"),
    (lambda: per_update(1.0, 1.5), "per_update: `units` must be a whole number from 1 to 2147483647, got 1.5"),
    (lambda: cooldown(1.0, -1, 9), f"cooldown: `start` must be {STEPS}, got -1"),
    (lambda: cooldown(1.0, 9, 9, shape=exponential), f"cooldown: exponential: `end` must be {POSITIVE}, got 0.0"),
    (lambda: warmup(1.0, 9, shape=exponential), f"warmup: exponential: `start` must be {POSITIVE}, got 0.0"),
    (lambda: wsd(1.0, 1, 2, 3, shape=exponential), f"wsd: cooldown: exponential: `end` must be {POSITIVE}, got 0.0"),
    (lambda: one_cycle(1.0, 3, 7, div=0), f"one_cycle: `div` must be {POSITIVE}, got 0"),
    (lambda: one_cycle_three_phase(1.0, 2**31 - 1, 7, 0), f"one_cycle_three_phase: join: `boundaries` must be {BOUNDARIES}, got [2147483647, 2147483654]"),
    (lambda: noam(0, 4000), f"noam: `width` must be {POSITIVE}, got 0"),
    (lambda: infinite(1.0, 0.1, 0.0, 1, 2, 3, 4), f"infinite: `end` must be {POSITIVE}, got 0.0"),
    (lambda: constant([0.5] * 100), f"constant: `value` must be a finite number, got [{'0.5, ' * 39}0..."),
    (lambda: _taken(), "cosine: the name is already taken by schedules.ramps, choose another"),
    (lambda: function(cosine), "function: `of` must be a function of the step, got cosine"),
    (lambda: settings("sideways", True), "settings: `kind` must be one of 'up', 'down', got 'sideways'"),
    (lambda: settings("up", 1), "settings: `staircase` must be one of False, True, got 1"),
    (lambda: cosine(1.0, 0.0, 9).replace(steps=-9), f"cosine: `steps` must be {STEPS}, got -9"),
    (lambda: as_schedule(cosine), "cosine is a formula, not a schedule: call it with its arguments, cosine(...)"),
    (lambda: as_schedule("0.1"), "constant: `value` must be a finite number, got '0.1'"),
    (lambda: 2.0 * constant(1.0) + "x", "add: `schedules` must be one or more schedules or numbers, got (multiply(constant(value=2.0), constant(value=1.0)), 'x')"),
    (lambda: tabulate(constant(1.0), -1), "tabulate: `steps` must be a whole number from 0 to 2147483647, got -1"),
    (lambda: tabulate(constant(1.0), 2.5), "tabulate: `steps` must be a whole number from 0 to 2147483647, got 2.5"),
    (lambda: describe(constant(1.0), 0), "describe: `steps` must be a whole number from 1 to 2147483647, got 0"),
    (lambda: check(constant(1.0), True), "check: `steps` must be a whole number from 1 to 2147483647, got True"),
    (lambda: plot(constant(1.0), "9"), "plot: `steps` must be a whole number from 1 to 2147483647, got '9'"),
    (lambda: stack([constant(1.0), cosine(1.0, 0.0, 9)]), "stack: `schedules` must be one or more schedules that differ only in their numbers, got [constant(value=1.0), cosine(start=1.0, end=0.0, steps=9)]; use `tabulate` for schedules of different shapes"),
    (lambda: interpolate([0.0, 1.0], [0, 10], exponential), "interpolate: `values` must be values that `shape` can start and end at (exponential: `start` must be a positive number, got 0.0)"),
    (lambda: plot("linear(1, 0, 9)", 9), f"plot: `schedules` must be {SCHEDULE}, got 'linear(1, 0, 9)'"),
    (lambda: stack([]), "stack: `schedules` must be one or more schedules or numbers, got []"),
    (lambda: stack(None), "stack: `schedules` must be one or more schedules or numbers, got None"),
    (lambda: stack([cosine(1.0, 0.0, 9)] * 2)(3), "cosine: `start` must have 0 axes, got shape (2,): call stacked schedules under jax.vmap"),
    (lambda: stack([table([1.0, 2.0])] * 2)(3), "table: `values` must have 0 axes, got shape (2,): call stacked schedules under jax.vmap"),
    (lambda: jax.tree.map(lambda v: jnp.stack([v, v]), table(jnp.ones(3)))(0), "table: `values` must have 1 axis, got shape (2, 3): call stacked schedules under jax.vmap"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_bad_argument_is_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        mistake()
    assert str(caught.value) == message


def test_other_mistakes_are_clear_too():
    lr = cosine(1.0, 0.0, 9)
    for mistake, error, message in [
        (lambda: cosine(1.0, 0.0), TypeError, "cosine(start, end, steps): missing a required argument: 'steps'"),
        (lambda: cosine(1.0, 0.0, 9, peak=1), TypeError, "cosine: has no argument `peak`, only `start`, `end`, `steps`"),
        (lambda: cosine(1.0, 0.0, step=9), TypeError, "cosine: has no argument `step`, only `start`, `end`, `steps`"),
        (lambda: cosine(1.0, 0.0, 9, 9), TypeError, "cosine(start, end, steps): too many positional arguments"),
        (lambda: lr / lr, TypeError, f"a schedule can only be divided by a number, got {lr}"),
        (lambda: lr.replace(peak=1.0, length=2), TypeError, "cosine: has no argument `length`, `peak`, only `start`, `end`, `steps`"),
        (lambda: lr(True), TypeError, "cosine: `step` must be integers or floats, got bool"),
        (lambda: lr(1j), TypeError, "cosine: `step` must be integers or floats, got complex64"),
        (lambda: lr(np.array([0, 2**31])), OverflowError, "cosine: `step` must be at most 2147483647, got 2147483648"),
        (lambda: lr(2**31), OverflowError, "cosine: `step` must be at most 2147483647, got 2147483648"),
        (lambda: lr([2**31]), OverflowError, "cosine: `step` must be at most 2147483647 in size, got [2147483648]"),
        *((lambda step=step: lr(step), TypeError, f"cosine: `step` must be integers or floats, got {step!r}") for step in ("a", None, {}, np.array([None]), np.array(["a"]), lr)),
        *((lambda step=step: lr(step), ValueError, "cosine: `step` must be finite, got nan") for step in (float("nan"), np.float32("nan"), np.array([1.0, np.nan]))),
        (lambda: lr(float("inf")), ValueError, "cosine: `step` must be finite, got inf"),
        (_without_step, TypeError, "triangle_wave: the first argument of a formula must be `step`, got `peak`"),
        (_step_elsewhere, TypeError, "triangle_wave: the first argument of a formula must be `step`, got `peak`"),
        (_any_step, TypeError, "<lambda>: the first argument of a formula must be `step`, got `*step`"),
        (_no_argument, TypeError, "<lambda>: the first argument of a formula must be `step`, got none"),
        (lambda: _not_a_schedule(1.0), TypeError, "_not_a_schedule: a recipe must return a schedule, got 1.0"),
        (lambda: setattr(lr, "steps", 3), AttributeError, "a schedule is a value and cannot be changed: use .replace(steps=...)"),
        (lambda: delattr(lr, "steps"), AttributeError, "a schedule is a value and cannot be changed: 'steps' cannot be deleted"),
    ]:  # fmt: skip
        with pytest.raises(error) as caught:
            mistake()
        assert message in (None, str(caught.value))
    with pytest.raises(TypeError, match="does not support item assignment"):
        lr.arguments["steps"] = 3


def positional_only(step, peak: Value, /): ...
def many_values(step, *values: Value): ...
def many_lists(step, *lists: Values): ...
def any_keyword(step, **values: Value): ...
def keyword_step(*, step, peak: Value): ...
def nothing(step, peak: Literal[None]): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (positional_only, "positional_only: `peak` must not be positional-only, since it is printed with its name"),
        (many_values, "many_values: `*values: Value` must be one argument or a list: only schedules may be * arguments"),
        (many_lists, "many_lists: `*lists: Values` must be one argument or a list: only schedules may be * arguments"),
        (any_keyword, "any_keyword: `**values: Value` must be one argument or a list: only schedules may be * arguments"),
        (keyword_step, "keyword_step: the first argument of a formula must be `step`, got `*, step`"),
        (nothing, "nothing: `peak` must be annotated with its kind, such as Value or Steps, got typing.Literal[None]"),
        (lambda step: 1.0, "<lambda>: a formula must have a name, since it is printed and parsed with it: use `def`"),
        (cosine, "schedule: `function` must be a function with a name, got cosine"),
        (3, "schedule: `function` must be a function with a name, got 3"),
    ],
)  # fmt: skip
def test_a_declaration_that_cannot_work_is_refused(function, message):
    with pytest.raises(TypeError) as caught:
        schedule(function)
    assert str(caught.value) == message


@pytest.mark.parametrize("found", [None, "fast", 1j, constant(1.0)])
def test_a_formula_must_return_a_number(found):
    @schedule
    def odd(step):
        return found

    with pytest.raises(ValueError, match="^odd: the formula must return one number for one step, got "):
        odd()(0)


@pytest.mark.parametrize(
    "body",
    [
        lambda peak, steps: cosine(peak, 0.0, int(0.9 * steps)),
        lambda peak, steps: cosine(peak, 0.0, steps) if peak > 0.5 else constant(peak),
        lambda peak, steps: constant(np.sqrt(peak)),
        lambda peak, steps: join([peak] * steps, list(range(1, steps))),
    ],
)
def test_a_recipe_that_needs_its_numbers_is_refused_where_it_is_built(body):
    @recipe
    def needs(peak: Value, steps: Steps):
        return body(peak, steps)

    with pytest.raises(TypeError, match="^needs: a recipe must not need Python numbers, .* use jnp.where"):
        needs(1.0, 10)


def test_a_recipe_may_compute_with_its_numbers():
    @recipe
    def computes(peak: Value, steps: Steps):
        return cosine(jnp.where(peak > 0.5, 0.5, peak), 0.0, 9 * steps // 10)

    assert float(computes(1.0, 10)(0)) == 0.5
    assert float(computes(1.0, 10)(9)) == 0.0


def test_a_recipe_that_calls_itself_is_refused():
    @recipe
    def endless(peak: Value):
        return endless(peak)

    with pytest.raises(RecursionError, match=r"^endless: the recipe is nested too deeply: does it call itself\?$"):
        endless(1.0)


# Text -------------------------------------------------------------------------------------------------

ONLY = "only names of schedules, numbers, lists, keywords, + and * are allowed"
OPERANDS = "only schedules and numbers can be added, multiplied or negated"
END = "the text ends before the schedule is complete"
DEEP = "nested more than 51 levels deep"

# The text, what is wrong with it, and the character it is wrong at.
TEXTS = [
    ("cosin(1, 0, 9)", "unknown name 'cosin' (did you mean 'cosine'?)", 1),
    ("  0.5 * \n cosin(1, 0, 9)", "unknown name 'cosin' (did you mean 'cosine'?)", 11),
    ("warmup(cosine(1, 0, -9), 5)", f"cosine: `steps` must be {STEPS}, got -9", 8),
    ("warmup(\n  cosine(1, 0, 9),\n  stepz=3)", "warmup: has no argument `stepz`, only `schedule`, `steps`, `init`, `shape`", 1),
    ("warmup(\n  cosine(1, 0, 9),\n  steps=é)", "unknown name 'é'", 36),
    ("cosine(1,\x0c 0,\x85 \u2028é)", "unknown name 'é'", 17),
    ("cosine(1, 0)", "cosine(start, end, steps): missing a required argument: 'steps'", 1),
    ("cosine(1, 0, 9, 9)", "cosine(start, end, steps): too many positional arguments", 1),
    ("constant(1) + ", END, 15),
    ("", END, 1),
    (" # a comment", END, 13),
    ("join([1, 2], [3]", END, 17),
    ("cosine(1, 0, 9)'", f"unexpected \"'\": {ONLY}", 16),
    ("1 if 2 else 3", f"unexpected 'if': {ONLY}", 3),
    ("1if 1 else 2", f"unexpected 'if': {ONLY}", 2),
    ("lambda x: x", "unknown name 'lambda'", 1),
    ("__import__('os').system('true')", "unknown name '__import__'", 1),
    ("constant(1).formula", f"unexpected '.': {ONLY}", 12),
    ("constant(1)(0)", f"unexpected '(': {ONLY}", 12),
    ("join([[1], 2], [3])", f"unexpected '[': {ONLY}", 6),
    ("cosine(*[1, 0, 9])", f"unexpected '*': {ONLY}", 8),
    ("cosine(**table)", f"unexpected '*': {ONLY}", 8),
    ("10 ** 10 ** 10", f"unexpected '*': {ONLY}", 5),
    ("2 - 1", f"unexpected '-': {ONLY}", 3),
    ("constant(value==1)", f"unexpected '=': {ONLY}", 16),
    ("[value=1]", f"unexpected 'value': {ONLY}", 2),
    ("cosine(1, 0 9)", f"unexpected '9': {ONLY}", 13),
    ("cosine(1, end=0, 9)", "an argument without a name comes after one with a name", 18),
    ("f'{1}'", "unknown name 'f'", 1),
    ("'a' * 1000000000", OPERANDS, 1),
    ("2 * [1]", OPERANDS, 5),
    ("-cosine", OPERANDS, 2),
    ("nan", "unknown name 'nan'", 1),
    ("1e400", "constant: `value` must be a finite number, got inf", 1),
    ("1__0", "invalid literal for int() with base 10: '1__0'", 1),
    ("9" + "*9" * 400, "int too large to convert to float", 1),
    ("cosine", "cosine is a formula, not a schedule: call it with its arguments, cosine(...)", 1),
    ("True", "constant: `value` must be a finite number, got True", 1),
    ("linear(1, 0, '9')", f"linear: `steps` must be {STEPS}, got '9'", 1),
    ("cosine(1, 0, steps=9, steps=8)", "the argument 'steps' is given twice", 23),
    ("function(of=cosine)", "function: `of` must be a function of the step, got cosine", 1),
    ("\ud800", f"unexpected '\\ud800': {ONLY}", 1),
    ("constant('\ud800')", "not a string: \"'\\ud800'\"", 10),
    ("constant('\\d')", "not a string: \"'\\\\d'\"", 10),
    ("constant(\0)", f"unexpected '\\x00': {ONLY}", 10),
    ("a" * 10_000, f"unknown name '{'a' * 47}...'", 1),
    ("-" * 100_000 + "1", DEEP, 52),
    ("(" * 100_000, DEEP, 52),
    ("warmup(" * 10_000, DEEP, 51 * 7 + 1),
    ("[" * 10_000, f"unexpected '[': {ONLY}", 1),
    *((f"constant({name}=1)", f"constant: has no argument `{name}`, only `value`", 1) for name in ("self", "node", "make", "formula", "args")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "place"), TEXTS, ids=range(len(TEXTS)))
def test_parse_says_what_is_wrong_and_where(text, what, place):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared below
        parse(text)
    sentence, excerpt, mark = str(caught.value).split("\n")
    assert sentence == f"parse: {what}, at character {place}"
    shown = text[place - 1 : place]
    assert excerpt[mark.index("^") :][:1].strip() == (shown.strip() if shown.isprintable() else "")
    assert len(str(caught.value)) < 700


def test_parse_takes_texts_and_numbers_of_reasonable_size():
    for text, message in [
        (" " * 2_000_000, "parse: `text` must have at most 1000000 characters, got 2000000"),
        (True, "parse: `text` must be a string or a number, got True"),
        (None, "parse: `text` must be a string or a number, got None"),
        (b"0.1", "parse: `text` must be a string or a number, got b'0.1'"),
        (float("nan"), "parse: constant: `value` must be a finite number, got nan"),
    ]:
        with pytest.raises(ValueError) as caught:  # noqa: PT011, compared below
            parse(text)
        assert str(caught.value) == message
    for number in (0.001, 1, np.float32(0.5), np.int64(3)):
        assert parse(number) == constant(number)


def test_there_are_enough_mistakes_to_go_by():
    assert len(MISTAKES) + len(TEXTS) >= 60


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        (lambda: linear(0, 1, 9).at(1.5), TypeError, "linear.at: `step` must be a whole number, got 1.5"),
        (lambda: linear(0, 1, 9).at("3"), TypeError, "linear.at: `step` must be a whole number, got '3'"),
        (lambda: linear(0, 1, 9).at(2**31), OverflowError, "linear: `step` must be at most 2147483647, got 2147483648"),
        (
            lambda: stack([linear(0, 1, 9), linear(0, 2, 9)]).at(3),
            ValueError,
            "linear: `start` must have 0 axes, got shape (2,): call stacked schedules under jax.vmap",
        ),
        (
            lambda: jax.jit(linear(0, 1, 9).at)(3),
            TypeError,
            "linear.at: `step` must be a whole number, got ",
        ),
        (
            lambda: jax.jit(lambda lr: lr.at(3))(linear(0, 1, 9)),
            TypeError,
            "linear.at: the schedule must not be traced: in jitted code, call the schedule itself",
        ),
    ],
)
def test_a_value_on_the_host_is_asked_for_with_a_number(asked, kind, message):
    with pytest.raises(kind) as caught:
        asked()
    assert str(caught.value).startswith(message)


def test_what_a_schedule_is_divided_by_is_a_number():
    for other, got in [(constant(2.0), r"constant\(value=2.0\)"), ("2", "'2'"), (None, "None")]:
        with pytest.raises(TypeError, match=f"^a schedule can only be divided by a number, got {got}$"):
            constant(1.0) / other
    for zero in (0, 0.0, np.float32(0.0)):
        with pytest.raises(ZeroDivisionError, match="^constant: a schedule cannot be divided by 0$"):
            constant(1.0) / zero
    assert (constant(1.0) / jnp.float32(4.0))(0) == 0.25


@schedule
def iffy(step, peak: Value, steps: Steps):
    return peak if step < steps else 0.0


@pytest.mark.parametrize(
    "lr",
    [
        as_schedule(lambda t: 0.1 if t < 10 else 0.01),
        as_schedule(lambda t: 0.5 * (1 + math.cos(math.pi * t / 9))),
        as_schedule(lambda t: np.interp(t, [0, 10], [0, 1])),
        as_schedule(lambda t: [1.0, 2.0][t]),
        iffy(1.0, 9),
    ],
    ids=range(5),
)
def test_a_formula_that_needs_its_step_as_pythons_is_one_sentence(lr):
    for read in (lr, warmup(lr, 3), lambda t: check(lr, 100), lambda t: tabulate(lr, 9)):
        with pytest.raises(TypeError, match="^(iffy|function): a formula must not need Python numbers, .* jnp.where"):
            read(3)


def test_what_a_check_returns_is_words_or_none():
    @schedule(check=lambda peak: peak > 0)
    def inverted(step, peak: Value):
        return peak

    for value, got in [(1.0, "True"), (-1.0, "False")]:
        with pytest.raises(TypeError, match=f"^inverted: `check` must return a string .* or None, got {got}$"):
            inverted(value)


def test_annotations_that_cannot_be_read_are_named():
    with pytest.raises(
        TypeError, match="^unread: an annotation cannot be read .name 'Nowhere' is not defined.: import"
    ):

        @schedule
        def unread(step, peak: "Nowhere"):  # noqa: F821
            return peak
