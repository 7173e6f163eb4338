# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Which learning rate should I use?
#
# Start from a range test. Then try a few peak rates with the schedule you will train with, because the best peak
# depends on the schedule. On a small network, the best peak of cosine decay is 1.98 times the best constant rate, and
# the best peak of one-cycle is 1.88 times that rate. A range test takes one short run and suggests 0.0058, which is 0.6
# times the best constant rate.
#
# ![Validation loss by peak rate for a constant rate, cosine decay and one-cycle](pictures/4_finding_a_rate.png)
#
# This notebook runs range tests, compares 22 peak rates for three schedules in one compiled program, and tests
# one-cycle and super-convergence. The network trains on the 8x8 digits of scikit-learn: 1,000 images to train, 797 to
# validate, batches of 16. To use your own model, replace `start` and `loss`.
#
# This notebook reads `experiments/results`, so run it in a checkout or in the unpacked source distribution, after
# installing the extra `notebooks`. It takes about three minutes on two CPU cores.

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
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from cycler import cycler
from scipy.stats import sem
from sklearn.datasets import load_digits

sys.path.insert(0, "..")  # for `experiments`, which is not installed

from experiments.reports.results import Results
from optim import adam, plot_range_test, range_test, sgd, suggest_rate
from schedules import (
    constant,
    cosine,
    join,
    multistep,
    one_cycle,
    one_cycle_momentum,
    plot,
    stack,
    table,
    tabulate,
)
from schedules.drawing import COLOURS, STYLES

STYLE = cycler(color=COLOURS) + cycler(linestyle=STYLES)  # a colour and a dash for each curve

# %% tags=["parameters"]
steps, seeds = 800, 16

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
images, labels = jnp.asarray(pixels[order] / 16), jnp.asarray(labels[order])
validation = jnp.arange(1_000, len(labels))


def start(seed):
    """The initial parameters of a run, and the random key of its batches."""
    first, second, batches = jax.random.split(jax.random.key(seed), 3)
    params = {"hidden": jax.random.normal(first, (64, 64)) / 8, "out": jax.random.normal(second, (64, 10)) / 8}
    return params, batches


def loss(params, batch):
    logits = jax.nn.relu(images[batch] @ params["hidden"]) @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()


def train(optimizer, seed):
    """The validation loss at the end. Batches depend on seed and step only, so every optimizer gets the same."""
    params, batches = start(seed)

    def update(run, step):
        params, state = run
        batch = jax.random.randint(jax.random.fold_in(batches, step), (16,), 0, 1_000)
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), jnp.arange(steps))
    return loss(params, validation)


# %% [markdown]
# ## Which rate does a range test suggest?
#
# The test makes 200 updates while the rate of Adam grows from 1e-5 to 10. Here it runs once per seed, all in one
# program. `suggest_rate` reads a rate off the loss curve.


# %%
def test(seed):
    params, batches = start(seed)
    return range_test(loss, params, jax.random.randint(batches, (200, 16), 0, 1_000), adam, start=1e-5)


found = jax.vmap(test)(jnp.arange(seeds))
plot_range_test(found)
for picker in ("valley", "steep", "minimum"):
    rates = suggest_rate(found, picker)
    print(f"{picker:>8}: median {np.median(rates):.4f}, from {rates.min():.4f} to {rates.max():.4f} over {seeds} seeds")

# %% [markdown]
# **The default method, `valley`, suggests 0.0058 (median over seeds); `steep` and `minimum` suggest three times that.**
# All of these are first guesses, read off the same curve. A fourth method, `slide`, is not shown: here it suggests a
# rate that is too high to be useful.
#
# ## Does the best rate depend on the schedule?
#
# To train all rates, schedules and seeds in one program, `tabulate` turns each schedule into a row of numbers, `table`
# turns a row back into a schedule, and `stack` combines many of these into one. `jax.vmap` then maps `train` over the
# stacked schedule and the seeds.

# %%
up, down = round(0.3 * steps), round(0.7 * steps)
shapes = {
    "constant": constant,
    "cosine": lambda peak: cosine(peak, 0.0, steps),
    "one-cycle": lambda peak: one_cycle(peak, up, down),
}
peaks = np.logspace(-3, -0.375, 22)
traces = []


def rows(schedules):
    return stack([table(tabulate(schedule, steps)) for schedule in schedules])


@jax.jit
def final_losses(rates):
    traces.append("a trace")  # runs only when JAX traces the function
    over_seeds = jax.vmap(lambda lr, seed: train(adam(lr), seed), (None, 0))
    return jax.vmap(over_seeds, (0, None))(rates, jnp.arange(seeds))


final = {name: np.empty((len(peaks), seeds)) for name in shapes}
for half in (slice(0, None, 2), slice(1, None, 2)):  # every second peak, then the others
    losses = final_losses(rows(shape(peak) for shape in shapes.values() for peak in peaks[half]))
    for name, of_shape in zip(shapes, jnp.split(losses, len(shapes)), strict=True):
        final[name][half] = of_shape
