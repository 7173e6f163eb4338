# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Can I choose the decay after the run?
#
# Yes, if you keep checkpoints of a run with a constant learning rate. A weighted average of the checkpoints acts like a
# decay of the rate: `merge(checkpoints, like=decay)` computes it, and `decay_of(average, steps)` tells you which decay
# an average corresponds to. On a small network, checkpoints merged like a cooldown over 800 of 2,000 updates have a
# validation loss of 0.068. A real cooldown of this length ends at the same loss, and the constant rate at 0.099. For
# longer cooldowns, the real one is better.
#
# ![Validation loss of real cooldowns and of merged checkpoints, by length](pictures/6_averaging_is_decay.png)
#
# To run this notebook, install `pure-schedules[notebooks]`. It takes about a minute on two CPU cores.

# %% tags=["colab"]
import os
import subprocess
import sys

if "google.colab" in sys.modules:  # install the package, and unpack its sources, which have the recorded results
    download = "pip download -q --no-deps --no-binary pure-schedules pure-schedules"
    unpack = "mkdir -p pure-schedules && tar xf pure_schedules-*.tar.gz -C pure-schedules --strip-components=1"
    install = "pip install -q './pure-schedules[notebooks]'"
    subprocess.run(f"{download} && {unpack} && {install}", shell=True, check=True)
    os.chdir("pure-schedules/notebooks")

# %%
import contextlib
import io
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits

from optim import (
    adam,
    average_of,
    decay_of,
    effective_window,
    ema,
    half_life,
    merge,
    polyak,
    power_ema,
    tail,
    weights_of,
)
from optim.__main__ import main
from schedules import cosine, linear, one_minus_sqrt, stack, table, tabulate, wsd

plt.rcParams.update({"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False})
black, grey, blue, sky, green, orange, red, pink = (
    "#000000", "#999999", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7",
)  # fmt: skip

# %% tags=["parameters"]
steps, seeds, cooldowns = 2_000, 10, [40, 100, 200, 400, 800, 1_400, 2_000]

# %% [markdown]
# ## Which decay is an average equivalent to?
#
# Left: how much the parameters after each of 200 updates weigh in the average. Right: the factor by which the average
# multiplies each update. It is the total weight of all parameters from that update on. The dots are the values of the
# equivalent schedules.

# %%
pairs = {  # an average, and the equivalent decay
    "polyak() and linear": (polyak(), linear(1.0, 0.0, 200), orange, "--"),
    "tail(150) and wsd": (tail(150), wsd(1.0, 0, 150, 50), red, "-"),
    "ema(0.97) and an exponential cooldown": (
        ema(0.97), lambda t: (1 - 0.97 ** (200.0 - t)) / (1 - 0.97**200), green, "-."
    ),
    "power_ema(6.94) and a power": (power_ema(6.94), 1.0 - linear(0.0, 1.0, 200) ** 7.94, blue, ":"),
}  # fmt: skip
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8))
for name, (average, decay, colour, dash) in pairs.items():
    found, some = decay_of(average, 200), np.arange(0, 200, 8)
    axes[0].plot(np.arange(1, 201), weights_of(average, 200)[1:], color=colour, linestyle=dash, linewidth=2)
    axes[1].plot(found, color=colour, linestyle=dash, linewidth=2, label=name)
    with jax.enable_x64(True):
        expected = np.asarray(tabulate(decay, 200))
    axes[1].plot(some, expected[some], "o", color=colour, markersize=3.5)
    print(f"{name:38} differ by {np.abs(found - expected).max():.0e}")
axes[0].set(xlabel="parameters after update", ylabel="weight in the average")
axes[1].set(xlabel="update", ylabel="multiplied by", ylim=(0, 1.45), yticks=[0, 0.25, 0.5, 0.75, 1])
axes[1].legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# **For the same sequence of updates, each average gives exactly the parameters that one decay would give.**
# The reverse also holds: `average_of` returns the weights of the average that is equivalent to a decay.

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.4))
lines = ((linear, orange, "--"), (cosine, black, "-"), (one_minus_sqrt, blue, "-."))
for shape, colour, dash in lines:
    weights = average_of(shape(0.1, 0.0, 200), 200)
    ax.plot(weights[1:], color=colour, linestyle=dash, linewidth=2, label=shape.__name__)
    print(f"{shape.__name__:15} effective number of parameters averaged: {1 / np.sum(weights**2):5.1f}")
