"""The roofline: arithmetic and bytes of an update, against counts by hand, and what the page says of them."""

import json
from pathlib import Path

import pytest
from flax import linen as nn

from experiments.bench import compiled
from experiments.bench.roofline import (
    DEVICES,
    FUSED,
    KEPT,
    LIKE_XLA,
    UNFUSED,
    Device,
    counted,
    in_bfloat16,
    program,
    seconds,
)
from experiments.bench.traffic import OPTIMIZERS, Kernel, kernels_of

ROOT = Path(__file__).parent.parent
NUMBERS = json.loads((ROOT / "experiments/results/bench/roofline/numbers.json").read_text())
INPUTS, HIDDEN, CLASSES, BATCH = 32 * 32 * 3, 8, 10, 4
ARMS, AVERAGED = 13, 5


class TwoLayers(nn.Module):
    @nn.compact
    def __call__(self, images, deterministic):
        hidden = nn.relu(nn.Dense(HIDDEN, use_bias=False)(images.reshape(len(images), -1)))
        hidden = nn.Dropout(0.5, deterministic=deterministic)(hidden)
        return nn.Dense(CLASSES, use_bias=False)(hidden)


@pytest.fixture(scope="module")
def small():
    return program(TwoLayers(), BATCH, steps=100)


@pytest.fixture(scope="module")
def kernels(small):
    return kernels_of(small)


def test_products_are_those_counted_by_hand(kernels):
    first, second = 2 * BATCH * INPUTS * HIDDEN, 2 * BATCH * HIDDEN * CLASSES
    # Forward; gradients of both weights and of the hidden layer, but not of the images; and forward at the averages.
    by_hand = ARMS * (first + second) + ARMS * (first + 2 * second) + AVERAGED * (first + second)
    products = [kernel for kernel in kernels if kernel.counts["product"]]
    assert sum(kernel.counts["product"] for kernel in products) == by_hand
    assert len(products) == 2 + 3 + 2
    # Each reads both operands and writes its result; the images are the same for all arms.
    images, weights, hidden = BATCH * INPUTS, INPUTS * HIDDEN, BATCH * HIDDEN
    others, logits = HIDDEN * CLASSES, BATCH * CLASSES
    of_an_arm = 2 * (weights + hidden) + 3 * (hidden + others + logits)
    at_an_average = weights + hidden + hidden + others + logits
    expected = 4 * (3 * images + ARMS * of_an_arm + AVERAGED * at_an_average)
    assert sum(kernel.bytes for kernel in products) == expected


def test_optimizers_read_and_write_each_of_their_arrays_once(kernels, small):
    moved = sum(kernel.bytes for kernel in kernels if kernel.term == OPTIMIZERS)
    parameters = 4 * HIDDEN * (INPUTS + CLASSES)
    # Adam reads parameters, gradient and two moments, and writes all but the gradient. The three arms with an average
    # of Adam read and write that too, as do the two schedule-free arms, which have no first moment. The parameters of
    # all groups are joined for the passes: read and written once more.
    assert moved == pytest.approx(parameters * (8 * 7 + 3 * 9 + 2 * 7 + 2 * ARMS), rel=0.1)


def test_the_more_is_fused_the_fewer_bytes_move(small):
    ways = counted(small)["ways"]
    sizes = [ways[way]["GB"] for way in (KEPT, FUSED, LIKE_XLA, UNFUSED)]
    assert sizes == sorted(sizes)
    for way in (FUSED, LIKE_XLA):
        parts = [each["H100"] for each in ways[way]["terms"].values()]
        assert sum(parts) == pytest.approx(ways[way]["seconds"]["H100"])


def test_activations_in_bfloat16_take_half_the_bytes(small):
    """Of a kernel that is a product: both factors and the result, but not the weights' rounding, which comes before."""

    def products(program):
        return sum(each.bytes for each in kernels_of(program) if each.counts["product"])

    assert products(in_bfloat16(small)) == products(small) / 2


def test_a_kernel_takes_as_long_as_its_arithmetic_or_its_traffic():
    device = Device(100.0, {"tf32": 10.0, "float32": 1.0, "other": 5.0, "random": 2.0})
    reads, multiplies = Kernel("", 300.0, {"product": 10.0, "other": 5.0}), Kernel("", 100.0, {"product": 40.0})
    assert seconds([reads, multiplies], device) == 3 + 4
    assert seconds([reads, multiplies], device, "float32") == 10 + 40
    assert seconds([reads], device, reached=0.5) == 6


