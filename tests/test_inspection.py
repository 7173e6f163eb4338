"""Describing and checking schedules, from Python and from the command line."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import TABLE

from optim import ema, ema_warmed
from schedules import (
    Period,
    ScheduleLike,
    Steps,
    Value,
    advance,
    as_schedule,
    boundaries,
    check,
    clip,
    constant,
    cooldown,
    cosine,
    delay,
    describe,
    exponential_decay,
    extend,
    join,
    linear,
    multistep,
    noam,
    parse,
    per_epoch,
    per_update,
    restarts,
    schedule,
    sgdr,
    stack,
    step_decay,
    stretch,
    table,
    triangular,
    warmup,
    wsd,
)
from schedules.__main__ import main, vocabulary
from schedules.formula import FORMULAS

LR = warmup(cosine(3e-4, 0.0, 9000), 1000)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_boundaries_are_those_of_the_structure():
    for lr, expected in [
        (LR, [1000]),
        (wsd(1.0, 10, 70, 20), [10, 80, 100]),
        (multistep(1.0, [30, 60]) * warmup(1.0, 5), [5, 30, 60]),
        (delay(LR, 50), [50, 1050]),
        (extend(wsd(1.0, 10, 70, 20), 40, 1000), [10, 40, 1040, 1080, 1100]),
        (stretch(LR, 1.5), [1500]),
        (per_epoch(linear(1.0, 0.0, 9), 10), [90]),
        (per_update(linear(1.0, 0.0, 10_500), 1000), [11]),
        (sgdr(1.0, 100, 2.0), [100, 300, 700, 1500, 3100, 6300]),
        (restarts(warmup(1.0, 3), 2500, 2.0), [3, 2500, 2506, 7500, 7512]),
        (triangular(0.0, 1.0, 1500, 2500), [1500, 4000, 5500, 8000, 9500]),
        (step_decay(1.0, 4000), [4000, 8000]),
        (table([1.0, 2.0, 3.0], every=10), [20]),
        (join([constant(1.0), join([2.0, 3.0], [5])], [10]), [10, 15]),
        (join([linear(0.0, 1.0, 50), 1.0], [10]), [10]),  # a piece's own end after its turn does not count
        (noam(512, 4000), [3999]),
        (constant(1.0), []),
    ]:
        assert boundaries(lr, 10_000) == expected, lr


def test_a_users_own_combinators_are_seen_as_ours_are():
    @schedule
    def late(step, schedule: ScheduleLike, steps: Steps):
        return as_schedule(schedule)(jnp.maximum(step - steps, 0))

    @schedule
    def slow(step, schedule: ScheduleLike, times: Period):
        return as_schedule(schedule)(step // times)

    @schedule
    def halves(step, one: ScheduleLike, other: ScheduleLike):
        return 0.5 * as_schedule(one)(step) + 0.5 * as_schedule(other)(step + 3)

    @schedule(changes=lambda period: itertools.count(period, period))
    def sawtooth(step, period: Period):
        return 1 - step % period / period

    for schedules in [
        (late(LR, 50), delay(LR, 50)),
        (slow(LR, 3), per_epoch(LR, 3)),
        (halves(LR, linear(1.0, 0.0, 40)), 0.5 * LR + 0.5 * advance(linear(1.0, 0.0, 40), 3)),
        (late(slow(late(LR, 50), 3), 7), delay(per_epoch(delay(LR, 50), 3), 7)),
        (sawtooth(1000), step_decay(1.0, 1000)),
    ]:
        own, ours = (boundaries(each, 4000) for each in schedules)
        assert own == ours != []


def test_a_users_own_pieces_and_endings_are_seen_as_ours_are():
    @schedule(pieces=lambda first, then, start: [(0, first), (start, then)])
    def switch(step, first: ScheduleLike, then: ScheduleLike, start: Steps):
        return jnp.where(step < start, as_schedule(first)(step), as_schedule(then)(step - start))

    @schedule(ends=False)
    def ever_slower(step, value: Value):
        return value / (step + 1)

    for first, then in [(linear(1.0, 0.5, 30), multistep(0.25, [10, 20])), (LR, 1.0), (0.1, ever_slower(0.2))]:
        own, ours = switch(first, then, 40), join([first, then], [40])
        assert boundaries(own, 100) == boundaries(ours, 100)
        assert check(own, 100) == check(ours, 100)
        assert describe(own, 100).phases == describe(ours, 100).phases
    assert check(ever_slower(1.0), 9) == ["It has no end: at twice the length of the run it falls to 0.0526316."]


def test_schedules_are_seen_in_formulas_that_read_them_at_many_steps_or_backwards():
    lr = join([1.0, 2.0], [20])

    @schedule
    def smoothed(step, schedule: ScheduleLike):
        return jnp.mean(schedule(jnp.maximum(step - jnp.arange(5), 0)))

    @schedule
    def again(step, schedule: ScheduleLike):
        return schedule(step % 30)

    @schedule
    def reversed_(step, schedule: ScheduleLike):
        return schedule(60 - step)

    @schedule
    def unseen(step, schedule: ScheduleLike):
        return jax.lax.fori_loop(0, 3, lambda i, total: total + schedule(step + i), 0.0)

    @schedule
    def either(step, one: ScheduleLike, other: ScheduleLike):
        return jax.lax.cond(step < 9, one, other, step)

    assert boundaries(smoothed(lr), 60) == [20, 21, 22, 23, 24]
    assert boundaries(again(lr), 60) == [20, 30, 50]
    assert [remark.split(",")[0] for remark in check(again(lr), 60)] == [
        "It jumps from 1 to 2 at step 20",
        "It jumps from 2 to 1 at step 30",
        "It jumps from 1 to 2 at step 50",
    ]
    assert boundaries(reversed_(lr), 60) == [41]
    assert boundaries(unseen(lr), 60) == []
    assert float(either(lr, linear(0.0, 1.0, 10))(10)) == 1.0
    assert check(either(lr, linear(0.5, 1.0, 10)), 60) == []


def test_numbers_may_be_arrays():
    def arrays(schedule):
        return jax.tree.map(jnp.asarray, schedule)

    for lr in (LR, sgdr(1.0, 100, 2.0), stretch(LR, 1.5), restarts(multistep(1.0, [5, 9]), 30)):
        for same in (arrays(lr), jax.device_get(arrays(lr)), jax.tree.map(lambda leaves: leaves[1], stack([lr, lr]))):
            assert boundaries(same, 500) == boundaries(lr, 500)
            assert describe(same, 500).phases == describe(lr, 500).phases
            assert check(same, 500) == check(lr, 500)
    assert boundaries(stretch(join([1.0, 2.0], jnp.array([10])), 2.0), 100) == [20]
    with pytest.raises(ValueError, match="call stacked schedules under jax.vmap"):
        boundaries(stack([LR, LR]), 500)
    with pytest.raises(ValueError, match="^boundaries: `steps` must be a whole number from 1 to 2147483647, got -1$"):
        boundaries(LR, -1)


def test_a_description_says_what_a_run_will_see():
    found = describe(LR, 10_000)
    assert [(p.start, p.stop) for p in found.phases] == [(0, 1000), (1000, 10_000)]
    assert (found.first, found.peak_step) == (0.0, 1000)
    np.testing.assert_allclose([found.peak, found.last], [3e-4, 9.138522593601259e-12], rtol=1e-5)
    np.testing.assert_allclose(found.area, 3e-4 * (499.5 + 4500.5), rtol=1e-5)
    text = str(found)
    assert text.startswith(repr(LR))
    for part in ("0 to 999         0 -> 0.0002997", "peak 0.0003 at step 1,000", "area under the curve 1.5", "█"):
        assert part in text


def test_long_runs_are_described_from_samples_and_all_boundaries():
    found = describe(stretch(LR, 10_000), 100_000_000)
    assert [p.start for p in found.phases] == [0, 10_000_000]
    np.testing.assert_allclose(found.area, 1.5e4, rtol=1e-4)
    assert found.peak_step == 10_000_000


def test_many_phases_are_counted_and_not_all_printed():
    assert "and 979 more phases" in str(describe(sgdr(1.0, 10), 9990))
    assert "and at least 9,981 more phases" in str(describe(step_decay(1.0, 1), 2**31 - 1))
    assert len(boundaries(restarts(restarts(linear(1.0, 0.0, 2), 4), 40), 20_000)) == 9_999


def test_what_is_not_a_number_is_sketched_as_nothing():
    assert "|" in str(describe(lambda t: 0.0 / t, 10))


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_every_schedule_can_be_described(row):
    found = describe(row.schedule, 50)
    assert np.isclose(found.area, sum(row.oracle(t) for t in range(50)), rtol=1e-5)
    assert found.phases[0].start == 0
    assert found.phases[-1].stop == 50
    assert isinstance(check(row.schedule, 50), list)


REMARKS = [
    (warmup(cosine(0.1, 0.0, 90), 10, init=0.01), 100, []),
    (constant(0.1), 100, []),
    (multistep(0.1, [50, 75]), 100, []),
    (LR, 10_000, ["The first update has the value 0 and would not move the weights: start above 0, or use `advance(..., 1)`."]),
    (delay(linear(0.0, 1.0, 10), 5) + 0.0, 15, ["The first 6 updates have the value 0 and would not move the weights: start above 0, or use `advance(..., 1)`."]),
    (constant(-1.0), 10, ["It is negative, first at step 0."]),
    (join([join([1.0, 2.0], [50]), 1.0], [10]), 100, []),  # the second joint is never reached
    (constant(0.0), 9, ["It is 0 at every step: the run would learn nothing."]),
    (table([0.1, -0.1, 0.1]), 3, ["It is negative, first at step 1."]),
    (warmup(1.0, 1000, init=0.1), 500, ["It still rises when the run ends: its warm-up lasts until step 1,000."]),
    (cosine(0.1, 0.01, 1000), 500, ["The run ends at step 500, before the end of the schedule at step 1,000."]),
    (exponential_decay(1.0, 0.5, 1000), 1000, ["It has no end: at twice the length of the run it falls to 0.25."]),
    (cosine(0.1, 0.0, 500), 1000, ["It stays below 1 % of its peak from step 469 on, for the last 53.1% of the run."]),
    (join([constant(1.0), linear(0.9, 0.5, 50)], [50]), 100, ["It jumps from 1 to 0.9 at step 50, where one schedule is joined to the next."]),
    (wsd(0.1, 10, 80, 10, end=0.01) * 1.0, 100, ["The first update has the value 0 and would not move the weights: start above 0, or use `advance(..., 1)`."]),
    (cooldown(exponential_decay(1.0, 0.5, 100), 50, 50, end=0.1), 100, []),
]  # fmt: skip


REMARKS += [
    (
        late(join([constant(1.0), 0.5], [20]), 30),
        100,
        ["It jumps from 1 to 0.5 at step 50, where one schedule is joined to the next."],
    )
    for late in (
        delay,
        lambda lr, n: warmup(lr, n, init=1.0),
        lambda lr, n: cooldown(delay(lr, n), 60, 30, 0.1),
        lambda lr, n: 1.0 * delay(lr, n),
    )
]
REMARKS += [
    (0.5 * join([constant(1.0), 0.5], [20]) + 0.25, 100, ["It jumps from 0.75 to 0.5 at step 20, where one schedule is joined to the next."]),
    (clip(join([constant(1.0), 0.5], [20]), 0.1, 0.4), 100, []),
    (join([linear(1.0, 0.0, 95), 1e-12], [95]), 100, []),  # of next to nothing
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "steps", "remarks"), REMARKS, ids=range(len(REMARKS)))
def test_a_careful_colleague_remarks(schedule, steps, remarks):
    assert check(schedule, steps) == remarks


@pytest.mark.parametrize("at", [500, 1000, 1500])
def test_a_run_that_is_continued_under_another_schedule_is_checked_from_there_on(at):
    before = warmup(cosine(0.1, 0.01, 900), 100)
    longer = before.replace(schedule=cosine(0.1, 0.01, 1900))
    left, right = float(before(at)), float(longer(at))
    assert check(longer, 2000, after=before, at=at) == [
        f"It jumps from {left:.6g} to {right:.6g} at step {at:,}, where it replaces the schedule before it: "
        f"`cooldown(before, {at}, ...)` would continue from the old value."
    ]
    assert check(cooldown(before, at, 2000 - at, 0.01), 2000, after=before, at=at) == []
    assert check(0.1, 2000, after=linear(1.0, 0.0, at), at=at) == [
        f"It jumps from 0 to 0.1 at step {at:,}, where it replaces the schedule before it: warm up again."
    ]
    # What the new schedule does before it takes over is the old one's affair.
    assert len(check(longer, 2000)) == 1
    assert check(join([linear(-1.0, 0.2, 10), 0.01], [10]), 2000, after=0.01, at=at) == []


def test_check_wants_to_know_from_where_on():
    for arguments in [{"after": LR}, {"at": 10}, {"after": LR, "at": 100}, {"after": LR, "at": -1}, {"at": True}]:
        with pytest.raises(ValueError, match="^check: `at` must be "):
            check(LR, 100, **arguments)


def test_what_is_not_finite_is_remarked_first():
    assert check(lambda t: 1 / t, 10) == ["It is not finite at step 0."]


# The command line ---------------------------------------------------------------------------------------


def test_the_command_describes_checks_and_plots(tmp_path):
    picture = tmp_path / "lr.png"
    command = [sys.executable, "-m", "schedules", "warmup(cosine(3e-4, 0, 9000), 1000)", "--steps", "10000"]
    done = subprocess.run([*command, "--plot", str(picture)], capture_output=True, text=True, check=True)
    assert str(describe(LR, 10_000)) in done.stdout
    assert "! The first update has the value 0" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("lr", "steps", "from_", "last"),
    [
        (cosine(0.1, 0.01, 90), 9_000, 90, 99),
        (linear(0.1, 0.01, 90), 39_000, 90, 99.8),
        (advance(warmup(cosine(3e-4, 3e-5, 85), 5), 1), 9_000, 89, 99),
    ],
)
def test_epochs_among_updates_are_remarked_on(lr, steps, from_, last):
    (remark,) = check(lr, steps)
    assert remark.endswith(
        f" from step {from_} on, for the last {last}% of the run: are its lengths epochs instead of updates?"
    )
    assert check(advance(warmup(1e-3, 5), 1), steps) == []


def test_the_command_lists_the_vocabulary(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert printed == vocabulary() + "\n"
    for formula in FORMULAS.values():
        if formula.__module__.startswith("schedules."):
            assert f"  {formula}(" in printed
    assert "cosine(start, end, steps)\n      Half a cosine from `start` to `end`" in printed


def test_the_command_compares_several_in_one_table_and_one_sketch(capsys, tmp_path):
    texts = ["wsd(0.1, 10, 70, 20)", "-0.5*cosine(0.1, 0, 100)", "0.05", "ema(0.9)", "0.05 + 0"]
    assert main([*texts, "--steps", "100", "--plot", str(tmp_path / "all")]) == 0
    head, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert head.split() == ["schedule", "first", "peak", "at", "step", "last", "area"]
    for row, text, letter in zip(rows, texts, "abcde", strict=True):
        found = describe(parse(text), 100)
        mark, rest = row.split(text, 1)
        numbers = [found.first, found.peak, found.peak_step, found.last, found.area]
        np.testing.assert_allclose([float(number) for number in rest.split()], numbers, rtol=1e-3, atol=1e-9)
        assert mark.split() == [letter, *["!"] * bool(check(parse(text), 100))]
    assert (tmp_path / "all.png").exists()

    assert main([*texts[:2], "0.02", "--steps", "100"]) == 0
    _, sketch, remarks, *_ = capsys.readouterr().out.split("\n\n")
    assert remarks.splitlines() == [
        f"! {letter}: {remark}" for letter, text in zip("ab", texts, strict=False) for remark in check(parse(text), 100)
    ]
    rows = [row.partition("|")[2] for row in sketch.splitlines()]
    assert {*"".join(rows)} == {*"abc+ "}
    assert rows[0].strip() == "a" * rows[0].count("a")  # the highest
    assert rows[-1][0] == "b"  # the lowest


def test_the_command_knows_averages_and_lists_them(capsys):
    assert main(["ema(0.99)", "--steps", "100"]) == 0
    assert capsys.readouterr().out.startswith(str(describe(ema(0.99), 100)))
    assert parse("0.5 * ema_warmed(0.9)") == 0.5 * ema_warmed(0.9)
    rooms = dict(room.split("\n", 1) for room in vocabulary().split("\n\n"))
    for usage in ("polyak()", "ema(decay)", "ema_half_life(updates)"):
        assert f"  {usage}\n" in rooms["optim.coefficients"]
    assert "  average_like(" in rooms["optim.duality"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cosine(1, 0, 9)"], "--steps must be the number of updates of the run, got none"),
        (["cosine(1, 0, 9)", "--steps", "0"], "describe: `steps` must be a whole number from 1 to 2147483647, got 0"),
        (["ema", "--steps", "9"], "parse: ema must be called with its arguments, ema(decay), at character 1"),
        (["ema(2)", "--steps", "9"], "parse: ema: `decay` must be a number from 0 to below 1, got 2, at character 1"),
        (["-cosin(1, 0, 9)", "--steps", "9"], "parse: unknown name 'cosin' (did you mean 'cosine'?), at character 2"),
        ([*map(str, range(99)), "--steps", "9"], "at most 52 schedules can be compared, got 99"),
        (["cosin(1, 0, 9)", "--steps", "9"], "parse: unknown name 'cosin' (did you mean 'cosine'?), at character 1"),
        (
            ["0.1", "--steps", "9", "--plot", "/nowhere/lr.png"],
            "/nowhere/lr.png cannot be written (No such file or directory)",
        ),
    ],
)
def test_the_command_says_in_a_sentence_what_is_wrong(arguments, message, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"python -m schedules: {message}"
