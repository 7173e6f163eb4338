# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Schedules in your training code
#
# One schedule works in plain JAX, Flax linen, Flax nnx, Equinox and PyTorch: pass it where the optimizer takes a
# learning rate. All five use the same rate at each of 200 updates, and their losses are the same up to rounding. To
# resume a run, save the optimizer state with the parameters. Without it, the schedule starts again from its warm-up
# (red line in the picture).
#
# ![The learning rate of a run resumed with and without the optimizer state](pictures/3_training_code.png)
#
# This notebook trains the same small network, with one hidden layer, on handwritten digits in each framework. It then
# shows how to log the learning rate, save checkpoints, accumulate gradients, and set rates per layer. To run it,
# install `pure-schedules[notebooks]`, and `torch` for the section on PyTorch. It takes about a minute on two CPU cores.

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
import json
import logging
import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import linen, nnx
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

from optim import adam, adamw, average, ema, hyperparameters, not_matching, per_parameter, scale_by_path
from schedules import check, cosine, linear, parse, per_epoch, plot, step_decay, tabulate, warmup

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
steps, size = 200, 64
batches = jax.random.randint(jax.random.key(0), (steps, size), 0, len(labels))  # the examples of each update


def dense(seed, inputs, outputs):
    kernel = jax.random.normal(jax.random.key(seed), (inputs, outputs)) / inputs**0.5
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


initial = {"hidden": dense(1, 64, 32), "head": dense(2, 32, 10)}  # the same in every framework

lr = warmup(cosine(0.02, 0.0, steps=160), steps=40)
print(lr)
print(*check(lr, steps), sep="\n")  # warnings about this schedule

# %% [markdown]
# ## Use with optax in plain JAX
#
# Pass the schedule instead of a number. Both `optax.adam(lr)` and `optim.adam(lr)` work, but `optim.adam` also records
# the rate of each update, so that you can log it. All frameworks below use this one `optimizer`.

# %%
optimizer = adam(lr)


def cross_entropy(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()


def loss(params, batch):
    hidden = jnp.tanh(images[batch] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return cross_entropy(hidden @ params["head"]["kernel"] + params["head"]["bias"], batch)


@functools.partial(jax.jit, static_argnums=0)
def step(optimizer, params, opt_state, batch):
    value, grads = jax.value_and_grad(loss)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, {"loss": value, **hyperparameters(opt_state)}


def train(optimizer, params, opt_state, batches):
    log = []
    for batch in batches:
        params, opt_state, metrics = step(optimizer, params, opt_state, batch)
        log.append(metrics)
    return params, opt_state, log


whole, whole_state, log = train(optimizer, initial, optimizer.init(initial), batches)
logs = {"optax": log}

# %% [markdown]
# ## Use with Flax linen
#
# Pass the optimizer to `TrainState` as `tx`.


# %%
class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10, name="head")(jnp.tanh(linen.Dense(32, name="hidden")(x)))


@jax.jit
def linen_step(state, batch):
    def loss(params):
        return cross_entropy(state.apply_fn({"params": params}, images[batch]), batch)

    value, grads = jax.value_and_grad(loss)(state.params)
    state = state.apply_gradients(grads=grads)
    return state, {"loss": value, **hyperparameters(state.opt_state)}


state = TrainState.create(apply_fn=Linen().apply, params=initial, tx=optimizer)
logs["Flax linen"] = []
for batch in batches:
    state, metrics = linen_step(state, batch)
    logs["Flax linen"].append(metrics)

# %% [markdown]
# ## Use with Flax nnx
#
# Pass the optimizer to `nnx.Optimizer`. The argument `wrt` says which variables to train.


# %%
class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.head = nnx.Linear(64, 32, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.hidden(x)))


@nnx.jit
def nnx_step(model, nnx_optimizer, batch):
    value, grads = nnx.value_and_grad(lambda model: cross_entropy(model(images[batch]), batch))(model)
    nnx_optimizer.update(model, grads)
    return {"loss": value, **hyperparameters(nnx_optimizer.opt_state)}


model = Nnx(nnx.Rngs(0))
nnx.update(model, initial)
nnx_optimizer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
logs["Flax nnx"] = [nnx_step(model, nnx_optimizer, batch) for batch in batches]

# %% [markdown]
# ## Use with Equinox
#
# A model is a pytree. `eqx.filter` selects the arrays to train.


# %%
class Equinox(eqx.Module):
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear

    def __call__(self, x):
        return self.head(jnp.tanh(self.hidden(x)))


