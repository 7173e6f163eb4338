"""What the published comparison must cost on a GPU: a roofline, counted from the program, without a GPU.

S. Williams, A. Waterman and D. Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
Architectures", 2009: a kernel takes as long as its arithmetic or its memory traffic, whichever takes longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from matplotlib.figure import Figure

from experiments.bench import traffic
from experiments.bench.plans import little
from experiments.bench.traffic import Kernel, fused, kept, kernels_of, operations, terms, unfused
from experiments.engine.machine import machine
from experiments.engine.plan import Precision
from experiments.engine.program import Program
from experiments.reports.figure import titled
from experiments.reports.question import Answer, Question
from experiments.reports.text import markdown
from experiments.studies.published import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from experiments.tasks.cifar10 import PUBLISHED


class Device(NamedTuple):
    """Nominal speeds: bytes per second, and operations per second by what is computed and, for products, how."""

    bandwidth: float
    peaks: Mapping[str, float]


# NVIDIA's data sheets of the H100 SXM and H200 SXM, and "NVIDIA H100 Tensor Core GPU Architecture": products without
# sparsity. The 66.9 TFLOP/s count a multiplication with an addition as two; there are half as many integer units.
HOPPER = {"tf32": 494.7e12, "bfloat16": 989.4e12, "float32": 66.9e12, "other": 33.5e12, "random": 16.7e12}
DEVICES = {"H100": Device(3.35e12, HOPPER), "H200": Device(4.8e12, HOPPER)}
# Assumptions. A large copy reaches about nine tenths of the nominal bandwidth. Between two kernels of a CUDA graph,
# the device was idle for 0.5 microseconds (A. Gray, "Getting Started with CUDA Graphs", 2019, on a V100). A launch
# takes the host 2 to 5. To wait for the device, read a flag and start again takes about 20.
REACHED, IDLE, LAUNCH, WAIT = 0.9, 0.5e-6, (2e-6, 5e-6), 20e-6
GOAL = 180.0  # seconds
IMAGES = 10_000  # to validate on
ACTIVATIONS = "activations kept for the backward pass"
TERMS = {
    traffic.PRODUCTS: BLUE, traffic.FORWARD: SKY, traffic.BACKWARD: GREEN, traffic.AVERAGES: ORANGE,
    traffic.OPTIMIZERS: PURPLE, traffic.NOISE: VERMILION,
}  # fmt: skip
COLOURS = {ACTIVATIONS: GREY, **TERMS}
KEPT, FUSED, LIKE_XLA, UNFUSED = (
    "only what must be kept", "fused between products", "fused between products and sums, like XLA", "not fused"
)  # fmt: skip


def program(model: nn.Module, batch_size: int, steps: int = PUBLISHED.steps) -> Program:
    """The program of the 13 arms for one device, with products in tf32."""
    return Program(replace(little(model, batch_size, steps), precision="tf32"), jax.devices()[:1])


def in_bfloat16(program: Program) -> Program:
    """The same arms, with activations in bfloat16."""
    return Program(replace(program.plan, precision="bfloat16"), jax.devices()[:1])


def seconds(kernels: Sequence[Kernel], device: Device, precision: Precision = "tf32", reached: float = 1.0) -> float:
    """One kernel after the other, each as long as its memory traffic or the slowest of its kinds of arithmetic."""
    peaks = {**device.peaks, "product": device.peaks[precision]}
    times = [max(k.bytes / device.bandwidth, *(n / peaks[kind] for kind, n in k.counts.items())) for k in kernels]
    return sum(times) / reached


def counted(program: Program) -> dict[str, Any]:
    """The numbers of the report. Seconds are of the whole run; kernels, GFLOP and GB of one update of all arms."""
    found, runs, losses = operations(program)
    term, results, steps, arms = terms(found, runs), [*runs, *losses], program.plan.steps, len(program.plan.arms)
    plain, like_xla = fused(found, results, term), fused(found, results, term, traffic.REDUCED)
    half = in_bfloat16(program)
    of_precision: dict[Precision, list[Kernel]] = {"tf32": like_xla, "bfloat16": kernels_of(half, traffic.REDUCED)}

    def part(kernels: Sequence[Kernel], *of: str) -> list[Kernel]:
        return [each for each in kernels if each.term in of]

    def total(kernels: Sequence[Kernel], kind: str) -> float:
        return sum(each.counts[kind] for each in kernels)

    def told(kernels: Sequence[Kernel], precision: Precision = "tf32") -> dict[str, Any]:
        taken = {name: steps * seconds(kernels, device, precision) for name, device in DEVICES.items()}
        size = sum(each.bytes for each in kernels) / 1e9
        return {"kernels": len(kernels), "GFLOP": total(kernels, "product") / 1e9, "GB": size, "seconds": taken}

    def by_term(kernels: Sequence[Kernel], precision: Precision = "tf32") -> dict[str, Any]:
        parts = {name: told(part(kernels, name), precision)["seconds"] for name in COLOURS}
        return {**told(kernels, precision), "terms": parts}

    optimizers = part(plain, traffic.OPTIMIZERS)
    passes = part(plain, *TERMS.keys() - {traffic.OPTIMIZERS})
    # Written once and read once, while all products are computed.
    least = Kernel(ACTIVATIONS, 2 * kept(found), {kind: total(passes, kind) for kind in passes[0].counts})
    ways = {KEPT: [least, *optimizers], FUSED: plain, LIKE_XLA: like_xla, UNFUSED: unfused(found, term)}
    waits = steps * (1 / program.inner + 1 / program.longest)
    host = {"idle": steps * IDLE * len(like_xla), "waits": WAIT * waits}

    def expected(kernels: Sequence[Kernel], precision: Precision) -> dict[str, float]:
        between = steps * IDLE * len(kernels) + host["waits"]
        return {name: steps * seconds(kernels, each, precision, REACHED) + between for name, each in DEVICES.items()}

    random = steps * total(plain, "random") / HOPPER["random"]
    often = len(program.plan.validated_after)
    return {
        "steps": steps,
        "arms": arms,
        "products": sum(each.counts["product"] > 0 for each in plain),
        "FLOP per byte": {
            "products": _intensity(part(plain, traffic.PRODUCTS)),
            **{name: device.peaks["tf32"] / device.bandwidth for name, device in DEVICES.items()},
        },
        "kept MB per arm": kept(found) / 1e6 / arms,
        "terms": {name: told(part(plain, name)) for name in TERMS},
        "ways": {way: by_term(kernels) for way, kernels in ways.items()},
        "changes": {
            "nothing": told(plain),
            "activations in bfloat16": told(kernels_of(half), "bfloat16"),
            "attention in one kernel": told(fused(found, results, term, attention=True)),
            "no loss of the averages": told([each for each in plain if each.term != traffic.AVERAGES]),
            "only products in bfloat16": told(plain, "bfloat16"),
            "products in float32": told(plain, "float32"),
        },
        "random numbers": {"once": random, "for each arm": random * arms},
        "host": {**host, "launches": [steps * launch * len(like_xla) for launch in LAUNCH]},
        "precisions": {
            precision: {**by_term(kernels, precision), "expected": expected(kernels, precision)}
            for precision, kernels in of_precision.items()
        },
        # A forward pass for each image, where an update takes one and twice its work for the backward pass.
        "validations": {"count": often, "share": often * IMAGES / (3 * program.plan.batch_size * steps)},
    }


def _intensity(kernels: Sequence[Kernel]) -> float:
    return sum(each.counts["product"] for each in kernels) / sum(each.bytes for each in kernels)


def drawn(numbers: Mapping[str, Any]) -> Figure:
    """A bar for each device and way to fuse, its terms one after the other."""
    figure = titled(
        f"Seconds for {numbers['steps']:,} updates of {numbers['arms']} arms at nominal speed",
        "Everything that is not fused is written to memory and read again; bfloat16 halves activations",
    )
    figure.set_size_inches(8, 5)
    ax = figure.subplots()
    pictured = {way: numbers["ways"][way] for way in (KEPT, FUSED, LIKE_XLA)}
    pictured["like XLA, activations in bfloat16"] = numbers["precisions"]["bfloat16"]
    bars = [(name, way, told["terms"]) for name in DEVICES for way, told in pictured.items()]
    places = np.arange(len(bars)) + 0.4 * (np.arange(len(bars)) >= len(pictured))
    for place, (name, _, parts) in zip(places, bars, strict=True):
        left = 0.0
        for term, colour in COLOURS.items():
            width = parts[term][name]
            ax.barh(place, width, 0.75, left, color=colour, label=term if place == 0 else None)
            left += width
        ax.text(left + 3, place, f"{left:.0f}", va="center", bbox={"color": "white", "pad": 1})
    ax.axvline(GOAL, color="black", linestyle=":")
    ax.text(GOAL + 3, 0, f"goal: {GOAL:.0f}", va="center")
    ax.set(xlabel="seconds", ylim=(places[-1] + 0.6, -0.6))
    ax.set_yticks(places, [f"{name}: {way}" for name, way, _ in bars])
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def report(numbers: Mapping[str, Any]) -> str:
    def row(name: str, told: Mapping[str, Any]) -> list[str]:
        times = [f"{told['seconds'][device]:.0f}" for device in DEVICES]
        return [name, str(told["kernels"]), f"{told['GFLOP']:.1f}", f"{told['GB']:.2f}", *times]

    def table(rows: Mapping[str, Any]) -> str:
        head = ["", "kernels", "GFLOP", "GB", *(f"{name}, s" for name in DEVICES)]
        return markdown([head, *(row(*each) for each in rows.items())])

    ways, precisions, host, random = (numbers[name] for name in ("ways", "precisions", "host", "random numbers"))
    intensity, launches, validations = numbers["FLOP per byte"], host["launches"], numbers["validations"]

    expectations = [
        [name, f"{told['GB']:.2f}", *(f"{told['expected'][device]:.0f}" for device in DEVICES)]
        for name, told in precisions.items()
    ]
    reached = [f"{name} on an {d}" for name, told in precisions.items() for d in DEVICES if told["expected"][d] <= GOAL]
    within = ", ".join(reached) or "neither"

    return f"""\