print(f"{len(shapes) * len(peaks) * seeds} runs of {steps} updates, traces: {len(traces)}")

# %% tags=["finding"]
_, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
for losses, style in zip(final.values(), STYLE, strict=False):
    ax.errorbar(peaks, losses.mean(1), sem(losses, 1), marker="o", markersize=4, **style)
label = {"xycoords": "data", "fontsize": 11}
ax.annotate("constant", (0.05, 0.33), color=COLOURS[0], ha="right", **label)
ax.annotate("cosine", (0.108, 0.24), color=COLOURS[1], ha="right", **label)
ax.annotate("one-cycle", (0.19, 0.45), color=COLOURS[2], **label)
for picker, dash in {"valley": "-", "steep": ":"}.items():
    suggested = np.median(suggest_rate(found, picker))
    ax.axvline(suggested, color="0.5", linestyle=dash, linewidth=1)
    ax.text(suggested, 2.6, f"range test,\n{picker} ", color="0.4", ha="right", va="top")
ax.set(xscale="log", yscale="log", xlabel="peak rate", ylabel=f"validation loss after {steps} updates")
ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2], [0.05, 0.1, 0.2, 0.5, 1, 2])
ax.spines[["top", "right"]].set_visible(False)

best = {name: peaks[losses.argmin(axis=0)] for name, losses in final.items()}  # for each seed
larger = Results.load(Path("../experiments/results/digits-policies/sweep/history.npz"))
for name, losses in final.items():
    lowest = losses.mean(1).argmin()
    factor = np.log(best[name] / best["constant"])
    low, mid, high = np.exp(factor.mean() + sem(factor) * np.array([-1, 0, 1]))
    print(f"{name}: lowest {losses[lowest].mean():.3f} ± {sem(losses[lowest]):.3f} at {peaks[lowest]:.3f}")
    print(f"    best rate of a seed, relative to constant: {mid:.2f} ({low:.2f} to {high:.2f})")
    of_transformer = larger.arms[larger.best(larger.grid()[name])].rate
    print(f"    best rate of a vision transformer in the recorded sweep: {of_transformer:.3f}")

# %% [markdown]
# **Schedules that decay need a higher peak: 1.98 times the best constant rate for cosine, 1.88 times for one-cycle.**
# The range test does not know the schedule: here `valley` suggests 0.6 times the best constant rate, and `steep`
# suggests 0.6 times the best peak for cosine. In a recorded sweep with a vision transformer, the rates are a factor of
# 2 apart. There the constant rate and cosine decay are best at the same rate, and one-cycle is best at twice that rate.
#
# **1,056 runs (three schedules, 22 rates, 16 seeds) in two calls needed only one trace.**
#
# ## Does cycling the momentum help in one-cycle?
#
# One-cycle lowers the momentum while the rate rises, and raises it again while the rate falls. `sgd` takes one schedule
# for the rate and one for the momentum. We train three methods in one program, each at nine rates and five lengths:
# one-cycle, one-cycle with a constant momentum, and step decay (for the next question). After the end of a shorter run
# the rate is 0, so its parameters do not change any more.


# %%
def one_cycle_policy(peak, length):
    up = round(0.3 * length)
    return one_cycle(peak, up, length - up), one_cycle_momentum(up, length - up)


