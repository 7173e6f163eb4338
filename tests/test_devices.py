"""One program on one device, on several, and on those of two processes: the same numbers."""

import contextlib
import functools
import math
import os
import random
import socket
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from engine import STEPS, Fork, compiled, logged, plan, same, words

from experiments.engine.placing import layout
from experiments.engine.program import Program
from experiments.studies.published import published

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

# The layout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "seeds", "groups", "batch_size", "expected"),
    [
        (1, 3, [8, 3, 2], 24, (1, 1, 1)),
        (8, 1, [1], 128, (1, 1, 8)),  # one run: nothing else can be divided
        (8, 8, [8, 3, 2], 128, (8, 1, 1)),  # a seed each, and no exchange
        (8, 16, [1], 128, (8, 1, 1)),
        (8, 1, [16], 128, (1, 8, 1)),  # arms rather than batches, for the same reason
        (8, 4, [2], 7, (4, 2, 1)),  # a batch that cannot be divided
        (8, 1, [1], 12, (2, 1, 4)),  # by four, but not by eight: half of the devices do what others do
        (6, 3, [2, 2], 24, (3, 2, 1)),
        (4, 1, [8, 3, 2], 128, (1, 4, 1)),  # 2 + 1 + 1 arms, rather than 13 on a fourth of the batch
    ],
)
def test_devices_are_laid_where_they_leave_the_least_work(devices, seeds, groups, batch_size, expected):
    assert layout(devices, seeds, groups, batch_size) == expected


def test_every_layout_takes_all_devices_and_is_no_worse_than_dividing_seeds_alone():
    rng = random.Random(0)
    for _ in range(300):
        devices, seeds, batch_size = rng.randint(1, 64), rng.randint(1, 20), rng.randint(1, 256)
        groups = [rng.randint(1, 20) for _ in range(rng.randint(1, 5))]

        def work(split):
            along_seeds, along_arms, along_batch = split
            runs = math.ceil(seeds / along_seeds) * sum(math.ceil(n / along_arms) for n in groups)  # noqa: B023
            return runs * batch_size / along_batch * (1.25 if along_batch > 1 else 1)  # noqa: B023

        found = layout(devices, seeds, groups, batch_size)
        assert math.prod(found) == devices
        assert batch_size % found[2] == 0
        assert work(found) <= work((devices, 1, 1))
        assert work(found) <= work((1, devices, 1))
        if batch_size % devices == 0:
            assert work(found) <= work((1, 1, devices))


# Devices of one process ---------------------------------------------------------------------------------

HALF = 10
# What is exchanged between devices, whatever for.
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
# How the three seeds of a batch of seven, and the groups of two arms and of one, are laid on so many devices.
LAID = {1: (1, 1, 1), 8: (4, 2, 1), 7: (1, 1, 7)}  # on eight with a fourth seed, and a second of the one, to fill up


class Trained(NamedTuple):
    program: Program
    halfway: list[Any]
    end: list[Any]


@pytest.fixture(scope="module")
def trained(quick_compilation):
    """One plan on as many devices as `LAID` says."""
    arms = {arm.name: arm for arm in published(1e-2, 2 * HALF)}
    planned = plan([arms[name] for name in ("cosine", "sf-ema", "linear-50")], range(3), 2 * HALF, batch_size=7)
    return {count: halves(Program(planned, jax.devices()[:count])) for count in LAID}


def halves(program):
    runs, measured = program.advance(program.start(), 0, HALF)
    runs, *validation = program.validate(runs)
    return Trained(program, [measured, *validation, program.save(runs)], second_half(program, runs))


def second_half(program, runs):
    runs, measured = program.advance(runs, HALF, HALF)
    runs, *validation = program.validate(runs)
    return [measured, *validation, program.save(runs)]


def near(found, expected, rtol=2e-6, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), found, expected)


@pytest.mark.parametrize("count", [8, 7])
def test_many_devices_give_the_numbers_of_one(count, trained):
    many, one = trained[count], trained[1]
    for each, laid in ((many, LAID[count]), (one, LAID[1])):
        assert tuple(each.program.placing.mesh.shape.values()) == laid
        assert each.halfway[0].loss.shape == (3, 3, HALF)
    near(many.halfway, one.halfway)
    near(many.end, one.end, rtol=1e-5)
    # What was saved goes on, on as many devices as it came from bit by bit, and on others; all is compiled by now.
    with compiled() as names:
        again = second_half(many.program, many.program.load(many.halfway[-1]))
        jax.tree.map(np.testing.assert_array_equal, again, many.end)
        near(second_half(one.program, one.program.load(many.halfway[-1])), one.end, rtol=1e-5)
        near(second_half(many.program, many.program.load(one.halfway[-1])), many.end, rtol=1e-5)
    assert names == []
    text = many.program.lowered("cpu")[1].compile().as_text()
    exchanged = [name for name in COLLECTIVES if f" {name}" in text]
    assert bool(exchanged) == (LAID[count][2] > 1), exchanged


# Two processes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "compiled"


def free_job():
    """A SLURM job from whose number JAX makes a port that nobody uses."""
    for job in random.Random(os.getpid()).sample(range(2**12), 100):
        with socket.socket() as tried:
            try:
                tried.bind(("localhost", 65535 - 2**12 + 1 + job))
            except OSError:
                continue
        return job
    pytest.skip("no port is free")


@contextlib.contextmanager
def two_processes(arguments, others, cache):
    """`python -m experiments --distributed` as SLURM starts it in two tasks, each with two devices; killed afterwards."""
    job = {"JOB_ID": free_job(), "STEP_NODELIST": "localhost", "NTASKS": 2, "STEP_NUM_NODES": 1}

    def process(rank, given):
        slurm = {f"SLURM_{name}": str(value) for name, value in {**job, "PROCID": rank, "LOCALID": rank}.items()}
        return Fork([*given, "--distributed"], cache, devices=2, first=functools.partial(set_variables, slurm))

    processes = [process(rank, given) for rank, given in enumerate((arguments, others))]
    try:
        yield processes
    finally:
        for each in processes:
            each.kill()


def set_variables(variables):
    os.environ.update(variables)


def test_two_processes_are_one_run_which_a_kill_does_not_lose(cache, tmp_path):
    size = {"seeds": 4, "arms": ("cosine",)}
    Fork(words(tmp_path / "alone", **size), cache).finish()
    # Only the first process writes: the second is told a folder of its own, of which nothing comes.
    arguments = words(tmp_path / "run", **size), words(tmp_path / "unused", **size)
    with two_processes(*arguments, cache) as (first, second):
        first.until(lambda: len(logged(tmp_path / "run")) >= 4 or not second.running)
        assert (first.running, second.running) == (True, True), first.said + second.said
    with two_processes(*arguments, cache) as (first, second):
        assert first.wait()[0] == 0, first.said
        assert second.wait()[0] == 0, second.said
    assert 0 < first.resumed_from < STEPS
    assert second.resumed_from is None
    steps = [line["step"] for line in logged(tmp_path / "run")]
    assert steps == sorted({*steps})
    assert not (tmp_path / "unused").exists()
    assert '"devices": 4,' in (tmp_path / "run" / "config.json").read_text()
    same(tmp_path / "run", tmp_path / "alone", np.testing.assert_allclose, rtol=1e-5)


def test_a_process_that_nobody_told_of_others_is_refused(cache, tmp_path):
    status, said = Fork(words(tmp_path / "run", "--distributed"), cache).wait()
    assert status == 2
    assert said.startswith("python -m experiments: --distributed needs what SLURM, Kubernetes, Open MPI or a TPU")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