Nothing here was measured. The operations of one update of all {numbers["arms"]} arms are counted from the program, and
grouped into kernels. A kernel takes as long as its arithmetic or its memory traffic, whichever takes longer, at
nominal speed, and kernels run one after the other. Kernels, GFLOP (of products) and GB are of one update, seconds of
{numbers["steps"]:,}.

![Seconds for each device and way to fuse](roofline.png)

## By term

A matrix product is a kernel, and what lies between two products is another one:

{table({**numbers["terms"], "together": ways[FUSED]})}

Memory traffic is the limit. The products do {intensity["products"]:.0f} FLOP for each byte they move. Arithmetic would
take longer only above {" or ".join(f"{intensity[name]:.0f} on an {name}" for name in DEVICES)}.

## By what is fused

{table(ways)}

- **{KEPT.capitalize()}**: both passes are one kernel. It writes and reads {numbers["kept MB per arm"]:.0f} MB per arm,
  what the forward pass keeps for the backward pass; all else stays on the chip. Optimizers read and write their arrays.
  An update in float32 that computes nothing twice cannot be much faster.
- The other rows assume that each kernel reads from memory. The cache of 50 MB holds one or two of the larger arrays, so
  a kernel may find there what the last one wrote.
- **Like XLA**: XLA ends a kernel at a sum over an axis too, such as the mean in a layer norm.

