# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Can I decide on the decay after the run?
#
# An average of a run's checkpoints takes back a part of each update: the more, the later it was made. A decaying rate
# does the same. `decay_of(average, steps)` is the decay that an average is worth; `merge(checkpoints, like=decay)` is
# the average that imitates a decay, of a run that had a constant rate. So one can train once, without a decay, and
# choose its length and shape afterwards. How near that comes to a real decay is measured here.

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
# ## Which decay is an average worth?
#
# Left, what the parameters after each of 200 updates weigh in an average; right, by how much the average multiplies
# each update, which is the weight of all parameters that came after it. The dots are schedules.

# %%
pairs = {  # an average, and the decay that it is worth
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
# **Each average is one decay, to the last digit.** And each decay is one average: `average_of` is the inverse.

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.4))
lines = ((linear, orange, "--"), (cosine, black, "-"), (one_minus_sqrt, blue, "-."))
for shape, colour, dash in lines:
    weights = average_of(shape(0.1, 0.0, 200), 200)
    ax.plot(weights[1:], color=colour, linestyle=dash, linewidth=2, label=shape.__name__)
    print(f"{shape.__name__:15} like {1 / np.sum(weights**2):5.1f} parameters alike")
ax.set(xlabel="parameters after update", ylabel="weight in the average", ylim=(0, 0.03))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Linear decay over 200 updates is the plain mean. Cosine decay prefers the middle; along 1 - sqrt the oldest weigh
# most, up to 0.07 for the first of them, outside of the picture.
#
# ## One run, merged at any length
#
# Digits with noise on every pixel, batches of 16, one hidden layer, Adam at a constant rate, one `vmap` over seeds. A
# checkpoint is kept every twenty updates. Beside it are real cooldowns, which branch off from the same run: all see
# the same batches.

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
    """The parameters before the run, and after every twenty updates."""
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

# %%


def over_seeds(losses):
    losses = np.asarray(losses)
    return losses.mean(axis=-1), losses.std(axis=-1, ddof=1) / seeds**0.5


def ends(tree, i):
    return jax.tree.map(lambda leaf: leaf[i, :, -1], tree)


decayed = [valid(ends(runs, i)) for i in range(len(cooldowns))]
merged = [valid(merge(checkpoints, like=lr)) for lr in decays]
still = valid(ends(runs, -1))
fig, ax = plt.subplots(figsize=(7, 4))
ax.axhline(still.mean(), color=grey, linestyle=":", linewidth=2)
ax.text(cooldowns[-1], still.mean(), "constant rate", color="#595959", ha="right", va="bottom")
ax.errorbar(cooldowns, *over_seeds(decayed), color=blue, marker="o", capsize=3, label="real cooldown")
ax.errorbar(
    cooldowns, *over_seeds(merged), color=red, marker="s", linestyle="--", capsize=3, label="merged checkpoints"
)
ax.set(xscale="log", xlabel="length of the cooldown in updates", ylabel="validation loss at the end")
ax.set_xticks(cooldowns, [f"{n:,}" for n in cooldowns])
ax.minorticks_off()
ax.legend(frameon=False, loc="lower left")
plt.show()

print(f"constant rate {still.mean():.3f}")
for down, a, b in zip(cooldowns, decayed, merged, strict=True):
    print(f"cooldown of {down:5,}: real {a.mean():.3f}, merged {b.mean():.3f}, merged less real", end=" ")
    print("{:+.3f} ± {:.3f}".format(*over_seeds(b - a)))

# %% [markdown]
# **A cooldown over 800 of the 2,000 updates ends at 0.068, real or merged; over all, merged ends 0.011 above real.**
# Up to 800 updates the two cannot be told apart. Beyond, the average holds parameters from a time when the network was
# far from where it ends. All the merged points come from one run, each real one from its own.
#
# ## How many checkpoints does it take?
#
# The same cooldown of a fifth of the run, from fewer of its checkpoints. Each stands for the updates since the one
# before.

# %%
down = steps // 5
like = wsd(rate, 0, steps - down, down)
counts = [n for n in (1, 2, 5, 10, 20) if down % n == 0 and down // n % 20 == 0]
found = [valid(merge({at: checkpoints[at] for at in range(0, steps + 1, down // n)}, like=like)) for n in counts]
fig, ax = plt.subplots(figsize=(6.5, 3.4))
ax.axhline(still.mean(), color=grey, linestyle=":", linewidth=2)
ax.text(counts[-1], still.mean(), "constant rate", color="#595959", ha="right", va="bottom")
ax.errorbar(counts, *over_seeds(found), color=red, marker="s", linestyle="--", capsize=3)
ax.set(xscale="log", xlabel="checkpoints in the cooldown", ylabel="validation loss at the end")
ax.set_xticks(counts, counts)
ax.minorticks_off()
plt.show()
for n, losses in zip(counts, found, strict=True):
    print(f"{n:2} checkpoints: " + "{:.3f} ± {:.3f}".format(*over_seeds(losses)))

# %% [markdown]
# **Ten checkpoints in the cooldown end at 0.070, twenty at 0.069; the constant rate at 0.100.** With one, the
# average is the mean of the parameters at both ends of the cooldown.
#
# ## From a folder, and in a shell
#
# `merge` reads what Orbax's `CheckpointManager` writes, one checkpoint after the other, and only those that weigh. The
# command does the same; without `--out` it only says how much each of them would weigh.

# %%
with tempfile.TemporaryDirectory() as folder:
    with ocp.CheckpointManager(folder) as manager:
        for updates in range(0, steps + 1, down // counts[-1] * 2):
            manager.save(updates, args=ocp.args.StandardSave({"params": checkpoints[updates]}))
    from_disk = merge(folder, like=like, subtree="params")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main(["merge", folder, "--like", repr(like)])
print(said.getvalue())
print(f"merged from disk: {valid(from_disk).mean():.3f}")

# %% [markdown]
# ## How long is an average?
#
# Two numbers say so for every coefficient: how many of the latest parameters hold half of the weight, and how many
# parameters alike would average away as much independent noise.

# %%
several = {"polyak()": polyak(), "tail(1600)": tail(1_600), "ema(0.99)": ema(0.99), "power_ema(6.94)": power_ema(6.94)}
for name, average in several.items():
    age, alike = half_life(average, 2_000), effective_window(average, 2_000)
    print(f"{name:16} half-life {age:6.1f}, effective window {alike:6.1f}")

# %% [markdown]
# [The page about it](../docs/averaging-is-decay.md) has the pairs as a table, and what ten seeds of a larger comparison
# say.
