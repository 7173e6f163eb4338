"""The experiment engine in processes that can be killed, with a model that compiles in seconds."""

import contextlib
import ctypes
import dataclasses
import functools
import itertools
import json
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache
from tqdm import tqdm

from experiments.__main__ import main
from experiments.engine import train
from experiments.engine.plan import Plan
from experiments.reports.results import Results
from experiments.studies import published
from experiments.tasks import digits
from schedules.terminal import exit_status

STEPS = 200


class Small(nn.Module):
    """Two layers with dropout in between."""

    @nn.compact
    def __call__(self, images, deterministic):
        hidden = nn.relu(nn.Dense(8)(images.reshape(len(images), -1)))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=deterministic)(hidden))


SMALL = dataclasses.replace(digits.DIGITS, model=Small())
# Its figures would take longer than the training.
QUICKLY_TOLD = dataclasses.replace(published.PUBLISHED, panels=())


def words(out, *more, steps=STEPS, seeds=1, arms=("cosine", "ema-long")):
    """A command line. A checkpoint follows every piece, there are four validations."""
    size = ["--steps", str(steps), "--seeds", str(seeds), "--batch-size", "8", "--checkpoint-seconds", "0"]
    return [*size, "--out", str(out), *more, "--arms", *arms]


def plan(arms, seeds=(0,), steps=STEPS, **options):
    """A plan of the published study, with a batch of 8."""
    about = {"model": Small(), "batch_size": 8, "study": "published", **options}
    return Plan("8x8 digits", data=digits.digits(), arms=arms, seeds=tuple(seeds), steps=steps, **about)


@contextlib.contextmanager
def compiled():
    """What JAX compiles meanwhile, as it says."""
    said, logger = [], logging.getLogger("jax")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage()) if record.msg.startswith("Compiling") else None
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield said
    finally:
        logger.removeHandler(handler)


def same(results, others, compare=np.testing.assert_array_equal, **tolerance):
    """Whether two folders, or results, have the same history; bit by bit, unless compared otherwise."""
    ours, theirs = (
        Results.load(each / "history.npz") if isinstance(each, Path) else each for each in (results, others)
    )
    assert ours.done == theirs.done
    assert ours.history.recorded().keys() == theirs.history.recorded().keys()
    for name, array in ours.history.recorded().items():
        compare(array, theirs.history.recorded()[name], err_msg=name, **tolerance)


def logged(folder):
    """The objects of metrics.jsonl, which must be JSON as others read it, too."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    log = folder / "metrics.jsonl"
    return [json.loads(line, parse_constant=refuse) for line in log.read_text().splitlines()] if log.exists() else []


def checkpoints(folder):
    return sorted(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit())


def half_written(folder):
    return [*folder.glob("checkpoints/*-tmp")]


def lines(folder):
    """How many there are in metrics.jsonl."""
    log = folder / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def content(folder):
    """All files below a folder, and the folders."""
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def compiling(cache):
    """Settings of JAX under which programs are compiled quickly, and kept in a folder."""
    return {
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }


def configure(settings):
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@contextlib.contextmanager
def kept_in(cache):
    """Compiles so meanwhile."""
    before = {name: jax.config.values[name] for name in compiling(cache)}
    configure(compiling(cache))
    try:
        yield
    finally:
        configure(before)


# Forked from a process that has imported everything, and has not begun to use JAX.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["experiments.__main__", "experiments.accelerator", "sklearn.datasets"])
_NUMBERS = itertools.count()
# What the variables begin with in which a cluster tells JAX of other processes.
CLUSTERS = ("SLURM_", "OMPI_", "JAX_COORD")


def nothing():
    pass


class Fork:
    """A command in a process of its own. Compiled programs are kept in `cache`, and what it says.

    **Arguments:** `first`: is called before everything else, a function of module level, or a `functools.partial`.
    """

    def __init__(self, arguments, cache, seconds_a_piece=1.0, devices=1, first=nothing, command=main):
        cache.mkdir(exist_ok=True)
        self._said = cache / f"said-{next(_NUMBERS)}"
        self._said.touch()
        about = arguments, cache, self._said, seconds_a_piece, devices, first, command
        self._process = _FORKS.Process(target=_forked, args=about)
        self._process.start()

    def wait(self, seconds=90.0):
        """**Returns:** exit status, and what was said."""
        self._process.join(seconds)
        status = self._process.exitcode
        self.kill()
        assert status is not None, f"no end after {seconds} seconds: {self.said}"
        return status, self.said

    def finish(self):
        """Waits for a good end."""
        status, said = self.wait()
        assert status == 0, said
        return self

    def until(self, condition, seconds=60.0):
        """Waits for `condition()`, or the end of the process."""
        deadline = time.monotonic() + seconds
        while not condition() and self.running:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"no progress in {seconds} seconds: {self.said}")
            time.sleep(0.002)

    def signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        self._process.kill()
        self._process.join()

    @property
    def running(self):
        return self._process.exitcode is None

    @property
    def said(self):
        return self._said.read_bytes().decode(errors="replace").replace("\r", "\n")

    @property
    def resumed_from(self):
        return first_count(self.said)


def first_count(said):
    """The first count of updates that a progress bar showed, or None before it showed any."""
    found = re.search(r"\| (\d+)/\d+ \[", said)
    return int(found[1]) if found else None


def without_bar(said):
    """The lines, except those of a progress bar."""
    return [line for line in said.splitlines() if line.strip() and not re.match(r"\d+ arms x", line)]


def _forked(arguments, cache, said, seconds_a_piece, devices, first, command):
    # Appended without a buffer: what a killed process has said stays said.
    descriptor = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore that outlives the killed
    configure(compiling(cache))
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    digits.DIGITS = SMALL
    published.PUBLISHED = QUICKLY_TOLD
    train.SECONDS_A_PIECE = seconds_a_piece
    for name in [name for name in os.environ if name.startswith(CLUSTERS)]:
        del os.environ[name]
    first()
    sys.exit(exit_status(lambda: command(arguments)))


class Mounts:
    """A shell in a namespace in which anyone may mount, and which takes its mounts along when it ends."""

    def __init__(self):
        shell = ("unshare", "--user", "--map-root-user", "--mount", "sh")
        self._shell = subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, line):
        """**Returns:** whether the line of shell did what it should."""
        try:
            print(f"{{ {line}; }} >/dev/null; echo $?", file=self._shell.stdin, flush=True)
        except BrokenPipeError:
            return False
        return self._shell.stdout.readline() == "0\n"

    def fork(self, *about):
        """A `Fork` that finds the mounts."""
        return Fork(*about, first=functools.partial(_enter, self._shell.pid))

    def close(self):
        self._shell.communicate()


def _enter(process):
    system = ctypes.CDLL(None, use_errno=True)
    for name in ("user", "mnt"):
        with open(f"/proc/{process}/ns/{name}") as namespace:
            if system.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
