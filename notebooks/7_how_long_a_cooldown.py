# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. How long should my cooldown be?
#
# The cooldown is the last phase of a run, in which the learning rate falls to 0. If you tune the peak rate, make it
# about 60 % of the run. That length is best in published runs of a language model, and within 1 % of the optimum of a
# convex bound. A cooldown over 40 % of the run has most of the gain.
#
# ![The convex bound and published final losses, by the length of the cooldown](pictures/7_how_long_a_cooldown.png)
#
# This notebook shows five tools that answer such questions before a run, each in seconds: a bound that ranks schedules,
# a loss law fitted to earlier runs, a schedule made from gradient norms, a model problem whose expected loss is
# computed exactly, and `advise`, which combines them. [The results](../experiments/results/README.md) compare each with
# runs of real networks.
#
# This notebook reads published loss curves from `tests/curves`, so run it in a checkout or in the unpacked source
# distribution, after installing the extra `notebooks`. It takes about a minute on two CPU cores.

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
import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from optim import ema_relative, polyak
from schedules import (
    constant,
    cooldown,
    cosine,
    exponential,
    linear,
    one_minus_sqrt,
    piecewise_constant,
    stack,
    tabulate,
    warmup,
    wsd,
)
from theory import Curve, advise, best_peak, bound, compare, fit, optimize, quadratic, refine, transfer

