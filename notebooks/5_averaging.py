# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Should I evaluate an average of the parameters?
#
# Often, yes. At a constant learning rate the parameters of a small network end at a validation loss of 0.120. An
# average of the parameters of the same run ends at 0.076, without any decay. `average(optimizer, c)` keeps such an
# average next to any optimizer and does not change training. Schedule-free optimizers go further and take gradients
# near the average. In both cases
# **the parameters you train are not the ones to evaluate, save and deploy: use `eval_params` to get those.**
#
# ![Validation loss during training: averages of the parameters are below the parameters](pictures/5_averaging.png)
#
# To run this notebook, install `pure-schedules[notebooks]`. It takes about two minutes on two CPU cores.

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
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen
from sklearn.datasets import load_digits

from optim import (
    Snapshot,
    adam,
    average,
    ema,
    ema_half_life,
    ema_relative,
    eval_params,
    exponent_of_width,
    polyak,
    post_hoc_ema,
    power_ema,
    refresh_batch_stats,
    relative_width,
    require_eval_params,
    schedule_free,
    schedule_free_adamw,
    sgd,
    tail,
    weights_of,
)
from schedules import cosine, linear, tabulate

plt.rcParams.update({"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False})
black, grey, blue, sky, green, orange, red, pink = (
    "#000000", "#999999", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7",
)  # fmt: skip

# %% tags=["parameters"]
steps, seeds, updates = 2_000, 5, 10_000  # `updates` is for the noisy quadratic

# %% [markdown]
# ## What does a coefficient average?
#
# After each update, the average x moves towards the new parameters z: x ← (1 − c) x + c z. The coefficient c is a
# schedule. The parameters after update k enter with the weight c(k), and every later update multiplies that weight by
# 1 − c.

# %%
kinds = {  # coefficient, colour, line style
    "polyak()": (polyak(), orange, "--"),
    "tail(150)": (tail(150), red, "-"),
    "ema(0.97)": (ema(0.97), green, "-."),
    "ema_relative(0.1)": (ema_relative(0.1), blue, ":"),
    "power_ema(6.94)": (power_ema(6.94), black, "-"),
}
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4))
for name, (coefficient, colour, dash) in kinds.items():
    w = weights_of(coefficient, 200)[1:]  # one weight for the parameters after each update
    np.testing.assert_allclose(w.sum(), 1, rtol=1e-5)
    axes[0].plot(tabulate(coefficient, 200), color=colour, linestyle=dash, linewidth=2)
    axes[1].plot(w, color=colour, linestyle=dash, linewidth=2, label=name)
    print(f"{name:18} mean age {np.sum(w * np.arange(199, -1, -1)):5.1f} updates")
axes[0].set(yscale="log", xlabel="update t", ylabel="c(t)")
axes[1].set(xlabel="update k", ylabel="weight after 200 updates")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# **Averages differ in how old their parameters are: after 200 updates, the mean age is between 22 and 100 updates.**
# For `polyak`, `ema_relative` and `power_ema` the age grows with the run. For `ema` it stays the same. The weights of
# each average add up to 1.
#
# ## How much noise does averaging remove?
#
# Take f(z) = z² / 2, where the gradient is z plus noise of variance 1. Here the theory is exact. At a constant rate γ
# the parameters keep a variance of γ / (2 − γ). The mean of the parameters after t updates has a variance of 1 / t for
# every γ, plus an error from the starting point, which fades. The code trains a thousand such problems at once, as one
# vector:

# %%
rate, start = 0.1, 10.0
averages = {"polyak": polyak(), "tail": tail(updates // 2), "ema": ema(0.99)}


@functools.partial(jax.jit, static_argnums=0)
def quadratic(optimizer):
    def update(carry, key):
        z, opt_state = carry
        steps, opt_state = optimizer.update(z + jax.random.normal(key, z.shape), opt_state, z)
        z = z + steps
        found = {name: eval_params(opt_state, z, name) for name in averages} if optimizer is averaged else {}
        return (z, opt_state), {name: jnp.mean(x**2) for name, x in {"no average": z, **found}.items()}

    z = jnp.full(1_000, start)
    return jax.lax.scan(update, (z, optimizer.init(z)), jax.random.split(jax.random.key(0), updates))[1]


averaged = average(sgd(rate), averages)
errors = quadratic(averaged) | {"linear decay": quadratic(sgd(linear(rate, 0.0, updates)))["no average"]}

c, stay = 0.01, 1 - rate
variance = rate / (2 - rate)


def theory_polyak(t):
    return 1 / t + (start * stay / rate / t) ** 2


theory = {
    "no average": variance,
    "polyak": theory_polyak(updates),
    "tail": 2 / updates,
    "ema": variance * c / (2 - c) * (1 + (1 - c) * stay) / (1 - (1 - c) * stay),
}
fig, ax = plt.subplots(figsize=(8, 4))
t = np.arange(1, updates + 1)
for name, colour, width, dash in (
    ("no average", grey, 1, "-"), ("linear decay", black, 1.5, ":"), ("tail", red, 1.5, "-"), ("ema", green, 2, "-."),
    ("polyak", orange, 5, "-"),
):  # fmt: skip
    ax.plot(t, errors[name], color=colour, linewidth=width, linestyle=dash, label=name)
    print(f"{name:12} {errors[name][-1]:.1e}" + (f", in theory {theory[name]:.1e}" if name in theory else ""))
late = t[50:]
ax.plot(late, theory_polyak(late), color=blue, label="polyak, in theory")
ax.plot(late, 1 / late, "--", color=blue, label="1 / t")
ax.set(xscale="log", yscale="log", xlabel="update", ylabel="mean square distance from the minimum")
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# **Once the effect of the start is gone, the error of the mean (`polyak`) falls as 1 / t and ends below linear decay.**
# For the first 400 updates or so it is worse than no average. An EMA forgets the start sooner, but then stops
# improving. `tail` is a Polyak average that begins later, here at the middle of the run.
#
# ## Does averaging help a neural network?
#
# The data are handwritten digits with noise on every pixel. The network has one hidden layer and trains with Adam at a
# constant rate on batches of 16. `average` can keep several averages at once, each under a name. All seeds run in one
# `vmap`. (`lawa(base, last, every)` is another option: it stores the latest few parameters and averages them.)

# %%
images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
valid_images, valid_labels, train_images, train_labels = images[:360], labels[:360], images[360:], labels[360:]


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


def valid(params):
    return loss(params, valid_images, valid_labels)


def draw(key):
    """All batches of a run."""
    chosen, noise = jax.random.split(key)
    batch = jax.random.randint(chosen, (steps, 16), 0, len(train_labels))
    return train_images[batch] + 0.3 * jax.random.normal(noise, (steps, 16, 64)), train_labels[batch]


def train(optimizer, params, batches, measure):
    """Returns the final (params, opt_state), and the results of 50 calls of `measure` during the run."""

    def update(carry, batch):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(params, *batch), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def fiftieth(carry, batches):
        carry, _ = jax.lax.scan(update, carry, batches)
        return carry, measure(*carry)

    fiftieths = jax.tree.map(lambda leaf: leaf.reshape(50, -1, *leaf.shape[1:]), batches)
    return jax.lax.scan(fiftieth, (params, optimizer.init(params)), fiftieths)


keys = jax.random.split(jax.random.key(1), seeds)
initial, batches = jax.jit(jax.vmap(lambda key: (init(key), draw(key))))(keys)
at = np.arange(1, 51) * steps // 50  # the updates after which a run is measured

# %% tags=["finding"]
narrow, wide = exponent_of_width(0.05), exponent_of_width(0.10)
named = {
    "polyak": polyak(),
    "tail": tail(steps // 2),
    "ema(0.9)": ema(0.9),
    "half-life": ema_half_life(steps / 20),
    "narrow": power_ema(narrow),
    "wide": power_ema(wide),
    "wider": power_ema(3.0),
}


def measure_named(params, opt_state):
    averages = {name: eval_params(opt_state, params, name) for name in named}
    return {name: valid(x) for name, x in {"no average": params, **averages}.items()}, averages


@jax.jit
@jax.vmap
def train_named(params, batches):
    return train(average(adam(0.03), named), params, batches, measure_named)


_, (losses, snapshots) = train_named(initial, batches)


def over_seeds(values):
    """The mean over the first axis, and its standard error."""
    return np.mean(values, 0), np.std(values, 0, ddof=1) / len(values) ** 0.5


def summary(values):
    return "{:.3f} ± {:.3f}".format(*over_seeds(values))


def band(ax, curves, colour, dash, label=None):
    mean, error = over_seeds(curves)
    ax.plot(at, mean, color=colour, linestyle=dash, label=label)
    ax.fill_between(at, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)


drawn = {
    "no average": ("no average", "0.45", "-"),
    "ema(0.9)": ("ema(0.9)", blue, "-"),
    "polyak": ("polyak()", "#b87700", "--"),
    "half-life": ("ema_half_life(100)", "#008060", "-."),
    "wide": ("power_ema, width 0.10", black, "-"),
    "tail": ("tail(1000)", red, "--"),
}
fig, ax = plt.subplots(figsize=(8.5, 4.2))
lowest = 0.0  # where the next label may be, so that labels do not overlap
for name in sorted(drawn, key=lambda name: losses[name][:, -1].mean()):
    label, colour, dash = drawn[name]
    band(ax, losses[name], colour, dash)
    lowest = max(losses[name][:, -1].mean(), lowest + 0.013)
    ax.text(1.02 * steps, lowest, label, color=colour, va="center")
    print(f"{label:22} {summary(losses[name][:, -1])}")
ax.set(xlim=(0, steps), ylim=(0.05, 0.35), xlabel="update", ylabel="validation loss")
plt.show()

# Differences are taken seed by seed, since a seed that is hard for one average is hard for all.
print("power_ema minus no average:", summary(losses["wide"][:, -1] - losses["no average"][:, -1]))
less = losses["polyak"] - losses["wide"]
print("polyak minus power_ema:    ", summary(less[:, -1]), f"and above it {int((less.mean(0) > 0).sum())} of 50 times")

# %% [markdown]
# **Yes: the average with `power_ema` ends at 0.076, and the parameters it averages end at 0.120.**
# The Polyak average still contains the first parameters. It is above `power_ema` at all 50 measurements, and ends
# 0.014 ± 0.005 above it. A tail average that begins in the middle of the run ends about as low as `power_ema`. An EMA
# over about ten updates, `ema(0.9)`, gains little.
#
# ## Can I choose the averaging window after the run?
#
# Yes, if you save a few snapshots of two `power_ema` averages during the run. From these, `post_hoc_ema` computes
# averages of other widths, at the end of the run or at an earlier update. The width is the standard deviation of the
# ages of the averaged parameters, as a fraction of the run. For a Polyak average it is 0.29.

# %%
kept = [
    Snapshot(int(at[i]), exponent, jax.tree.map(lambda leaf, i=i: leaf[:, i], snapshots[name]))
    for name, exponent in (("narrow", narrow), ("wide", wide))
    for i in range(4, 50, 5)  # ten snapshots of each
]
valid_of_seeds = jax.jit(jax.vmap(valid))
widths = np.geomspace(0.02, 0.25, 12)

fig, ax = plt.subplots(figsize=(8, 4))
for until, colour, marker in ((steps // 5, sky, "o"), (steps // 2, blue, "s"), (steps, black, "D")):
    averages = [post_hoc_ema(kept, exponent_of_width(width), until) for width in widths]
    mean, error = over_seeds(np.transpose([valid_of_seeds(average) for average in averages]))
    ax.errorbar(widths, mean, error, color=colour, marker=marker, capsize=3, label=f"after {until:,} updates")
    print(f"after {until:5,} updates: {mean.min():.3f} at the width {widths[mean.argmin()]:.2f}, {mean[0]:.3f} at 0.02")
for exponent in (narrow, wide):
    ax.axvline(relative_width(exponent), color=grey, linewidth=1, linestyle="--", zorder=0)
ax.plot(relative_width(3.0), losses["wider"][:, -1].mean(), "x", color=red, markersize=10, markeredgewidth=2,
        label="power_ema(3), computed during the run")  # fmt: skip
ax.set(xscale="log", xlabel="width of the average (dashed lines: the two saved averages)", ylabel="validation loss")
ax.set_xticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
ax.minorticks_off()
ax.legend(framealpha=1, edgecolor="none")
plt.show()

made, tracked = post_hoc_ema(kept, 3.0), jax.tree.map(lambda leaf: leaf[:, -1], snapshots["wider"])
apart = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), made, tracked)
print(f"power_ema(3) made after the run: off by at most {max(jax.tree.leaves(apart)):.1%} of the largest parameter")

# %% [markdown]
# **Yes: in this run a width of 0.13 is best, with a loss of 0.075; a width of 0.02 gives 0.098.**
# Widths from 0.10 to 0.20 are about equally good. An average made after the run differs from one computed during the
# run by at most 0.2 % of the largest parameter of each array.
#
# ## Should I average, decay, or do neither?
#
# Each method trains at four rates; one program runs all rates and seeds of a method. The wide EMA is the `power_ema` of
# width 0.10 from above. If an optimizer keeps no average, `eval_params` returns the parameters themselves, so the same
# code measures all methods.

# %%
rates = jnp.array([0.003, 0.01, 0.03, 0.1])
policies = {
    "constant": lambda rate: adam(rate),
    "Polyak": lambda rate: average(adam(rate), polyak()),
    "wide EMA": lambda rate: average(adam(rate), power_ema(wide)),
    "cosine": lambda rate: adam(cosine(rate, 0.0, steps)),
    "schedule-free": lambda rate: schedule_free(adam(rate, b1=0.0)),
    "schedule-free AdamW": lambda rate: schedule_free_adamw(rate, warmup_steps=steps // 20),
}


def measure(params, opt_state):
    return valid(eval_params(opt_state, params))


@functools.partial(jax.jit, static_argnums=0)
def sweep(policy, rates, initial, batches):
    def run(rate, params, batches):
        return train(policy(rate), params, batches, measure)

    return jax.vmap(jax.vmap(run, (None, 0, 0)), (0, None, None))(rates, initial, batches)


runs = {name: sweep(policy, rates, initial, batches) for name, policy in policies.items()}
curves = {name: np.asarray(losses) for name, (_, losses) in runs.items()}  # (rates, seeds, 50)

# %%
looks = {
    "constant": (grey, "-", "o"), "Polyak": (orange, "--", "s"), "wide EMA": (green, "-.", "^"),
    "cosine": (black, "-", "D"), "schedule-free": (red, "-", "v"), "schedule-free AdamW": (blue, "--", "P"),
}  # fmt: skip
fig, axes = plt.subplots(1, 2, figsize=(12, 4.4))
best = {name: found[:, :, -1].mean(1).argmin() for name, found in curves.items()}
for name, (colour, dash, marker) in looks.items():
    ends = curves[name][:, :, -1]
    axes[0].errorbar(rates, *over_seeds(ends.T), color=colour, linestyle=dash, marker=marker, capsize=3)
    band(axes[1], curves[name][best[name]], colour, dash, f"{name}, rate {rates[best[name]]:g}")
    less = curves[name][best[name]] - curves["cosine"][best["cosine"]]
    below = int((less.mean(0) < 0).sum())
    print(f"{name:20} {summary(ends[best[name]])}, minus cosine {summary(less[:, -1])}, below it {below} of 50 times")
axes[0].set(xscale="log", yscale="log", xlabel="peak rate", ylabel="validation loss at the end")
axes[0].set_xticks(rates, [f"{rate:g}" for rate in rates])
axes[0].set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
axes[0].minorticks_off()
axes[1].set(xlabel="update", ylim=(0.05, 0.3), ylabel="validation loss", title="each at its best rate")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# **On this problem both schedule-free optimizers end below cosine decay, by 0.013 ± 0.004.**
# They are below it at 49 and 48 of the 50 measurements. The Polyak average ends 0.008 ± 0.001 above cosine decay. With
# five seeds, the wide EMA and the constant rate cannot be distinguished from cosine decay. The best of the four rates
# was chosen on the same seeds, so do not read much into differences of one or two standard errors.
#
# ## Which parameters should I evaluate and save?
#
# Evaluate and deploy the parameters from `eval_params`. Call `require_eval_params` where you save or validate: it
# raises an error if it gets the training parameters.

# %%
print("validation loss     params           eval_params      difference")
for name in ("Polyak", "wide EMA", "schedule-free", "schedule-free AdamW"):
    params, opt_state = jax.tree.map(lambda leaf, name=name: leaf[best[name]], runs[name][0])  # at its best rate
    averaged = eval_params(opt_state, params)
    of_params, of_average = valid_of_seeds(params), valid_of_seeds(averaged)
    print(f"{name:19} {summary(of_params)}    {summary(of_average)}    {summary(of_params - of_average)}")

checkpoint = {"params": params, "opt_state": opt_state}  # to resume training
deployed = require_eval_params(opt_state, averaged)  # to deploy
try:
    require_eval_params(opt_state, params)
except ValueError as error:
    print(error)

# %% [markdown]
# **With the Polyak average, `params` are much worse than `eval_params`: 0.130 instead of 0.086.**
# With schedule-free training both are about equally good, because nine tenths of its training parameters come from the
# average. So the loss does not show whether you evaluated the wrong ones. To resume training, save `params` and
# `opt_state`, as in [training code](3_training_code.ipynb). To deploy, save only `eval_params`.
#
# ## What about batch norm?
#
# The running mean and variance belong to the training parameters. With the averaged parameters the activations vary
# less, so the statistics must be computed again. `refresh_batch_stats` does that: it runs some training batches through
# the network and changes only the statistics.


# %%
class Normed(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = linen.relu(linen.BatchNorm(use_running_average=not train)(linen.Dense(32)(x)))
        return linen.Dense(10)(x)


net, optimizer = Normed(), average(adam(0.03), {"Polyak": polyak(), "wide EMA": power_ema(wide)})


def forward(variables, images):
    return net.apply(variables, images, train=True, mutable=["batch_stats"])


@jax.jit
@jax.vmap
def train_normed(key, batches):
    def update(carry, batch):
        variables, opt_state = carry
        images, labels = batch

        def loss(params):
            logits, updated = forward({**variables, "params": params}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state, variables["params"])
        return ({**updated, "params": optax.apply_updates(variables["params"], updates)}, opt_state), None

    variables = net.init(key, train_images, train=False)
    return jax.lax.scan(update, (variables, optimizer.init(variables["params"])), batches)[0]


live, opt_state = train_normed(keys, batches)
stale = {name: {**live, "params": eval_params(opt_state, live["params"], name)} for name in ("Polyak", "wide EMA")}

# %%
some = list(batches[0][0, : 4 * 32].reshape(32, 64, 64))  # 32 batches of 64 from the training data


@jax.jit
def valid_normed(variables):
    logits = net.apply(variables, valid_images, train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, valid_labels).mean()


def each(variables):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], variables) for i in range(seeds)]


def variances(variables):
    return np.concatenate([layer["var"] for layer in variables["batch_stats"].values()])


counts = [1, 2, 4, 8, 32]
fig, axes = plt.subplots(1, 2, figsize=(10, 4))
held = np.array([valid_normed(one) for one in each(live)])
axes[1].axhline(held.mean(), color=grey, linestyle=":", label="training parameters")
print(f"{'training parameters':28} {summary(held)}")
for (name, variables), colour, marker in zip(stale.items(), (orange, green), "s^", strict=True):
    refreshed = [[refresh_batch_stats(forward, one, some[:n]) for n in counts] for one in each(variables)]
    before, after = variances(each(variables)[0]), variances(refreshed[0][-1])
    axes[0].plot(before, after, marker, color=colour, markersize=5, label=name)
    forgotten = np.array([valid_normed(one) for one in each(variables)])
    found = np.array([[valid_normed(one) for one in row] for row in refreshed])
    axes[1].axhline(forgotten.mean(), color=colour, linestyle="--", label=f"{name}, old statistics")
    axes[1].errorbar(counts, *over_seeds(found), color=colour, marker=marker, capsize=3, label=f"{name}, refreshed")
    print(f"{name + ', old statistics':28} {summary(forgotten)}")
    print(f"{name + ', refreshed':28} {summary(found[:, -1])}; variances {np.median(after / before):.2f} times the old")
axes[0].axline((10, 10), (100, 100), color=grey)  # equal
axes[0].set(xscale="log", yscale="log", xlabel="old variance of a channel", ylabel="refreshed variance")
axes[0].legend(frameon=False)
axes[1].set(xscale="log", yscale="log", xlabel="batches of 64 for the statistics", ylabel="validation loss")
axes[1].set_xticks(counts, [str(n) for n in counts])
axes[1].set_yticks([0.1, 0.2, 0.5], ["0.1", "0.2", "0.5"])
axes[1].minorticks_off()
axes[1].legend(frameon=False, loc="center right")
plt.show()

# %% [markdown]
# **Refresh the statistics: the Polyak average has a loss of 0.694 with the old ones and 0.097 with refreshed ones.**
# The training parameters have a loss of 0.098. The wide EMA has 0.093 with the old statistics and 0.083 with refreshed
# ones. With the Polyak average the refreshed variances are less than half of the old ones, because the noise of the
# parameters is gone. One batch of 64 is enough here: 32 batches are not much better.
#
# [Optimizers and averages](../docs/optimizers.md) lists every average, with its source and its memory use.