COMPILED = """\
HloModule jit_one, is_scheduled=true

%fused_slice (parameter_0: f32[8,100], parameter_1: pred[10]) -> f32[10] {
  %parameter_0 = f32[8,100]{1,0} parameter(0)
  %bitcast.1 = f32[800]{0} bitcast(%parameter_0)
  %slice.1 = f32[10]{0} slice(%bitcast.1), slice={[0:10]}
  %parameter_1 = pred[10]{0} parameter(1)
  ROOT %select.1 = f32[10]{0} select(%parameter_1, %slice.1, %slice.1)
}

%gemm_fusion_dot (parameter_0.1: bf16[4,10], parameter_1.1: f32[10]) -> (f32[4], f32[]) {
  %parameter_0.1 = bf16[4,10]{1,0} parameter(0)
  %parameter_1.1 = f32[10]{0} parameter(1)
  %dot.1 = f32[4]{0} dot(%parameter_0.1, %parameter_1.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tuple.1 = (f32[4]{0}, f32[]) tuple(%dot.1, %dot.1)
}

ENTRY %main (x.1: f32[8,100], mask.1: pred[10], weights.1: bf16[4,10]) -> f32[4] {
  %x.1 = f32[8,100]{1,0} parameter(0)
  %mask.1 = pred[10]{0} parameter(1)
  %weights.1 = bf16[4,10]{1,0} parameter(2)
  %fusion.1 = f32[10]{0} fusion(%x.1, %mask.1), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(one)"}
  %fusion.2 = (f32[4]{0}, f32[]) fusion(%weights.1, %fusion.1), kind=kCustom, calls=%gemm_fusion_dot
  %get-tuple-element.1 = f32[4]{0} get-tuple-element(%fusion.2), index=0
  ROOT %copy.1 = f32[4]{0} copy(%get-tuple-element.1)
}
"""


def test_kernels_of_a_compiled_program_read_and_write_what_its_text_says():
    assert compiled.kernels(COMPILED) == [
        (compiled.LOOPS, 40 + 10 + 40),  # of the first array only the slice
        (compiled.TRITON, 80 + 40 + 16 + 4),
        (compiled.COPIES, 16 + 16),
    ]


PAGE = " ".join((ROOT / "docs/accelerator.md").read_text().split())


def test_the_page_says_what_was_compiled():
    told = json.loads((ROOT / "experiments/results/bench/cuda/numbers.json").read_text())["precisions"]
    full, half = (told[name]["together"] for name in ("tf32", "bfloat16"))
    said = (
        f"makes {full['kernels']} kernels of an update of 13 arms, and they read and write {full['GB']:.1f} GB. With "
        f"`--precision bfloat16`, {half['kernels']} kernels read and write {half['GB']:.1f} GB."
    )
    assert said in PAGE


def test_the_page_says_what_was_counted():
    ways, host, random = NUMBERS["ways"], NUMBERS["host"], NUMBERS["random numbers"]
    fewest, most, intensity = ways[FUSED], ways[LIKE_XLA], NUMBERS["FLOP per byte"]

    def both(times):
        return " or ".join(f"{times[name]:.0f} s" for name in DEVICES)

    expected = {name: told["expected"] for name, told in NUMBERS["precisions"].items()}
    halved = NUMBERS["changes"]["activations in bfloat16"]
    ranges, halves = (
        " | ".join(f"{told['seconds'][name]:.0f} to {expected[precision][name]:.0f} s" for name in DEVICES)
        for told, precision in ((fewest, "tf32"), (halved, "bfloat16"))
    )
    for sentence in (
        f"| 100,000 updates of 13 arms | {ranges} |",
        f"| the same with `--precision bfloat16` | {halves} |",
        f"| another seed, already compiled | {ranges} |",
        f"An update of 13 arms moves {fewest['GB']:.1f} GB if everything between two matrix products is one kernel, and "
        f"{most['GB']:.1f} GB as XLA fuses.",
        f"The {NUMBERS['products']} matrix products take {fewest['GFLOP']:.0f} GFLOP, {intensity['products']:.0f} for "
        f"each byte they move, and arithmetic is the limit only above {intensity['H200']:.0f} (H200) or "
        f"{intensity['H100']:.0f} (H100).",
        f"it cannot be much faster than {both(ways[KEPT]['seconds'])}.** The forward pass keeps "
        f"{NUMBERS['kept MB per arm']:.0f} MB per arm",
        f"That alone is {ways[KEPT]['GB']:.1f} GB.",
        f"moves {halved['GB']:.1f} GB instead of {fewest['GB']:.1f}, which takes {both(halved['seconds'])} at nominal",
        f"those of about {most['kernels']} kernels per update would take the host {host['launches'][0]:.0f} to "
        f"{host['launches'][1]:.0f} s",
        f"take {random['once']:.0f} s of a run if they are drawn once for all arms, and "
        f"{random['for each arm']:.0f} s if",
    ):
        assert sentence in PAGE
