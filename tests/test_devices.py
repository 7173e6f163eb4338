"""One program on one device, on eight, and on those of two processes: the same numbers."""

import math
import os
import random
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest
from engine import STEPS, Fork, compiled, environment, first_count, logged, plan, same, script, words

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


# Eight devices of one process ----------------------------------------------------------------------------

HALF = 10
# What is exchanged between devices, whatever for.
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")


def started(names, seeds, batch_size, devices):
    arms = {arm.name: arm for arm in published(1e-2, 2 * HALF)}
    chosen = [arms[name] for name in names]
    return Program(plan(chosen, range(seeds), 2 * HALF, batch_size=batch_size), jax.devices()[:devices])


def second_half(program, runs):
    runs, losses = program.advance(runs, HALF, HALF)
    runs, *validation = program.validate(runs)
    return [losses, *validation, program.save(runs)]


def near(found, expected, rtol=2e-6, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), found, expected)


@pytest.mark.parametrize(
    ("names", "seeds", "batch_size", "laid"),
    [
        (("cosine", "sf-ema"), 8, 8, (8, 1, 1)),
        (("ema-long", "cosine", "linear-50"), 3, 7, (4, 2, 1)),  # with a fourth seed, and a second average, to fill up
        (("cosine",), 1, 8, (1, 1, 8)),
    ],
)
def test_eight_devices_give_the_numbers_of_one(names, seeds, batch_size, laid):
    halfway, ends, programs = [], [], []
    for devices in (8, 1):
        program = started(names, seeds, batch_size, devices)
        runs, losses = program.advance(program.start(), 0, HALF)
        assert losses.shape == (len(names), seeds, HALF)
        runs, *validation = program.validate(runs)
        halfway.append([losses, *validation, program.save(runs)])
        ends.append(second_half(program, runs))
        programs.append(program)
    eight, one = programs
    assert (tuple(eight.placing.mesh.shape.values()), tuple(one.placing.mesh.shape.values())) == (laid, (1, 1, 1))
    near(halfway[0], halfway[1])
    near(ends[0], ends[1], rtol=1e-5)
    # What was saved goes on, on as many devices as it came from bit by bit, and on others; all is compiled by now.
    with compiled() as names:
        jax.tree.map(np.testing.assert_array_equal, second_half(eight, eight.load(halfway[0][-1])), ends[0])
        near(second_half(one, one.load(halfway[0][-1])), ends[1], rtol=1e-5)
        near(second_half(eight, eight.load(halfway[1][-1])), ends[0], rtol=1e-5)
    assert names == []
    text = eight.lowered("cpu")[1].compile().as_text()
    exchanged = [name for name in COLLECTIVES if f" {name}" in text]
    assert bool(exchanged) == (laid[2] > 1), exchanged


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


def two_processes(arguments, others, cache, told):
    """`python -m experiments --distributed` as SLURM starts it in two tasks, each with two devices."""
    job = {"JOB_ID": free_job(), "STEP_NODELIST": "localhost", "NTASKS": 2, "STEP_NUM_NODES": 1}
    processes = []
    for rank, given in enumerate((arguments, others)):
        slurm = {f"SLURM_{name}": value for name, value in {**job, "PROCID": rank, "LOCALID": rank}.items()}
        environ = environment(cache, devices=2, **slurm)
        with (told / f"of-{rank}").open("w") as file:
            line = script([*given, "--distributed"])
            processes.append(subprocess.Popen(line, env=environ, stdout=file, stderr=subprocess.STDOUT))
    return processes


def ended(processes, seconds=150.0):
    """The exit statuses; none of the processes is left."""
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(deadline - time.monotonic(), 0)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_processes_are_one_run_which_a_kill_does_not_lose(cache, tmp_path):
    size = {"seeds": 4, "arms": ("cosine",)}
    Fork(words(tmp_path / "alone", **size), cache).finish()
    # Only the first process writes: the second is told a folder of its own, of which nothing comes.
    arguments = words(tmp_path / "run", **size), words(tmp_path / "unused", **size)
    processes = two_processes(*arguments, cache, tmp_path)
    deadline = time.monotonic() + 120
    while len(logged(tmp_path / "run")) < 4:
        assert time.monotonic() < deadline, (tmp_path / "of-0").read_text()
        assert [process.poll() for process in processes] == [None, None], (tmp_path / "of-0").read_text()
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert ended(processes) == [-signal.SIGKILL] * 2
    assert ended(two_processes(*arguments, cache, tmp_path)) == [0, 0], (tmp_path / "of-0").read_text()
    assert 0 < first_count((tmp_path / "of-0").read_text()) < STEPS
    assert first_count((tmp_path / "of-1").read_text()) is None
    steps = [line["step"] for line in logged(tmp_path / "run")]
    assert steps == sorted({*steps})
    assert not (tmp_path / "unused").exists()
    assert '"devices": 4,' in (tmp_path / "run" / "config.json").read_text()
    same(tmp_path / "run", tmp_path / "alone", np.testing.assert_allclose, rtol=1e-5)


def test_a_process_that_nobody_told_of_others_is_refused(cache, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "JAX_COORD"))]:
        monkeypatch.delenv(name)
    # Not forked, as the process it would be forked from has another environment.
    line = script(words(tmp_path / "run", "--distributed"))
    found = subprocess.run(line, env=environment(cache), capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert found.stderr.startswith(
        "python -m experiments: --distributed needs what SLURM, Kubernetes, Open MPI or a TPU"
    )
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
