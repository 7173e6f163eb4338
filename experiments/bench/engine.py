"""What training costs on the cores of this machine, relative to a matrix product, to PyTorch and to a plain loop."""

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np

from experiments.bench.elsewhere import elsewhere
from experiments.bench.measurement import Measurement, table
from experiments.bench.plans import little
from experiments.bench.throughput import Trainee, one_program, published_style, race
from experiments.bench.traffic import PRODUCT, operations
from experiments.engine.program import Program
from experiments.reports.question import Question
from experiments.tasks.cifar10 import PUBLISHED, SMALL
from experiments.tasks.vision_transformer import TinyViT

SIDE = 2048  # of the large matrix product


def measurements() -> Iterator[Measurement]:
    product = elsewhere(large_product)
    for model, task in (("published", PUBLISHED), ("small", SMALL)):
        assert isinstance(task.model, TinyViT)
        size = task.model, task.batch_size
        all_arms, one_arm = (elsewhere(functools.partial(trained, *size, count)) for count in (13, 1))
        plain = elsewhere(functools.partial(one_by_hand, *size), every_core_a_device=False)
        gigaflops = all_arms._replace(work=products_of(*size) * all_arms.work)
        yield named(model, race(gigaflops, product, "GFLOP/s"))
        yield named(model, race(all_arms, one_arm, goal="at least 1"))
        yield named(model, race(one_arm, plain, goal="at least 1.2"))
        if importlib.util.find_spec("torch"):
            eager = elsewhere(functools.partial(in_torch, *size))
            yield named(model, race(one_arm, eager, goal="at least 1.5"))


def named(model: str, row: Measurement) -> Measurement:
    return replace(row, what=f"{model} model, {row.what}")


def trained(model: TinyViT, batch_size: int, arms: int) -> Trainee:
    plan = little(model, batch_size)
    return one_program(plan, [arm.name for arm in plan.arms[:arms]], 1, "float32")


def one_by_hand(model: TinyViT, batch_size: int) -> Trainee:
    return published_style(little(model, batch_size), "float32")


def in_torch(model: TinyViT, batch_size: int) -> Trainee:
    from experiments.bench.others.eager_torch import eager_torch

    return eager_torch(model, batch_size)


def large_product() -> Trainee:
    """Of NumPy, which uses all cores: XLA's is slower at this size."""
    left, right = np.random.default_rng(0).normal(size=(2, SIDE, SIDE)).astype(np.float32)

    def advance(count: int) -> None:
        for _ in range(count):
            left @ right

    return Trainee("a large matrix product", 2e-9 * SIDE**3, advance)


def products_of(model: TinyViT, batch_size: int) -> float:
    """GFLOP in the matrix products of an update of all arms, for each arm."""
    program = Program(little(model, batch_size), jax.devices()[:1])
    count = sum(each.count for each in operations(program)[0] if each.name == PRODUCT)
    return 1e-9 * count / len(program.plan.arms)


ENGINE = Question("engine", "What does training cost on the cores of this machine?", lambda: table(measurements()))