## What would change it

{table(numbers["changes"])}

So what helps most is fewer bytes per activation, which `--precision bfloat16` gives. Random numbers take
{random["once"]:.0f} s if the masks are drawn once for all arms, and {random["for each arm"]:.0f} s if they are drawn
again for each arm.

## What to expect

Seconds, if fused like XLA, with {100 * REACHED:.0f} % of nominal speed and {IDLE * 1e6:.1f} µs between two kernels
({host["idle"]:.0f} s in total with tf32):

{markdown([["--precision", "GB", *DEVICES], *expectations])}

- The goal is {GOAL:.0f} s. Expected to reach it: {within}.
- Launches one by one, {LAUNCH[0] * 1e6:.0f} to {LAUNCH[1] * 1e6:.0f} µs each, take the host {launches[0]:.0f} to
  {launches[1]:.0f} s while the device computes. CUDA graphs (XLA's command buffers) save most of them.
- The device waits for the host once in a round of updates and once for each block of losses: {host["waits"]:.1f} s in
  total, at {WAIT * 1e6:.0f} µs.
- {validations["count"]} validations are {100 * validations["share"]:.1f} % of the work.

Nominal speeds, without sparsity, are from NVIDIA's data sheets of the H100 SXM and H200 SXM and its paper on their
architecture: {" and ".join(f"{device.bandwidth / 1e12:.2f} TB/s" for device in DEVICES.values())}, and for products
{HOPPER["tf32"] / 1e12:.0f} TFLOP/s in tf32, {HOPPER["bfloat16"] / 1e12:.0f} in bfloat16 and
{HOPPER["float32"] / 1e12:.0f} in float32. The shares of them that are reached, and the times of launches and waits, are
assumptions."""


def measure() -> Answer:
    numbers = counted(program(PUBLISHED.model, PUBLISHED.batch_size))
    return Answer(report(numbers), {**numbers, **machine()}, {"roofline.png": drawn(numbers)})


ROOFLINE = Question("roofline", "What must the published comparison cost on a GPU?", measure)