plt.rcParams.update({"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False})
black, grey, blue, sky, green, orange, red, pink = (
    "#000000", "#999999", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7",
)  # fmt: skip
curves = Path("../tests/curves")  # published losses of language models; README.md there has the sources

# %% tags=["parameters"]
steps, resamples, every = 50_000, 20, 1

# %% [markdown]
# ## Which schedule is best, and how long should the cooldown be?
#
# For a convex loss, `bound` is an upper limit on how far the loss ends above its minimum. The loss of a network is not
# convex, but when schedules differ a lot, the bound ranks them in the same order as their losses. `compare` computes
# the bound of each schedule at its own best peak. It also prints the ratios of these peaks: if you tuned the peak for
# one schedule, they tell you the peak for another.

# %%
shapes = {
    "constant": constant(1.0),
    "cosine": cosine(1.0, 0.0, steps),
    "linear": linear(1.0, 0.0, steps),
    **{f"cooldown, {share:.0%}": wsd(1.0, 300, steps - 300 - round(share * steps), round(share * steps))
       for share in (0.1, 0.2, 0.4, 0.6, 0.8)},
    "cooldown, 20%, 1-sqrt": wsd(1.0, 300, steps - 300 - steps // 5, steps // 5, shape=one_minus_sqrt),
}  # fmt: skip
print(compare(shapes, steps))

# %% [markdown]
# For such schedules, the final losses of a language model with 124 million parameters are published
# (arXiv:2501.18965). The losses here are after 50,000 updates, at the best of the peaks that were tried, with one seed.
# One vmapped call computes the bounds of cooldowns of 50 lengths:

# %% tags=["finding"]
with (curves / "llama_runs.csv").open() as file:
    runs = [row for row in csv.DictReader(file) if row["steps"] == "50000" and row["final_scale"] == "0"]
measured = {}
for row in runs:
    if row["decay"] == "linear" and float(row["cooldown"]):
        share, loss = float(row["cooldown"]), float(row["final_val_loss"])
        measured[share] = min(loss, measured.get(share, np.inf))

shares = np.linspace(0.02, 0.99, 50)
lengths = np.round(shares * steps).astype(int)
cooled = stack([cooldown(1.0, steps - int(n), int(n)) for n in lengths])
bounds = np.asarray(jax.jit(jax.vmap(lambda lr: best_peak(lr, steps).bound))(cooled))

fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
axes[0].plot(100 * shares, 100 * (bounds / bounds.min() - 1), color=blue, linewidth=2)
axes[0].set(ylabel="% above the lowest bound", ylim=(-0.5, 15))
axes[0].set_title("Convex bound", loc="left")
axes[1].plot(100 * np.array([*measured]), [*measured.values()], "o-", color=red, linewidth=1.5)
axes[1].set(ylabel="final validation loss")
axes[1].set_title("Published runs, 124 million parameters", loc="left")
for ax in axes:
    ax.set(xlabel="cooldown, % of the run", xlim=(0, 100))
plt.show()
shortest = shares[np.argmax(bounds <= 1.01 * bounds.min())]
print(f"shortest cooldown within 1 % of the lowest bound: {shortest:.0%} of the run")
print(f"cooldown with the lowest published loss: {min(measured, key=measured.get):.0%} of the run")

# %% [markdown]
# **Both fall steeply up to 40 % of the run. The bound is lowest for the longest cooldown, the loss is lowest at 60 %.**
# Over all published schedules, the rank correlations of bound and loss at three lengths of run are 0.68, 0.87 and 0.94
# ([the comparison](../experiments/results/evidence/last-iterate/report.md)).
#
# ## What should I change when I extend a run?
#
# Suppose a run was planned for 50,000 updates, has done 40,000, and is now extended to 62,500. A peak that is best for
# 50,000 updates is too high for 62,500. `transfer` finds two ways to correct that: a lower rate from the start of the
# cooldown, or a longer cooldown.

# %%
old = wsd(1e-3, 300, round(0.8 * steps) - 300, steps // 5)
moved = transfer(old, steps, round(1.25 * steps))
print(f"rate times {moved.factor:.2f} from step {moved.start:,}, or a cooldown of {moved.cooldown_steps:,} updates")

longer = round(1.25 * steps)
t = np.linspace(0, longer - 1, 2_000).astype(int)
fig, ax = plt.subplots(figsize=(8, 3))
ax.plot(t[t < steps], old(t[t < steps]), color=grey, linewidth=5, label=f"schedule for {steps:,} updates")
ax.plot(t, moved.lower(t), color=blue, linewidth=1.8, label="extended at a lower rate")
ax.plot(t, moved.longer(t), color=red, linewidth=1.8, linestyle="--", label="extended with a longer cooldown")
ax.set(xlabel="update", ylabel="rate", ylim=(0, None))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# **In the published runs, the best peak falls less with the length of the run than the bound says**: it is proportional
# to the length to the power of -0.18, where the bound has -0.51. So do not go below the rate that `transfer` gives, and
# try rates between it and the old one.
#
# ## Which loss would this run have reached with another schedule?
#
# A loss law describes how the loss depends on all rates so far. Fit it to the loss curves of a few runs, and it
# predicts the curves of other schedules. Here it is fitted to three published runs of a model with 100 million
# parameters, and predicts two other schedules. The `standard_error` comes from a bootstrap over blocks of the curves.

# %%
published = json.loads((curves / "mpl_100m.json").read_text())["curves"]
peak, warm = 3e-4, 2_160
ends = {
    "cosine_24000": cosine(peak, 3e-5, 24_000 - warm),
    "constant_24000": constant(peak),
    "wsdcon_9": piecewise_constant([peak, 9e-5], [8_000 - warm]),
    "wsd_20000_24000": cooldown(peak, 20_000 - warm, 4_000, 3e-5, exponential),
    "wsdld_20000_24000": cooldown(peak, 20_000 - warm, 4_000, 3e-5),
}


def curve(name):
    at, losses = (np.array(published[name][key])[::every] for key in ("step", "loss"))
    return Curve(warmup(ends[name], warm), at, losses)


seen = [curve(name) for name in ("cosine_24000", "constant_24000", "wsdcon_9")]
found = fit(seen, resamples=resamples)
print(found.law)

fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for ax, name, title in zip(axes, [*ends][3:], ["exponential cooldown", "linear cooldown"], strict=True):
    lr, at, losses = curve(name)
    predicted, last = np.asarray(found.predict(lr, at)), int(at[-1])
    error = float(found.standard_error(lr, last))
    ax.plot(at, losses, ".", color=grey, markersize=4, label="measured")
    ax.plot(at, predicted, color=blue, linewidth=1.8, label="predicted from three other runs")
    ax.set(xlabel="update", ylim=(2.9, 3.4))
    ax.set_title(title, loc="left")
    print(f"{title}: predicted final loss {predicted[-1]:.4f} ± {error:.4f}, measured {losses[-1]:.4f}, "
          f"mean error {np.mean(np.abs(predicted - losses)):.4f}")  # fmt: skip
axes[0].set(ylabel="training loss")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# **Fitted to three runs without a cooldown, the law predicts runs with one, but ends 0.01 too low.** The standard error
# does not cover that, because it does not include errors of the law itself. [The
# comparison](../experiments/results/evidence/loss-laws/report.md) has all six other schedules, two more model sizes,
# and our own runs.
#
# ## Can a schedule be computed?
#
# `refine` computes a schedule from the gradient norms of an earlier run. Constant norms give linear decay. Norms that
# fall by a factor of three give a warm-up and a later decay. `optimize` minimizes an objective over the numbers of a
# schedule, or over all schedules that never rise (`pieces`). Here it minimizes the bound: it starts from a constant
# rate and arrives close to linear decay.

# %%
T = 1_000
t = np.arange(T)
falling = refine(1 + 2 * np.exp(-t / 200), smoothing=0.0)
best = optimize(0.1, T, lambda rates: bound(rates, T), pieces=20)
print(f"bound: constant rate {best.before:.4f}, best schedule found {best.after:.4f}, "
      f"linear decay at its best peak {best_peak(linear(1.0, 0.0, T), T).bound:.4f}")  # fmt: skip

fig, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
axes[0].plot(t, refine(np.ones(T))(t), color=grey, linewidth=4, label="constant norms: linear decay")
axes[0].plot(t, falling(t), color=blue, linewidth=1.8, label="norms that fall from 3 to 1")
axes[0].set(xlabel="update", ylabel="rate / highest rate", title="refine")
axes[1].plot(t, linear(1.0, 0.0, T)(t), color=grey, linewidth=4, label="linear")
axes[1].plot(t, best.schedule(t) / best.schedule(0), color=red, linewidth=1.8, label="lowest bound, 20 pieces")
axes[1].set(xlabel="update", title="optimize")
axes[0].legend(frameon=False, loc="lower center")
axes[1].legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# **On digits, a refined schedule is no better than cosine decay when each has its best peak**
# ([the comparison](../experiments/results/evidence/refinement/report.md)).
#
# ## How do schedules compare on a problem with an exact expected loss?
#
# On a noisy quadratic, `expected_loss` computes the expected loss for any schedule, momentum and average, without
# sampling. 10,000 updates take a few hundredths of a second. Each schedule below uses the best of 12 rates; one vmapped
# call computes all of them.

# %%
T = 10_000
h = 1.0 / jnp.arange(1, 51) ** 2
problem = quadratic(h, noise=jnp.sqrt(h))
rates = jnp.geomspace(0.01, 1.0, 12)


@jax.jit
def best_end(shape, coefficient=None):
    at_each = jax.vmap(lambda rate: problem.expected_loss(rate * tabulate(shape, T), T, coefficient=coefficient)[-1])
    return jnp.min(at_each(rates))


of_length = [float(best_end(cooldown(1.0, T - round(share * T), round(share * T)))) for share in shares[::7]]
others = {
    "constant rate": (best_end(constant(1.0)), grey, "-"),
    "constant rate, EMA of the parameters": (best_end(constant(1.0), ema_relative(0.1)), green, "--"),
    "constant rate, mean of the parameters": (best_end(constant(1.0), polyak()), orange, ":"),
}
fig, ax = plt.subplots(figsize=(8, 3.4))
ax.plot(100 * shares[::7], of_length, "o-", color=blue, linewidth=1.8, label="linear cooldown")
for name, (loss, colour, dash) in others.items():
    ax.axhline(float(loss), color=colour, linestyle=dash, linewidth=1.8, label=name)
ax.set(xlabel="cooldown, % of the run", ylabel="expected loss at the end", yscale="log")
ax.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# **Here the longest cooldown is best, as in the bound, and averages at a constant rate end below all cooldowns.**
# This does not carry over to every network: on [digits](../experiments/results/digits-merging/report.md), the mean of
# all parameters ends far above linear decay. `python -m experiments --task quadratic` runs the comparison of 13 methods
# on such a problem in seconds.
#
# ## So which schedule should I use?
#
# Ask `advise`: for a run of known length, of unknown length, for an extended run, or with the loss curves of earlier
# runs (`advise(steps, curves=[...])`). On the command line: `python -m schedules advise --steps 50000`.

# %%
print(advise(steps))

# %%
print(advise())

# %%
print(advise(round(1.25 * steps), after=old, at=round(0.8 * steps)))
