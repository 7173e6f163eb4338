"""Text to schedules and back, and whatever else people and machines may write."""

import os
import string
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table import TABLE, cosine_at, linear_at

import optim
from schedules import (
    Schedule,
    Steps,
    Value,
    add,
    advance,
    clip,
    constant,
    cooldown,
    cosine,
    delay,
    extend,
    interpolate,
    join,
    linear,
    maximum,
    minimum,
    multiply,
    multistep,
    parse,
    per_epoch,
    per_update,
    restarts,
    schedule,
    table,
    warmup,
)
from schedules.formula import FORMULAS


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_parse_is_the_inverse_of_repr(row):
    again = parse(repr(row.schedule))
    assert again == row.schedule
    assert repr(again) == repr(row.schedule)


def test_what_a_person_types():
    lr = warmup(cosine(3e-4, 0.0, 9000), 1000)
    for text, expected in [
        ("0.5 * warmup(cosine(3e-4, 0, 9000), 1000)", 0.5 * lr),
        ("  warmup(\n    cosine(start=3e-4, end=0, steps=9_000),\n    1000,  # a comment\n  )", lr),
        ("warmup(cosine(2 * 1.5e-4, 0, 9 * 1000), 900 + 100)", lr),
        ("warmup(1e-3, 100, shape=cosine)", warmup(1e-3, 100, shape=cosine)),
        ("0.1", constant(0.1)),
        ("-0.1", constant(-0.1)),
        ("-cosine(1, 0, 9)", -cosine(1.0, 0.0, 9)),
        ("1 + 2 * cosine(1, 0, 9)", 1 + 2 * cosine(1.0, 0.0, 9)),
        ("multistep(0.1, (30, 60))", multistep(0.1, [30, 60])),
        ("(0.1)", constant(0.1)),
        ("polyak()", optim.polyak()),
    ]:
        assert parse(text) == expected, text


def test_a_users_schedule_registers_itself_and_may_be_defined_again():
    @schedule
    def my_decay(step, peak: Value, steps: Steps):
        return peak / (1 + step / steps)

    assert parse("2 * my_decay(1.0, 10)") == 2 * my_decay(1.0, 10)

    @schedule
    def my_decay(step, peak: Value):
        return peak / (1 + step)

    assert parse("my_decay(1.0)")(1) == 0.5


def test_names_are_pythons():
    """Those with marks of their script, and in the form in which Python holds them."""

    @schedule
    def हिंदी(step, पीक: Value, ﬁnal: Value = 0.0):
        return पीक * step + ﬁnal

    lr = हिंदी(2.0, 1.0)
    assert repr(lr) == "हिंदी(पीक=2.0, final=1.0)"
    for text in (repr(lr), "हिंदी(2, 1)", "हिंदी(पीक # a comment = not this\n=2, ﬁnal=1)"):
        assert parse(text) == lr
    with pytest.raises(ValueError, match="the argument 'final' is given twice, at character 22"):
        parse("हिंदी(पीक=2, ﬁnal=1, final=2)")


def test_arrays_come_back_as_lists_of_the_same_numbers():
    lr = table(jnp.array([0.1, 0.2]))
    np.testing.assert_array_equal(parse(repr(lr))(jnp.arange(3)), lr(jnp.arange(3)))


def test_what_can_be_parsed_can_be_evaluated():
    assert parse("delay(" * 45 + "linear(1, 0, 9)" + ", 1)" * 45)(49) == pytest.approx(5 / 9)
    parse("warmup(" * 45 + "1" + ", 1)" * 45)  # soon, though its value at 0 is that of 45 others


def test_a_join_of_a_thousand_comes_back():
    joined = lambda n: join([linear(i, i + 1, 10) for i in range(n)], list(range(10, 10 * n, 10)))  # noqa: E731
    assert parse(repr(joined(1000))) == joined(1000)
    again = parse(repr(joined(100)))  # to compile one of a thousand takes seconds
    np.testing.assert_allclose(again(np.array([0, 5, 10, 505, 994, 2000])), [0, 0.5, 1, 50.5, 99.4, 100], rtol=1e-6)


# Anything at all: a schedule or a ValueError, and soon ------------------------------------------------

# How many times as many texts and compositions as usual: THOROUGH=350 tries 105,000 texts.
THOROUGH = int(os.environ.get("THOROUGH", "1"))


WORDS = [*FORMULAS, "(", ")", "[", "]", ",", "=", "+", "*", "-", "**", ".", ":", "1", "0.1", "9", "steps=", "'a'", " "]
WORDS += ["\u2028", "\x0c", "\ud800", "é", "#", "\n", "\\", "self=", "1e", "_", "True", "'", '"']
characters = st.characters(codec=None, categories=None)  # surrogates as well


@settings(max_examples=300 * THOROUGH, deadline=2000, derandomize=True)
@given(
    st.one_of(
        st.text(characters, max_size=60),
        st.text(string.printable, max_size=60),
        st.lists(st.sampled_from(WORDS), max_size=30).map("".join),
        st.sampled_from([repr(row.schedule) for row in TABLE]).flatmap(lambda text: st.builds(_spoilt, st.just(text), st.integers(0, len(text) - 1), st.sampled_from(WORDS))),
    )
)  # fmt: skip
def test_any_text_is_a_schedule_or_a_short_value_error_with_a_mark(text):
    try:
        found: object = parse(text)
    except ValueError as error:
        found = str(error)
    if isinstance(found, str):
        sentence, excerpt, mark = found.split("\n")
        place = int(sentence.rpartition("at character ")[2])
        assert sentence.startswith("parse: ")
        assert len(found) < 700
        assert place <= len(text) + 1
        shown = text[place - 1 : place]
        assert excerpt[mark.index("^") :][:1].strip() == (shown.strip() if shown.isprintable() else "")
    else:
        assert parse(repr(found)) == found


