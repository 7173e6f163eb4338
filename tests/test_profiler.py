"""Which events of a profile are kernels, for the three kinds of devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from experiments.bench.profiler import executed, profiled


def profile(*planes):
    """Of (name, {line: [(event, microseconds from, to)]})."""
    text = []
    for plane, lines in planes:
        names = sorted({name for events in lines.values() for name, _, _ in events})
        text.append(f'planes {{ name: "{plane}"')
        for number, name in enumerate(names):
            text.append(f'event_metadata {{ key: {number} value {{ id: {number} name: "{name}" }} }}')
        for line, events in lines.items():
            text.append(f'lines {{ name: "{line}"')
            for name, begins, ends in events:
                when = f"offset_ps: {begins}000000 duration_ps: {ends - begins}000000"
                text.append(f"events {{ metadata_id: {names.index(name)} {when} }}")
            text.append("}")
        text.append("}")
    return ProfileData.from_text_proto("\n".join(text))


HOST = ("/host:CPU", {"python": [("call", 0, 90)]})
OPERATIONS = [("while.1", 0, 50), ("dot.1", 0, 10), ("fusion.2", 10, 30), ("dot.3", 60, 70)]


def told(profile):
    return [(event.name, event.duration_ns) for event in executed(profile)]


def test_on_a_gpu_all_that_runs_on_its_streams_counts():
    compute = [("nvjet_tst_128x64", 0, 10), ("loop_add_fusion_3", 5, 8), ("loop_add_fusion_4", 10, 20)]
    lines = {"XLA Ops": OPERATIONS, "Stream #13(Compute)": compute, "Stream #14(MemcpyD2H)": [("MemcpyD2H", 3, 4)]}
    assert told(profile(HOST, ("/device:GPU:0", lines), ("/device:GPU:1", {"Stream #9(Compute)": compute[:1]}))) == [
        ("nvjet_tst_128x64", 10_000), ("loop_add_fusion_3", 3_000), ("loop_add_fusion_4", 10_000),
        ("MemcpyD2H", 1_000), ("nvjet_tst_128x64", 10_000),
    ]  # fmt: skip


def test_on_a_tpu_operations_count_and_loops_around_them_do_not():
    lines = {"XLA Modules": [("jit_advance", 0, 80)], "XLA Ops": OPERATIONS}
    expected = [("dot.1", 10_000), ("fusion.2", 20_000), ("dot.3", 10_000)]
    assert told(profile(HOST, ("/device:TPU:0", lines))) == expected


def test_on_a_cpu_the_operations_of_a_call_are_added_up(tmp_path):
    sorted_often = jax.jit(lambda x: jax.lax.fori_loop(0, 7, lambda _, y: jnp.sort(y[::-1], axis=0), x))
    x = jax.random.normal(jax.random.key(0), (512, 512))
    sorted_often(x).block_until_ready()
    once, twice = (
        profiled(lambda calls=calls: [sorted_often(x).block_until_ready() for _ in range(calls)], tmp_path)
        for calls in (1, 2)  # the second profile lies beside the first
    )
    assert {each.name: each.times for each in twice} == {each.name: 2 * each.times for each in once}
    assert once[0].name == "sort"
    assert once[0].times % 7 == 0
    assert once == sorted(once, key=lambda kernels: -kernels.seconds)
    assert not [kernels for kernels in once if "while" in kernels.name]


def test_a_profile_without_kernels_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="^the profiler saw no kernel$"):
        profiled(lambda: None, tmp_path)
