"""Settings of the whole suite: strict where JAX can be strict, and eight virtual devices."""

import gc
import os

os.environ.setdefault("MPLBACKEND", "agg")
import chex
import jax
import pytest

# A program is compiled in one piece, since the processes of the suite share the cores. JAX 0.10 can still compile with
# XLA's older emitters, which takes half the time; later versions have no such flag, and abort at one they do not know.
flags = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


def pytest_collection_finish():
    """Imports and compiled programs stay alive: frequent collections take time and find nothing."""
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(autouse=True)
def traces_of_this_test_only():
    """`chex.assert_max_traces` knows a function by its source, and counts on from test to test."""
    chex.clear_trace_counter()


@pytest.fixture
def strict():
    """No implicit promotion of dtypes, no implicit broadcasting of ranks. Optax itself does not pass under it."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compiled(caplog):
    """Says which programs were compiled since it was last asked."""

    def since():
        said = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [message for message in said if message.startswith("Compiling ")]

    with jax.log_compiles():
        yield since


@pytest.fixture(scope="module")
def quick_compilation():
    """For programs that take longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are drawn and not written to files: rendering takes longer than all else in a report."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