def _spoilt(text: str, place: int, word: str) -> str:
    return text[:place] + word + text[place + 1 :]


# Random compositions against their float64 definitions -------------------------------------------------


class Pair(NamedTuple):
    schedule: Schedule
    at: Callable[[int], float]


values = st.floats(0.01, 10.0).map(lambda v: float(np.float32(v)))
lengths = st.integers(1, 60)


def _joined(first: Pair, second: Pair, boundary: int) -> Pair:
    at = lambda t: first.at(t) if t < boundary else second.at(t - boundary)  # noqa: E731
    return Pair(join([first.schedule, second.schedule], [boundary]), at)


def _warmed(pair: Pair, steps: int, init: float) -> Pair:
    at = lambda t: linear_at(t, init, pair.at(0), steps) if t < steps else pair.at(t - steps)  # noqa: E731
    return Pair(warmup(pair.schedule, steps, init), at)


def _cooled(pair: Pair, start: int, steps: int, end: float) -> Pair:
    at = lambda t: pair.at(t) if t < start else linear_at(t - start, pair.at(start), end, steps)  # noqa: E731
    return Pair(cooldown(pair.schedule, start, steps, end), at)


def _interpolated(a: float, b: float, c: float, gap: int, n: int) -> Pair:
    at = lambda t: linear_at(t, a, b, gap) if t < gap else linear_at(t - gap, b, c, n)  # noqa: E731
    return Pair(interpolate([a, b, c], [0, gap, gap + n]), at)


leaves = st.one_of(
    st.builds(lambda a, b, n: Pair(linear(a, b, n), lambda t: linear_at(t, a, b, n)), values, values, lengths),
    st.builds(lambda a, b, n: Pair(cosine(a, b, n), lambda t: cosine_at(t, a, b, n)), values, values, lengths),
    st.builds(lambda a, n: Pair(multistep(a, [n], 0.5), lambda t: a * 0.5 ** (t >= n)), values, lengths),
    st.builds(_interpolated, values, values, values, lengths, lengths),
)


def larger(parts: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.one_of(
        st.builds(lambda a, b: Pair(add(a.schedule, b.schedule), lambda t: a.at(t) + b.at(t)), parts, parts),
        st.builds(lambda a, b: Pair(multiply(a.schedule, b.schedule), lambda t: a.at(t) * b.at(t)), parts, parts),
        st.builds(lambda a, b: Pair(minimum(a.schedule, b.schedule), lambda t: min(a.at(t), b.at(t))), parts, parts),
        st.builds(lambda a, v: Pair(maximum(a.schedule, v), lambda t: max(a.at(t), v)), parts, values),
        st.builds(lambda a: Pair(clip(a.schedule, 0.5, 2.0), lambda t: min(max(a.at(t), 0.5), 2.0)), parts),
        st.builds(_joined, parts, parts, lengths),
        st.builds(_warmed, parts, lengths, values),
        st.builds(_cooled, parts, lengths, lengths, values),
        st.builds(lambda a, b, v: Pair(v + a.schedule / 2 + 3 * b.schedule, lambda t: v + a.at(t) / 2 + 3 * b.at(t)), parts, parts, values),
        st.builds(lambda a, p: Pair(a.schedule**p, lambda t: a.at(t) ** p), parts, st.sampled_from([1.2, 2.0])),
        st.builds(lambda a, n: Pair(delay(a.schedule, n), lambda t: a.at(max(t - n, 0))), parts, lengths),
        st.builds(lambda a, n: Pair(advance(a.schedule, n), lambda t: a.at(t + n)), parts, lengths),
        st.builds(lambda a, b, n: Pair(extend(a.schedule, b, n), lambda t: a.at(t - min(max(t - b, 0), n))), parts, lengths, lengths),
        st.builds(lambda a, n: Pair(per_epoch(a.schedule, n), lambda t: a.at(t // n)), parts, lengths),
        st.builds(lambda a, n: Pair(per_update(a.schedule, n), lambda t: a.at(t * n)), parts, lengths),
        st.builds(lambda a, n: Pair(restarts(a.schedule, n, decay=0.5), lambda t: 0.5 ** (t // n) * a.at(t % n)), parts, lengths),
    )  # fmt: skip


@pytest.mark.usefixtures("quick_compilation")
@settings(max_examples=40 * THOROUGH, deadline=None, derandomize=True)
@given(st.recursive(leaves, larger, max_leaves=4))
def test_random_compositions_equal_their_definitions(pair):
    steps = np.array([*range(12), 29, 30, 31, 59, 60, 61, 97, 120, 200])
    np.testing.assert_allclose(pair.schedule(steps), [pair.at(int(t)) for t in steps], rtol=3e-6, atol=1e-37)
    assert parse(repr(pair.schedule)) == pair.schedule


def test_names_are_pythons_names():
    @schedule
    def अि(step, peﬁk: Value):  # a combining mark, and a ligature
        return peﬁk

    assert parse(repr(अि(1.0))) == parse("अि(peﬁk=1)") == अि(1.0)
    assert parse("cosine(1, 0, steps # the length\n = 9)") == parse("𝐜osine(1, 0, 9)")
