# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Schedules and how to combine them
#
# To put a warm-up before a decay, use `warmup`: `warmup(cosine(0.1, 0, 700), 300)` rises to its peak of 0.1 in 300
# updates and then runs the whole decay, 1,000 updates in total. Multiplying the decay by a ramp looks similar in code,
# but the peak is only 0.0612 and the rate is 0 after 700 updates, because both factors start at step 0.
#
# ![A ramp times a cosine decay, and a warm-up followed by the same decay](pictures/1_schedules.png)
#
# This notebook draws every schedule and combinator. It also shows how to print, compare, save, batch and check a
# schedule, and how to write your own in three lines. To run it, install `pure-schedules[notebooks]`. It takes about
# a minute on two CPU cores.

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
import textwrap

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import schedules
from schedules import (
    Schedule,
    Steps,
    Value,
    advance,
    boundaries,
    check,
    cosine,
    describe,
    linear,
    multistep,
    parse,
    per_epoch,
    plot,
    restarts,
    schedule,
    stack,
    stretch,
    table,
    tabulate,
    warmup,
)
from schedules.formula import FORMULAS
from schedules.gallery import examples


def draw(*modules):
    """Plots the examples of these modules of `schedules`. Dashed lines: the schedules that they take as arguments."""
    found = examples(schedules)
    drawn = [found[name] for name in FORMULAS if name in found and FORMULAS[name].__module__.split(".")[1] in modules]
    drawn = [(text, steps) for text, steps in drawn if "lambda" not in text]  # `parse` evaluates no lambdas
    rows = -(-len(drawn) // 3)
    figure = plt.figure(figsize=(9, 1.6 * rows), layout="constrained")
    for i, (text, steps) in enumerate(drawn):
        lr = parse(text)
        ax = plot(lr, steps, figure.add_subplot(rows, 3, i + 1))
        highest = max(ax.lines[0].get_ydata())
        for part in jax.tree.leaves(dict(lr.arguments), is_leaf=lambda leaf: isinstance(leaf, Schedule)):
            if isinstance(part, Schedule) and (curve := tabulate(part, steps))[0] < 3 * highest:  # on a similar scale
                ax.plot(curve, "--", color="0.55", linewidth=1.2)
        ax.set(xlabel="", ylabel="")
        ax.set_title(textwrap.fill(text, 44), fontsize=7, family="monospace", loc="left")
        ax.tick_params(labelsize=7)


# %% [markdown]
# ## Which schedules are there?
#
# Ramps go from a start value to an end value in a given number of updates. The title of each panel is the code that
# makes it.

# %%
draw("ramps")

# %% [markdown]
# **A ramp has its start value at t = 0, reaches its end value at t = steps (here 100), and then stays there.**
#
# These decays have no end, and these cycles repeat:

# %%
draw("decays", "cycles")

# %% [markdown]
# Recipes are well-known combinations of the schedules above:

# %%
draw("recipes")

# %% [markdown]
# **A recipe has no formula of its own: it is built from other schedules, and `.expand()` shows how.**
# For example, `sgdr` is `restarts` of `cosine`, and `wsd` is `warmup` of `cooldown`.
#
# ## What do the combinators do?
#
# Dashed lines are the input schedules, each drawn from its own step 0. Solid lines are the results. Instead of a
# schedule you can pass a number, which becomes a constant schedule, or any function of the step, such as an optax
# schedule. Inputs on a different scale, such as the factor in `multiply`, are not drawn.

# %%
draw("core", "combinators", "sequences", "clocks")

# %% [markdown]
# **There are three kinds: they run schedules one after another, combine them at each step, or change their clock.**
#
# - One after another: `join`, `warmup` and `cooldown`.
# - At each step: `*`, `+`, `**`, `minimum`, `maximum` and `clip`.
# - Change the clock, that is, the step at which a schedule is read: `delay`, `advance`, `extend`, `stretch`,
#   `per_epoch` and `per_update`.
#
# ## Can I multiply a decay by a ramp to get a warm-up?

# %% tags=["finding"]
product = linear(0.0, 1.0, 300) * cosine(0.1, 0.0, 700)
sequence = warmup(cosine(0.1, 0.0, 700), 300)

plot({"linear(0, 1, 300) * cosine(0.1, 0, 700)": product, "warmup(cosine(0.1, 0, 700), 300)": sequence}, 1_100)
for lr in (product, sequence):
    print(f"peak {describe(lr, 1_100).peak:.4f}, above zero for {np.count_nonzero(tabulate(lr, 1_100))} updates")

# %% [markdown]
# **No: in a product the decay starts during the ramp, so the peak is 0.0612 instead of 0.1.**
# `warmup` runs the ramp first and then the decay, so the peak is 0.1 and the lengths add up.
#
# ## How do I write a schedule in epochs?
#
# Use `stretch` or `per_epoch` with the number of updates in an epoch (left). The right panel shows another combinator:
# `restarts` repeats a schedule, and with `growth=2` each cycle is twice as long as the one before.

# %%
written = warmup(cosine(0.1, 0.0, 8), 2)  # in epochs
cycle = warmup(cosine(0.1, 0.0, 60), 20)

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
plot({"per_epoch(written, 50)": per_epoch(written, 50), "stretch(written, 50)": stretch(written, 50)}, 500, left)
again = {f"restarts(cycle, 80, growth={growth})": restarts(cycle, 80, growth) for growth in (1, 2)}
plot(again, 560, right)
print("first epoch of per_epoch: ", np.unique(tabulate(per_epoch(written, 50), 50)))
print("where restarts(cycle, 80, growth=2) changes:", boundaries(restarts(cycle, 80, 2), 560))

# %% [markdown]
# **`per_epoch` changes only once per epoch, so a warm-up from 0 stays at 0 for the whole first epoch.**
# `per_epoch` does the same as a training loop that calls `scheduler.step()` once per epoch. `stretch` changes at every
# update.
#
# **`growth` stretches the whole cycle: the warm-up takes 20, 40 and 80 updates in cycles of 80, 160 and 320.**
#
# ## Which value does each update use?
#
# `lr(t)` is the value that the next update uses when t updates are done. You can also call it with an array of steps,
# and with fractions of a step.

# %%
lr = warmup(cosine(1.0, 0.0, steps=8), steps=4)
shown = {
    "warmup(cosine(1, 0, 8), 4)": lr,
    "advance(warmup(cosine(1, 0, 8), 4), 1)": advance(lr, 1),
    "multistep(1, [4, 8], factor=0.5)": multistep(1.0, [4, 8], factor=0.5),
}

t, between = jnp.arange(15), jnp.linspace(0, 14, 1_401)
_, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
for ax, (title, each) in zip(axes, shown.items(), strict=True):
    ax.plot(between, each(between), color="#0072b2", linewidth=1)
    ax.plot(t, each(t), "o", color="#0072b2")
    ax.set_title(title, fontsize=8, family="monospace", loc="left")
    ax.set(xlabel="t, updates done so far", xticks=range(0, 15, 2))
    ax.grid(axis="x", color="0.9")

# %% [markdown]
# **The first update uses `lr(0)`; a ramp of 4 steps ends at t = 4; a boundary at 4 takes effect at t = 4.**
# Each part counts only its own steps: a warm-up of 4 steps and then a decay of 8 steps end at t = 12. `advance(lr, 1)`
# starts the same curve at step 1. Use it if you do not want the first update to have a rate of 0.
#
# ## How do I print, compare, save and check a schedule?

# %%
lr = warmup(cosine(0.1, 0.0, steps=900), steps=100)

print(lr)
print("equal to the same in other words: ", lr == parse("warmup(cosine(0.1, 0, 900), 100)"))
print("read back from its repr:          ", parse(repr(lr)) == lr)
print("with another length of warm-up:   ", lr.replace(steps=200))
print("as a key of a dict:               ", {lr: "run 7"}[lr.replace()])
print("its numbers are leaves of a pytree:", jax.tree.leaves(lr))
print(describe(lr, 1_000), "\n")
for length in (1_000, 800):
    print(f"check for {length} updates:", *check(lr, length), sep="\n  ")

# %% [markdown]
# **To save a schedule, save its `repr`: `parse` turns it back into an equal schedule.**
# `check` warns about likely mistakes: here, that the first update changes nothing, and that a run of 800 updates stops
# before the decay ends.
#
# ## How do I try several schedules in one compiled program?
#
# `stack` combines schedules that differ only in their numbers into one schedule with a leading axis. Map over that axis
# with `jax.vmap`.

# %%
lengths = [50, 200, 400]
sweep = stack([warmup(cosine(0.1, 0.0, 1_000 - length), length) for length in lengths])
traces = []


@jax.jit
@jax.vmap
def values(lr):
    traces.append("a trace")  # runs only when JAX traces the function
    return tabulate(lr, 1_000)


rows = values(sweep)
plot({f"warm-up of {length}": table(row) for length, row in zip(lengths, rows, strict=True)}, 1_000)
values(stack([warmup(cosine(peak, 0.0, 500), 10) for peak in (0.1, 0.2, 0.4)]))
print("traces in two calls:", len(traces))
print("area under each:    ", np.round(rows.sum(axis=1), 2))

# %% [markdown]
# **Two sweeps, over lengths and over peaks, needed only one trace: numbers are arguments of the compiled program.**
#
# **A longer linear warm-up does not change the area under the curve: half the peak times the length of the run.**
#
# ## How do I write my own schedule?
#
# Write the formula for one step and annotate the arguments with their kinds:


# %%
@schedule
def bump(step, peak: Value, centre: Steps, width: Steps):
    return peak * jnp.exp(-(((step - centre) / width) ** 2))


texts = [
    "bump(0.1, centre=60, width=20)",
    "stretch(bump(0.1, centre=60, width=20), 2)",
    "0.5 * restarts(bump(0.1, 30, 10), period=60)",
    "warmup(cosine(0.05, 0, 180), 60) + bump(0.05, 200, 10)",
]
plot({text: parse(text) for text in texts}, 300)
print(bump(0.1, 60, 20).replace(width=30))
try:
    bump(0.1, centre=60, width=-20)
except ValueError as error:
    print(error)

# %% [markdown]
# **These three lines make a full schedule: you can print, parse, plot, combine and check it like any other.**
#
# ## Does an optax optimizer use exactly these values?
#
# optax calls the schedule with its count of updates. With a gradient of 1, each update of `optax.sgd` is minus the rate
# that it used.

# %%
lr = warmup(cosine(0.1, 0.0, steps=30), steps=10)
optimizer = optax.sgd(lr)

used, state = [], optimizer.init(jnp.zeros(()))
for _ in range(50):
    update, state = optimizer.update(jnp.ones(()), state)
    used.append(-update)

ax = plot({"lr": lr}, 50)
ax.plot(used, "o", color="#d55e00", markersize=4, label="used by optax.sgd(lr)")
ax.legend(frameon=False)
print(f"largest difference: {abs(jnp.stack(used) - tabulate(lr, 50)).max():.0e}")

# %% [markdown]
# **Yes: the 50 rates are `lr(0)`, `lr(1)`, ... `lr(49)`, up to float32 rounding.**