policies = {
    "one-cycle": one_cycle_policy,
    "one-cycle, momentum 0.9": lambda peak, length: (one_cycle_policy(peak, length)[0], 0.9),
    "step decay": lambda peak, length: (multistep(peak, [length // 2, length * 3 // 4], factor=0.1), 0.9),
}
lengths = np.array([steps // 16, steps // 8, steps // 4, steps // 2, steps])
sgd_peaks = np.logspace(-2, 0, 9)


@jax.jit
def final_losses_of_sgd(rates, momenta):
    over_seeds = jax.vmap(lambda lr, momentum, seed: train(sgd(lr, momentum), seed), (None, None, 0))
    return jax.vmap(over_seeds, (0, 0, None))(rates, momenta, jnp.arange(seeds))


runs = [(*policy(peak, n), n) for policy in policies.values() for n in lengths for peak in sgd_peaks]
rates, momenta = rows(join([lr, 0.0], [n]) for lr, _, n in runs), rows(momentum for _, momentum, _ in runs)
by_sgd = final_losses_of_sgd(rates, momenta).reshape(len(policies), len(lengths), len(sgd_peaks), seeds)
by_sgd = dict(zip(policies, np.nan_to_num(by_sgd, nan=np.inf), strict=True))

# %%
lr, momentum = one_cycle_policy(0.2, steps)
cycled, fixed = by_sgd["one-cycle"][-1], by_sgd["one-cycle, momentum 0.9"][-1]  # the longest runs

_, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
plot(lr, steps, axes[0]).set(ylabel="rate")
plot(momentum, steps, axes[1]).set(ylabel="momentum")
for (label, losses), style in zip({"cycled": cycled, "0.9": fixed}.items(), STYLE, strict=False):
    axes[2].errorbar(sgd_peaks, losses.mean(1), sem(losses, 1), marker="o", markersize=4, **style)
    lowest = losses.mean(1).argmin()
    print(
        f"momentum {label}: lowest {losses[lowest].mean():.4f} ± {sem(losses[lowest]):.4f} at {sgd_peaks[lowest]:.2f}"
    )
axes[2].set(xscale="log", yscale="log", xlabel="peak rate", ylabel="validation loss")
axes[2].set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2], [0.05, 0.1, 0.2, 0.5, 1, 2])
axes[2].spines[["top", "right"]].set_visible(False)
axes[2].annotate("momentum\n0.9", (0.28, 0.9), color=COLOURS[1], ha="right")
axes[2].annotate("cycled", (0.4, 0.16), color=COLOURS[0])
axes[2].set_xlim(right=1.6)

difference = cycled[cycled.mean(1).argmin()] - fixed[fixed.mean(1).argmin()]
print(f"cycled minus 0.9, each at its best rate, seed by seed: {difference.mean():+.4f} ± {sem(difference):.4f}")

# %% [markdown]
# **Cycling the momentum lowers the loss only a little, by 0.0044 ± 0.0021, and allows a higher rate.**
# Compared with a constant momentum of 0.9, the loss is higher at low rates and much lower at high rates. A momentum of
# m multiplies the effective rate by about 1 / (1 - m): by 6.7 at the peak of the cycle, and by 10 with a momentum of
# 0.9. So the two curves may be the same curve, shifted along the axis of the rate.
#
# ## Does one-cycle reach the loss of step decay in fewer updates?
#
# To reach the same loss in far fewer updates is called super-convergence. Each method and length uses the best of its
# nine rates, which is chosen on the first half of the seeds and scored on the second half. The right panel shows
# recorded runs of a vision transformer on the same digits. They use one-cycle with three phases, and their rates come
# from a sweep with other seeds.

# %%
half = seeds // 2


def scored(losses):
    """The losses, of shape (rates, seeds), of the second half of the seeds, at the best rate of the first half."""
    return losses[losses[:, :half].mean(1).argmin(), half:]


cycles, stepped = (np.array([scored(losses) for losses in by_sgd[name]]) for name in ("one-cycle", "step decay"))
larger = Results.load(Path("../experiments/results/digits-policies/best/history.npz"))
roles = {arm: trained.fields.get("super-convergence") for arm, trained in larger.arms.items()}
(goal,) = (arm for arm, role in roles.items() if role == "goal")
arms = [arm for arm, role in roles.items() if role == "rival"]

panels = {
    "a small network": {"one-cycle": (lengths, cycles), "step decay": (lengths, stepped)},
    "a vision transformer": {
        "one-cycle": ([larger.end(arm) for arm in arms], np.array([larger.valid_loss(arm) for arm in arms])),
        "step decay": ([larger.end(goal)], larger.valid_loss(goal)[None]),
    },
}
places = {"xytext": (-8, -8), "ha": "right", "va": "top"}, {"xytext": (6, 6)}  # of the labels: below, above
_, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ax, (title, curves) in zip(axes, panels.items(), strict=True):
    for (name, (at, losses)), style, beside in zip(curves.items(), STYLE, places, strict=False):
        ax.errorbar(at, losses.mean(1), sem(losses, 1), marker="o", markersize=4, **style)
        middle = (len(at) - 1) // 2
        ax.annotate(
            name, (at[middle], losses.mean(1)[middle]), color=style["color"], textcoords="offset points", **beside
        )
    goal = curves["step decay"][1][-1]
    ax.axhline(goal.mean(), color="0.6", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="length of the run in updates", ylabel="validation loss at its end")
    ax.minorticks_off()
    ax.set_xticks(curves["one-cycle"][0], curves["one-cycle"][0])
    ax.set_yticks([0.1, 0.2, 0.4, 0.8, 1.6], [0.1, 0.2, 0.4, 0.8, 1.6])
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, loc="left")

    print(f"{title}: loss of one-cycle minus loss of step decay over {curves['step decay'][0][-1]} updates")
    for length, losses in zip(*curves["one-cycle"], strict=True):
        print(f"    over {length:>5}: {(losses - goal).mean():+.4f} ± {sem(losses - goal):.4f}")
print("a small network: one-cycle minus step decay of the same length")
for length, difference in zip(lengths, cycles - stepped, strict=True):
    print(f"    over {length:>5}: {difference.mean():+.4f} ± {sem(difference):.4f}")

# %% [markdown]
# **No: with half the updates, one-cycle ends 0.0112 ± 0.0051 above step decay, with a quarter 0.0429 ± 0.0048 above.**
# For the transformer, one-cycle with half the updates ends 0.031 ± 0.021 above step decay, which does not decide the
# question, and with a quarter 0.250 ± 0.049 above. At these two lengths the best rate of one-cycle was the lowest that
# was tried. Super-convergence was reported for residual networks on CIFAR-10 (arXiv:1708.07120); this notebook does not
# test that.
#
# **With equally many updates, one-cycle ends lower: by 0.0224 ± 0.0034 after 200, and by 0.0081 ± 0.0030 after 800.**