@eqx.filter_jit
def equinox_step(model, opt_state, batch):
    value, grads = eqx.filter_value_and_grad(lambda model: cross_entropy(jax.vmap(model)(images[batch]), batch))(model)
    updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), opt_state, {"loss": value, **hyperparameters(opt_state)}


model = Equinox(eqx.nn.Linear(64, 32, key=jax.random.key(0)), eqx.nn.Linear(32, 10, key=jax.random.key(0)))
for name, weights in initial.items():
    where = [weights["kernel"].T, weights["bias"]]
    model = eqx.tree_at(lambda m, n=name: [getattr(m, n).weight, getattr(m, n).bias], model, where)
opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
logs["Equinox"] = []
for batch in batches:
    model, opt_state, metrics = equinox_step(model, opt_state, batch)
    logs["Equinox"].append(metrics)

# %% [markdown]
# ## Do all four give the same result?

# %%
plt.rcParams.update({"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False})
black, blue, orange, green, red = "#000000", "#0072b2", "#b87700", "#008060", "#d55e00"


def column(log, name):
    return np.array([metrics[name] for metrics in log])


fig, axes = plt.subplots(1, 2, figsize=(10, 3.4))
axes[0].plot(column(logs["optax"], "loss"), color=blue)
axes[0].set(title="loss of the batch, in all four", xlabel="update", ylim=(0, None))
axes[1].plot(column(logs["optax"], "learning_rate"), color=blue)
axes[1].set(title="rate used, in all four", xlabel="update", ylim=(0, None))
plt.show()

for name, log in logs.items():
    np.testing.assert_allclose(column(log, "learning_rate"), tabulate(lr, steps), rtol=1e-6)
    apart = np.abs(column(log, "loss") - column(logs["optax"], "loss")).max()
    print(f"{name:10} rates equal to tabulate(lr, steps); losses differ from optax by at most {apart:.0e}")

# %% [markdown]
# **Yes: with the same optimizer, all four use the same rate at every update, and their losses agree up to rounding.**
#
# ## Use with PyTorch
#
# `LambdaLR` multiplies the optimizer's own rate by a function of the step. Set the optimizer's rate to 1 and pass
# `lr.at` as the function: `lr.at(t)` is the value at step t as a Python float.

# %% tags=["torch"]
import torch  # noqa: E402

network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
for layer, weights in zip((network[0], network[2]), initial.values(), strict=True):
    layer.weight.data = torch.tensor(np.array(weights["kernel"].T))
    layer.bias.data = torch.tensor(np.array(weights["bias"]))

torch_optimizer = torch.optim.Adam(network.parameters(), lr=1.0)
scheduler = torch.optim.lr_scheduler.LambdaLR(torch_optimizer, lr.at)

used, losses = [], []
for x, y in zip(torch.tensor(np.array(images[batches])), torch.tensor(np.array(labels[batches])).long(), strict=True):
    value = torch.nn.functional.cross_entropy(network(x), y)
    torch_optimizer.zero_grad()
    value.backward()
    torch_optimizer.step()
    used.append(torch_optimizer.param_groups[0]["lr"])
    losses.append(value.item())
    scheduler.step()

np.testing.assert_array_equal(np.float32(used), tabulate(lr, steps))
apart = np.abs(losses - column(logs["optax"], "loss")).max()
print(f"rates equal to tabulate(lr, steps); losses differ from optax by at most {apart:.0e}")

# %% [markdown]
# **PyTorch uses the same rates, and its losses are the same up to rounding.**
#
# ## How do I log the learning rate?
#
# In a jitted step, return `hyperparameters(opt_state)` with the loss, as the steps above do. It contains every
# hyperparameter that the last update used, even if the optimizer is inside wrappers. On the host, for a log line or a
# progress bar, use `lr.at(step)`. Optax optimizers keep no such record unless you wrap them in
# `optax.inject_hyperparams`.

# %%
logged = average(adamw(lr, b1=linear(0.95, 0.85, steps), weight_decay=linear(0.0, 0.1, steps)), ema(0.95))
_, _, log = train(logged, initial, logged.init(initial), batches)

injected = optax.inject_hyperparams(optax.adam)(learning_rate=lr)
params, opt_state, rates = initial, injected.init(initial), []
for batch in batches:
    params, opt_state, _ = step(injected, params, opt_state, batch)
    rates.append(opt_state.hyperparams["learning_rate"])
np.testing.assert_allclose(rates, column(log, "learning_rate"), rtol=1e-6)
print(f"rates differ by at most {np.abs(rates - column(log, 'learning_rate')).max():.0e}")

fig, axes = plt.subplots(1, 4, figsize=(12, 2.6))
for ax, name in zip(axes, ("learning_rate", "b1", "weight_decay", "coefficient"), strict=True):
    ax.plot(column(log, name), color=blue, linewidth=2)
    ax.set(title=name, xlabel="update")
axes[3].set(yscale="log", title="coefficient (of the average)")
plt.show()
print({name: f"{value:.4g}" for name, value in log[-1].items()})

# %% [markdown]
# **`hyperparameters` logs the numbers that each update used, and agrees with `inject_hyperparams` at every update.**
#
# ## What should I save in a checkpoint?
#
# Save three things: the parameters, the optimizer state (which contains the step count) and, in the config, `repr(lr)`.
# `parse` turns this text back into the schedule. With Orbax:

# %%
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every save
folder = tempfile.TemporaryDirectory()
half = steps // 2

params, opt_state, _ = train(optimizer, initial, optimizer.init(initial), batches[:half])
with ocp.CheckpointManager(folder.name) as manager:
    saved = ocp.args.Composite(
        config=ocp.args.JsonSave({"lr": repr(lr), "steps": steps}),
        state=ocp.args.StandardSave({"params": params, "opt_state": opt_state}),
    )
    manager.save(half, args=saved)

# %% tags=["finding"]
# This part runs in the resumed process.
with ocp.CheckpointManager(folder.name) as manager:
    at = manager.latest_step()
    config = manager.restore(at, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
    optimizer = adam(parse(config["lr"]))
    like = jax.eval_shape(lambda: {"params": initial, "opt_state": optimizer.init(initial)})
    restored = manager.restore(at, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]
folder.cleanup()
print(json.dumps(config, indent=1))
assert parse(config["lr"]) == lr

params, opt_state, log = train(optimizer, restored["params"], restored["opt_state"], batches[at:])
jax.tree.map(np.testing.assert_array_equal, (params, opt_state), (whole, whole_state))
_, _, without = train(optimizer, restored["params"], optimizer.init(initial), batches[at:])

fig, axes = plt.subplots(1, 2, figsize=(10, 3))
axes[0].plot(column(logs["optax"], "learning_rate")[: at + 1], color="0.6")
for run, colour in ((log, blue), (without, red)):
    apart = column(run, "loss") - column(logs["optax"], "loss")[at:]
    for ax, values in zip(axes, (column(run, "learning_rate"), apart), strict=True):
        ax.plot(range(at, steps), values, color=colour)
axes[0].text(0.3 * at, 0.004, "before the stop", color="0.4")
axes[0].text(1.42 * at, 0.021, "resumed without opt_state", color=red, ha="center")
axes[0].text(1.28 * at, 0.0105, "resumed", color=blue)
axes[0].set(title="rate used", xlabel="update", ylim=(0, 0.024))
axes[1].set(title="loss minus the loss of the uninterrupted run", xlabel="update")
plt.show()

# %% [markdown]
# **Resumed from the parameters and the optimizer state, the run is bit-for-bit identical to the uninterrupted run.**
# Resumed from the parameters alone, the schedule starts again from its warm-up.
#
# ## Do steps count updates or micro-batches when I accumulate gradients?
#
# They count updates. `optax.MultiSteps` calls the optimizer once for every k micro-batches. So divide the number of
# micro-batches in the run by k to get the length of a schedule. Divide the number of micro-batches in an epoch by k to
# get the number of updates per epoch, which `per_epoch` takes.

# %%
k = 4
micro_batches = batches.reshape(steps * k, size // k)
optimizer = optax.MultiSteps(adam(lr), every_k_schedule=k).gradient_transformation()
params, _, log = train(optimizer, initial, optimizer.init(initial), micro_batches)
apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params, whole)
print(f"parameters differ from training on whole batches by at most {max(jax.tree.leaves(apart)):.0e}")

updates_per_epoch = len(labels) // size
epochs = per_epoch(step_decay(0.02, 2, 0.5), updates_per_epoch)  # halve the rate every two epochs

fig, axes = plt.subplots(1, 2, figsize=(10, 3))
axes[0].plot(column(log, "learning_rate"), color=blue, linewidth=2)
too_long = warmup(cosine(0.02, 0.0, steps=160 * k), steps=40 * k)
axes[0].plot(too_long(jnp.arange(steps * k) // k), color=red)
axes[0].text(0.7 * steps * k, 0.008, "lengths in updates", color=blue)
axes[0].text(0.97 * steps * k, 0.021, "lengths in micro-batches: too long", color=red, ha="right")
axes[0].set(title=f"rate used, {k} micro-batches to an update", xlabel="micro-batch", ylim=(0, 0.026))
plot(epochs, steps, axes[1])
axes[1].set(title=f"per_epoch(step_decay(0.02, 2, 0.5), {updates_per_epoch})", xlabel="update", ylim=(0, 0.026))
plt.show()

# %% [markdown]
# **Write lengths in updates: with the same schedule, four micro-batches of 16 train like one batch of 64.**
# A schedule with its lengths in micro-batches is only a quarter done when the run ends.
#
# ## How do I set learning rates per layer, freeze layers, or exclude biases from weight decay?
#
# Select parameters by regular expressions on their paths, such as `layer_0/kernel`. `scale_by_path` follows an
# optimizer in a chain and multiplies its updates by a factor, here for layer-wise learning-rate decay. `per_parameter`
# gives each group its own optimizer. A mask excludes the biases from weight decay.

# %%
deep = {f"layer_{i}": dense(i, 64, 64) for i in range(3)} | {"head": dense(3, 64, 10)}


def layer_wise(lr):
    return optax.chain(
        adamw(lr, weight_decay=0.1, mask=not_matching(r"bias$")),
        scale_by_path([(rf"^layer_{i}/", 0.3 ** (3 - i)) for i in range(3)]),
    )


fine_tuned = per_parameter(
    [(r"^layer_[01]/", optax.set_to_zero()), (r"^head/", adam(lr))],
    default=adam(0.1 * lr),
)


def deep_loss(params, batch):
    x = images[batch]
    for i in range(3):
        x = jnp.tanh(x @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"])
    return cross_entropy(x @ params["head"]["kernel"] + params["head"]["bias"], batch)


def update_sizes(optimizer):
    def step(carry, batch):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(deep_loss)(params, batch), opt_state, params)
        sizes = {name: jnp.abs(layer["kernel"]).mean() for name, layer in updates.items()}
        return (optax.apply_updates(params, updates), opt_state), sizes

    return jax.jit(lambda: jax.lax.scan(step, (deep, optimizer.init(deep)), batches)[1])()


looks = {"head": (black, "-"), "layer_2": (blue, "--"), "layer_1": (orange, "-"), "layer_0": (green, ":")}
fig, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
for ax, optimizer, title in zip(axes, (layer_wise(lr), fine_tuned), ("scale_by_path", "per_parameter"), strict=True):
    sizes = update_sizes(optimizer)
    for name, (colour, dash) in looks.items():
        ax.plot(sizes[name], color=colour, linestyle=dash)
        if sizes[name].any():  # a logarithmic axis cannot show the zeros of frozen layers
            ax.text(0.17 * steps, 1.1 * sizes[name].max(), name, color=colour, ha="center", va="bottom")
    ax.set(title=title, xlabel="update", yscale="log", ylim=(1e-6, 0.1))
axes[0].set(ylabel="mean size of a weight's change")
axes[1].text(0.25 * steps, 1e-5, "layer_0, layer_1: frozen", color="0.4")
plt.show()

# %%
# With zero gradients only weight decay is left. All parameters are 1, and the rate is 0.02.
ones, zeros = jax.tree.map(jnp.ones_like, deep), jax.tree.map(jnp.zeros_like, deep)
optimizer = layer_wise(0.02)
updates, _ = optimizer.update(zeros, optimizer.init(ones), ones)
for name, layer in updates.items():
    print(f"{name}: kernel {layer['kernel'].mean():+.6f}, bias {layer['bias'].mean():+.6f}")

# %% [markdown]
# **The first layers change least (left) or are frozen (right), and weight decay does not change the biases.**
#
# ## What about batch norm?
#
# The running statistics belong to the training parameters. If you evaluate an average of the parameters, compute new
# statistics first:
#
#     averaged = nnx.clone(model)  # leave the model as it is for training
#     nnx.update(averaged, eval_params(optimizer.opt_state, nnx.state(averaged, optimizer.wrt)))
#     refresh_batch_stats_nnx(averaged, batches)  # in linen: refresh_batch_stats(apply_fn, variables, batches)
#
# [Averaging](5_averaging.ipynb) shows how much worse the loss is without this.