ax.set(xlabel="parameters after update", ylabel="weight in the average", ylim=(0, 0.03))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Linear decay over 200 updates is equivalent to the plain mean. Cosine decay gives the largest weights to the middle of
# the run. 1 - sqrt decay gives the largest weights to the oldest parameters, up to 0.07 for the first, which is outside
# the picture. The effective number of parameters is how many parameters with equal weights would remove as much noise.
#
# ## How close do merged checkpoints come to a real cooldown?
#
# The data are handwritten digits with noise on every pixel. The network has one hidden layer and trains with Adam at a
# constant rate on batches of 16, with one `vmap` over seeds, and saves a checkpoint every 20 updates. For comparison,
# real cooldowns branch off from the same run. All runs of a seed see the same batches.

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
valid_images, valid_labels, train_images, train_labels = images[:360], labels[:360], images[360:], labels[360:]
rate = 0.02


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(first, (64, 32)) / 8, "bias": jnp.zeros(32)},
        "head": {"kernel": jax.random.normal(second, (32, 10)) / 32**0.5, "bias": jnp.zeros(10)},
    }


def loss(params, images, labels):
    hidden = jnp.tanh(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.jit
@jax.vmap
def valid(params):
    return loss(params, valid_images, valid_labels)


def train(lr, key):
    """The parameters at the start and after every 20 updates."""
    optimizer, start = adam(lr), init(key)

    def update(carry, step):
        params, opt_state = carry
        chosen, noise = jax.random.split(jax.random.fold_in(key, step))
        batch = jax.random.randint(chosen, (16,), 0, len(train_labels))
        seen = train_images[batch] + 0.3 * jax.random.normal(noise, (16, 64))
        updates, opt_state = optimizer.update(jax.grad(loss)(params, seen, train_labels[batch]), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def twenty(carry, some):
        carry, _ = jax.lax.scan(update, carry, some)
        return carry, carry[0]

    _, points = jax.lax.scan(twenty, (start, optimizer.init(start)), jnp.arange(steps).reshape(-1, 20))
    return jax.tree.map(lambda first, later: jnp.concatenate([first[None], later]), start, points)


decays = [wsd(rate, 0, steps - down, down) for down in cooldowns]
rates = stack([table(tabulate(lr, steps)) for lr in (*decays, wsd(rate, 0, steps, 0))])
keys = jax.random.split(jax.random.key(1), seeds)
runs = jax.jit(jax.vmap(jax.vmap(train, (None, 0)), (0, None)))(rates, keys)  # (schedules, seeds, checkpoints, ...)
constant = jax.tree.map(lambda leaf: np.asarray(leaf[-1]), runs)
checkpoints = {20 * i: jax.tree.map(lambda leaf, i=i: leaf[:, i], constant) for i in range(steps // 20 + 1)}

# %% tags=["finding"]


def over_seeds(losses):
    losses = np.asarray(losses)
    return losses.mean(axis=-1), losses.std(axis=-1, ddof=1) / seeds**0.5


def ends(tree, i):
    return jax.tree.map(lambda leaf: leaf[i, :, -1], tree)


decayed = [valid(ends(runs, i)) for i in range(len(cooldowns))]
merged = [valid(merge(checkpoints, like=lr)) for lr in decays]
undecayed = valid(ends(runs, -1))
fig, ax = plt.subplots(figsize=(8.5, 4))
ax.axhline(undecayed.mean(), color=grey, linestyle=":", linewidth=2)
ax.text(cooldowns[0], undecayed.mean() - 0.0015, "constant rate, no average", color="#595959")
for label, losses, colour, marker in (
    ("real cooldown", decayed, blue, "o"),
    ("merged checkpoints", merged, red, "s"),
):
    mean, error = over_seeds(losses)
    ax.errorbar(cooldowns, mean, error, color=colour, marker=marker, capsize=3)
    ax.annotate(label, (cooldowns[-1], mean[-1]), (10, 0), textcoords="offset points", color=colour, va="center")
ax.set(xscale="log", xlabel="length of the cooldown in updates", ylabel="validation loss at the end")
ax.set_xticks(cooldowns, [f"{n:,}" for n in cooldowns])
ax.minorticks_off()
plt.show()

print(f"constant rate {undecayed.mean():.3f}")
for down, a, b in zip(cooldowns, decayed, merged, strict=True):
    print(f"cooldown of {down:5,}: real {a.mean():.3f}, merged {b.mean():.3f}, merged minus real", end=" ")
    print("{:+.3f} ± {:.3f}".format(*over_seeds(b - a)))

# %% [markdown]
# **A cooldown over 800 of the 2,000 updates ends at 0.068, real or merged; over the whole run, merged is 0.011 worse.**
# Up to 800 updates, merging is not measurably worse. Beyond that, the average contains parameters from early in the
# run, when the network was still far from its final state. All merged points come from one run per seed; each real
# cooldown needs its own.
#
# ## How many checkpoints do I need?
#
# Here we repeat the merge for a cooldown over a fifth of the run, with fewer checkpoints. Each checkpoint then stands
# for all updates since the checkpoint before it.

# %%
down = steps // 5
like = wsd(rate, 0, steps - down, down)
counts = [n for n in (1, 2, 5, 10, 20) if down % n == 0 and down // n % 20 == 0]
found = [valid(merge({at: checkpoints[at] for at in range(0, steps + 1, down // n)}, like=like)) for n in counts]
fig, ax = plt.subplots(figsize=(6.5, 3.4))
ax.axhline(undecayed.mean(), color=grey, linestyle=":", linewidth=2)
ax.text(counts[-1], undecayed.mean() - 0.002, "constant rate, no average", color="#595959", ha="right")
ax.errorbar(counts, *over_seeds(found), color=red, marker="s", linestyle="--", capsize=3)
ax.set(xscale="log", xlabel="checkpoints in the cooldown", ylabel="validation loss at the end")
ax.set_xticks(counts, counts)
ax.minorticks_off()
plt.show()
for n, losses in zip(counts, found, strict=True):
    print(f"{n:2} checkpoints: " + "{:.3f} ± {:.3f}".format(*over_seeds(losses)))

# %% [markdown]
# **Ten merged checkpoints have a loss of 0.070, twenty a loss of 0.069, and the constant rate ends at 0.099.** With one
# checkpoint in the cooldown, the average is the mean of the parameters at both ends of the cooldown.
#
# ## How do I merge checkpoints from disk?
#
# Pass `merge` a folder written by Orbax's `CheckpointManager`. It reads one checkpoint at a time, and only those whose
# weight is not 0. `python -m optim merge` does the same from the command line. Without `--out` it only prints the
# weights.

# %%
with tempfile.TemporaryDirectory() as folder:
    with ocp.CheckpointManager(folder) as manager:
        for updates in range(0, steps + 1, down // counts[-1] * 2):
            manager.save(updates, args=ocp.args.StandardSave({"params": checkpoints[updates]}))
    from_disk = merge(folder, like=like, subtree="params")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["merge", folder, "--like", repr(like)])
print(printed.getvalue())
print(f"merged from disk: {valid(from_disk).mean():.3f}")

# %% [markdown]
# ## How long is the window of an average?
#
# Two numbers describe it. The half-life is the number of latest parameters that together have half of the weight. The
# effective window is the number of parameters that, with equal weights, would remove as much independent noise.

# %%
several = {"polyak()": polyak(), "tail(1600)": tail(1_600), "ema(0.99)": ema(0.99), "power_ema(6.94)": power_ema(6.94)}
for name, average in several.items():
    half, window = half_life(average, 2_000), effective_window(average, 2_000)
    print(f"{name:16} half-life {half:6.1f}, effective window {window:6.1f}")

# %% [markdown]
# [Averaging is decay](../docs/averaging-is-decay.md) lists these pairs in a table and has the results of a larger
# comparison with ten seeds.
