"""What XLA makes of the published comparison for a GPU: its kernels, counted from the compiled program.

JAX's plugin for CUDA compiles for a GPU that it is only told about. Nothing is run, and nothing is tried out: XLA
chooses how to compute matrix products by rules, where on a GPU it would time several ways ("autotuning").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from experiments.bench.compiled import KINDS, Kernel, kernels
from experiments.bench.elsewhere import alone
from experiments.bench.optimizers import SIZE, bytes_needed, one_step
from experiments.bench.roofline import DEVICES, counted, in_bfloat16, program
from experiments.bench.traffic import one_update
from experiments.engine.machine import installed, machine
from experiments.engine.placing import AXES, REPLICATED
from experiments.engine.program import MATMULS, Program
from experiments.reports.question import Answer, Question
from experiments.reports.text import markdown
from experiments.tasks.cifar10 import PUBLISHED
from optim import adam, average, ema, schedule_free_adamw

PLUGIN = "jax-cuda13-pjrt"
# An H100 SXM as XLA describes it (`GpuTargetConfigProto`). Sizes in bytes, from NVIDIA's "CUDA C++ Programming Guide",
# table of compute capability 9.0, and its data sheet of the H100.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 device_memory_size: 84978434048 memory_bandwidth: 3352320000000
}
"""

OPTIMIZERS = {
    "Adam": adam(1e-3),
    "EMA of Adam": average(adam(1e-3), ema(0.999)),
    "schedule-free AdamW": schedule_free_adamw(1e-3),
    "schedule-free AdamW, lean": schedule_free_adamw(1e-3, lean=True),
}
ARRAYS = 3  # of `SIZE` parameters


def mesh() -> Mesh:
    """The GPU that is only described, as the devices of a program."""
    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    return Mesh(np.reshape(topology.devices, (1, 1, 1)), AXES)


def compiled(function: Any, arguments: Any, mesh: Mesh) -> list[Kernel]:
    """The kernels of a jitted function, compiled for arguments of the same shapes on the device of `mesh`."""
    placed = NamedSharding(mesh, REPLICATED)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=placed), arguments)
    with jax.set_mesh(mesh):
        return kernels(function.lower(*shapes).compile().as_text())


def updated(program: Program, mesh: Mesh) -> list[Kernel]:
    """One update of all arms."""
    one, arguments = one_update(program)
    with jax.default_matmul_precision(MATMULS[program.plan.precision]):
        return compiled(jax.jit(one, donate_argnums=0), arguments, mesh)


def stepped(optimizer: optax.GradientTransformation, mesh: Mesh) -> list[Kernel]:
    """One update of an optimizer."""
    params = [jax.ShapeDtypeStruct((SIZE,), jnp.float32)] * ARRAYS
    return compiled(one_step(optimizer), (params, jax.eval_shape(optimizer.init, params), params), mesh)


def numbers() -> dict[str, Any]:
    """The numbers of the report: kernels and GB of one update, and what the roofline estimates."""
    jax.config.update("jax_platforms", "cpu")  # then JAX does not look for a GPU, and the plugin need not find CUDA
    comparison, gpu = program(PUBLISHED.model, PUBLISHED.batch_size), mesh()
    estimated = counted(comparison)
    precisions = {"tf32": updated(comparison, gpu), "bfloat16": updated(in_bfloat16(comparison), gpu)}
    steps = {name: stepped(optimizer, gpu) for name, optimizer in OPTIMIZERS.items()}
    return {
        "precisions": {
            name: {
                "kinds": {kind: told([each for each in found if each.kind == kind]) for kind in KINDS},
                "together": told(found),
                "estimated": {key: estimated["precisions"][name][key] for key in ("kernels", "GB")},
                "seconds": {device: estimated["steps"] * total(found) / d.bandwidth for device, d in DEVICES.items()},
            }
            for name, found in precisions.items()
        },
        "estimated products": estimated["products"],
        **{key: estimated[key] for key in ("arms", "steps")},
        "optimizers": {
            name: {
                "kernels per array": len(large := [each for each in part if each.bytes > SIZE]) / ARRAYS,
                "kernels of scalars": len(part) - len(large),
                "bytes per parameter": round(total(part) / (ARRAYS * SIZE), 2),
                "needed": bytes_needed(OPTIMIZERS[name]),
            }
            for name, part in steps.items()
        },
    }


def told(found: Sequence[Kernel]) -> dict[str, float]:
    return {"kernels": len(found), "GB": total(found) / 1e9}


def total(found: Sequence[Kernel]) -> int:
    return sum(each.bytes for each in found)


def report(numbers: Mapping[str, Any]) -> str:
    precisions = numbers["precisions"]

    def sizes(*told: Mapping[str, float]) -> list[str]:
        return [text for each in told for text in (str(each["kernels"]), f"{each['GB']:.2f}")]

    rows = {kind: [each["kinds"][kind] for each in precisions.values()] for kind in KINDS}
    kinds = [
        ["", *(f"{what}, {name}" for name in precisions for what in ("kernels", "GB"))],
        *([kind, *sizes(*told)] for kind, told in rows.items() if any(each["kernels"] for each in told)),
        ["together", *sizes(*(each["together"] for each in precisions.values()))],
    ]
    against = [
        ["--precision", "kernels", "GB", "kernels, estimated", "GB, estimated", *(f"{name}, s" for name in DEVICES)],
        *(
            [name, *sizes(each["together"], each["estimated"]), *(f"{s:.0f}" for s in each["seconds"].values())]
            for name, each in precisions.items()
        ),
    ]
    optimizers = [[k, *(f"{each:.4g}" for each in v.values())] for k, v in numbers["optimizers"].items()]
    head = ["", "kernels per array", "kernels of scalars", "bytes per parameter", "needed"]
    return f"""\
This was compiled for an H100 on a machine without a GPU. Nothing was run or timed. Nor was anything tuned: on a GPU,
XLA times several ways to compute each matrix product and takes the fastest ("autotuning"). Here it chooses by rules, so
on a GPU other kernels may compute the products.

## The comparison

The kernels of one update of all {numbers["arms"]} arms, and what they read and write:

{markdown(kinds)}

The [roofline](../roofline/report.md) groups the operations of the program into kernels by a rule: "estimated". Seconds
are those of {numbers["steps"]:,} updates at nominal bandwidth, as compiled:

{markdown(against)}

- The program has {numbers["estimated products"]} matrix products. XLA joins some that have an operand in common.
- A kernel counts all that it reads, and of a slice only the slice. Some of it may be in the cache.

## Optimizers

One update of {ARRAYS} arrays of {SIZE:,} float32 parameters, whose memory is reused. What is needed: to read the
gradient, and to read and write parameters and state once.

{markdown([head, *optimizers])}"""


def measure() -> Answer:
    found = alone(numbers)
    return Answer(report(found), {**found, **machine(), PLUGIN: installed(PLUGIN)})


CUDA = Question("cuda", "What does XLA compile for a GPU?", measure, needs=PLUGIN)
