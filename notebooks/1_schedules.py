# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Every schedule and combinator, and one of your own in three lines
#
# A schedule is a pure function of the step that is also a value. Called with t it gives the number for the update that
# follows t updates. As a value it prints, compares, saves, and goes through `jax.vmap`.
#
# ## Which schedules are there?
#
# First the ramps, from a start to an end in so many updates. The title of a panel is all that was written to get it.

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
    """The examples of some modules of `schedules`; dashed, what each is made of, from its own step 0."""
    found = examples(schedules)
    drawn = [found[name] for name in FORMULAS if name in found and FORMULAS[name].__module__.split(".")[1] in modules]
    drawn = [(text, steps) for text, steps in drawn if "lambda" not in text]  # which `parse` does not evaluate
    rows = -(-len(drawn) // 3)
    figure = plt.figure(figsize=(9, 1.6 * rows), layout="constrained")
    for i, (text, steps) in enumerate(drawn):
        lr = parse(text)
        ax = plot(lr, steps, figure.add_subplot(rows, 3, i + 1))
        highest = max(ax.lines[0].get_ydata())
        for part in jax.tree.leaves(dict(lr.arguments), is_leaf=lambda leaf: isinstance(leaf, Schedule)):
            if isinstance(part, Schedule) and (curve := tabulate(part, steps))[0] < 3 * highest:  # not on another scale
                ax.plot(curve, "--", color="0.55", linewidth=1.2)
        ax.set(xlabel="", ylabel="")
        ax.set_title(textwrap.fill(text, 44), fontsize=7, family="monospace", loc="left")
        ax.tick_params(labelsize=7)


draw("ramps")

# %% [markdown]
# **A ramp is at its start for t = 0, at its end for t = steps, and holds: each arrives at step 100.**
#
# Then what has no end, and the cycles:

# %%
draw("decays", "cycles")

# %% [markdown]
# And the recipes, which have no formula of their own: each is a composition of the others that has a name in the field.

# %%
draw("recipes")

# %% [markdown]
# **A recipe is the composition that it stands for, and no formula of its own.**
# `.expand()` shows it: `sgdr` is `restarts` of `cosine`, `wsd` a `warmup` of a `cooldown`, and so on.
#
# ## What do combinators make of a schedule?
#
# Dashed, the schedules that went in, each from its own step 0; solid, what came out. A number in the place of a
# schedule is a constant one, and a function of the step, such as an optax schedule, is taken as it is. A part on
# another scale, such as the factor in `multiply`, is left out.

# %%
draw("core", "combinators", "sequences", "clocks")

# %% [markdown]
# **There are three families: one after another, together on one clock, and the same values on another clock.**
# The first are `join`, `warmup` and `cooldown`; the second `*`, `+`, `**`, `minimum`, `maximum` and `clip`; the third
# `delay`, `advance`, `extend`, `stretch`, `per_epoch` and `per_update`.
#
# ## Why is a decay times a ramp no warm-up?

# %%
product = linear(0.0, 1.0, 300) * cosine(0.1, 0.0, 700)
in_turn = warmup(cosine(0.1, 0.0, 700), 300)

plot({"linear(0, 1, 300) * cosine(0.1, 0, 700)": product, "warmup(cosine(0.1, 0, 700), 300)": in_turn}, 1_100)
for lr in (product, in_turn):
    print(f"peak {describe(lr, 1_100).peak:.4f}, above zero for {np.count_nonzero(tabulate(lr, 1_100))} updates")

# %% [markdown]
# **A product runs on one clock: the decay has begun during the ramp, and the peak is 0.0612 instead of 0.1.**
# `warmup` puts one after the other: the peak is 0.1, and the run is as long as both together.
#
# ## Whose clock does a schedule run on?
#
# `per_epoch` and `stretch` both take a schedule that was written in epochs; `restarts` begins one again.

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
# **`per_epoch` changes once an epoch, so a warm-up from 0 spends its whole first epoch at 0; `stretch` does not.**
# That is what a loop does which calls `scheduler.step()` once an epoch; `stretch` changes with every update.
#
# **A growth stretches all of a cycle: the warm-up takes 20, 40 and 80 updates in cycles of 80, 160 and 320.**
#
# ## Which value does an update get?
#
# `lr(t)` is for the update that follows t updates. It may be asked for any array of steps, and between them.

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
    ax.set(xlabel="updates before this one, t", xticks=range(0, 15, 2))
    ax.grid(axis="x", color="0.9")

# %% [markdown]
# **The first update uses `lr(0)`, a ramp of 4 arrives at t = 4, and a boundary of 4 takes effect at t = 4.**
# Lengths do not include a neighbour's: a warm-up of 4 and a decay of 8 end at t = 12. `advance(lr, 1)` is the curve
# from its step 1 on, for those who do not want a first update of 0.
#
# ## What can be done with a value?

# %%
lr = warmup(cosine(0.1, 0.0, steps=900), steps=100)

print(lr)
print("equal to one written otherwise:", lr == parse("warmup(cosine(0.1, 0, 900), 100)"))
print("read back from what it prints: ", parse(repr(lr)) == lr)
print("another length, the rest kept: ", lr.replace(steps=200))
print("the same as a key of a dict:   ", {lr: "run 7"}[lr.replace()])
print("its numbers, for JAX:          ", jax.tree.leaves(lr))

# %%
print(describe(lr, 1_000), "\n")
for length in (1_000, 800):
    print(f"check for {length} updates:", *check(lr, length), sep="\n  ")

# %% [markdown]
# **What a schedule prints is what it is saved as: `parse` makes the same value of it.**
# And `check` says what a careful colleague would: that the first update changes nothing, and that a run of 800 updates
# ends before its decay does.
#
# ## How are three warm-ups one program?
#
# `stack` gives schedules that differ only in their numbers a leading axis, and `jax.vmap` maps over it.

# %%
lengths = [50, 200, 400]
sweep = stack([warmup(cosine(0.1, 0.0, 1_000 - length), length) for length in lengths])
traces = []


@jax.jit
@jax.vmap
def values(lr):
    traces.append("a trace")  # Python runs this only while JAX traces
    return tabulate(lr, 1_000)


rows = values(sweep)
plot({f"warm-up of {length}": table(row) for length, row in zip(lengths, rows, strict=True)}, 1_000)
values(stack([warmup(cosine(peak, 0.0, 500), 10) for peak in (0.1, 0.2, 0.4)]))
print("traces in two calls:", len(traces))
print("area under each:    ", np.round(rows.sum(axis=1), 2))

# %% [markdown]
# **Two sweeps, one over lengths and one over peaks, took one trace: numbers are arguments of the compiled program.**
#
# **A longer linear warm-up moves the area under the curve and leaves its size, half of peak times length.**
#
# ## How is one of your own written?
#
# The formula for one step, with its arguments annotated by their kinds:


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
# **Three lines, and it prints, parses, plots, stretches, comes round again, adds up and is checked like all others.**
#
# ## Does an optax optimizer get these very values?
#
# A schedule is a function of the count, which is all that optax asks for. With a gradient of 1, plain descent shows the
# rate that it used.

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
# **It does: the 50 rates are `lr(0)`, `lr(1)`, ... `lr(49)`, to the rounding of float32.**
