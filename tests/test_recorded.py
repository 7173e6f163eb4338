"""Optimizers replayed with the gradients that other libraries were given, against what these recorded."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import (
    adam,
    adamw,
    average,
    eval_params,
    schedule_free_adamw,
    schedule_free_plus,
    schedule_free_radam,
    schedule_free_sgd,
    sgd,
    warmed,
    weighted,
)
from schedules import advance, cosine, exponential_decay, linear, table

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = Path(__file__).parent / "golden"


def cases(peer):
    recorded = json.loads((GOLDEN / f"{peer}.json").read_text())["cases"]
    return [pytest.param(c, id=f"{peer}-{c['name']}") for c in recorded if c["kind"] == "trajectory"]


def plain(case):
    """A peer's optimizer with the rate (and momentum) that it recorded for every update."""
    k, rate = case["kwargs"], table(case["values"])
    if case["class"].lower() == "sgd":
        momentum = table(case["momentum"]) if "momentum" in case else k.get("momentum") or 0.0
        ours = sgd(rate, momentum, k.get("nesterov", False))
    else:
        b1, b2 = k.get("betas", (k.get("b1"), k.get("b2")))
        b1 = table(case["momentum"]) if "momentum" in case else b1
        if case["class"].lower() == "adamw":
            return adamw(rate, b1, b2, k.get("eps", 1e-8), k["weight_decay"])
        options = {"nesterov": k.get("nesterov", False), "eps_root": k.get("eps_root", 0.0)}
        ours = adam(rate, b1, b2, k.get("eps", 1e-8), **options)
    return optax.chain(optax.add_decayed_weights(k["weight_decay"]), ours) if k.get("weight_decay") else ours


def schedule_free(case):
    """How an optimizer of the schedule-free reference is written here."""
    k = case["kwargs"]
    rate, weights = scheduled(case), {"r": k.get("r", 0.0), "weight_lr_power": k.get("weight_lr_power", 2.0)}
    match case["class"]:
        case "SGDScheduleFree":
            return schedule_free_sgd(rate, k["momentum"], k["warmup_steps"], k["weight_decay"], **weights)
        case "AdamWScheduleFree":
            decay = {"weight_decay": k["weight_decay"], "decay_at": "z" if k.get("decay_at_z") else "y"}
            inner = k.get("inner_momentum", 0.0)
            return schedule_free_adamw(
                rate, *k["betas"], k.get("eps", 1e-8), k["warmup_steps"], **decay, inner_momentum=inner, **weights
            )
        case "RAdamScheduleFree":
            silent = k["silent_sgd_phase"]
            return schedule_free_radam(rate, *k["betas"], k["eps"], k["weight_decay"], silent=silent, **weights)
        case "ScheduleFreeWrapper":
            # Its decay at y is a step of its own, after the base's.
            decay = optax.add_decayed_weights(-rate * k["weight_decay_at_y"] if k["weight_decay_at_y"] else 0.0)
            return average(
                optax.chain(wrapped(k["base_optimizer"], rate), decay), weighted(rate, **weights), k["momentum"]
            )
        case "AdamWScheduleFreePaper":
            # The correction of the second moment is part of the rate, with which is also averaged.
            b1, b2 = k["betas"]
            rate = warmed(rate, k["warmup_steps"]) * (1 - advance(exponential_decay(1.0, b2, 1), 1)) ** 0.5
            rms = optax.scale_by_rms(b2, k["eps"], eps_in_sqrt=False, bias_correction=False)
            base = optax.chain(rms, optax.add_decayed_weights(k["weight_decay"]), optax.scale_by_learning_rate(rate))
            return average(base, weighted(rate, **weights), b1)
        case "AdamCScheduleFreePlusPaper":
            betas = k["sf_beta1"], k.get("sf_beta1_max", 0.965), k.get("sf_beta1_anneal_steps", 0)
            options = {"polyak_beta": k.get("polyak_beta", 0.0), "newest_until": k.get("c_warmup", 0)}
            decay = k.get("weight_decay", 0.0)
            return schedule_free_plus(rate, *betas, *k["betas"], weight_decay=decay, **options, **weights)
    raise AssertionError(f"no translation of {case['class']}")


def scheduled(case):
    rate, scheduler = case["base_lr"], case["kwargs"].get("scheduler")
    if scheduler is None:
        return rate
    k = scheduler["kwargs"]
    if scheduler["class"] == "CosineAnnealingLR":
        return cosine(rate, k["eta_min"], k["T_max"])
    return rate * advance(linear(0.0, 1.0, k["lr_lambda"]["warmup"]), 1)


def wrapped(base, rate):
    k = base["kwargs"]
    match base["class"]:
        case "SGD":
            return sgd(rate, k.get("momentum", 0.0), k.get("nesterov", False))
        case "Adam":
            return adam(rate, *k["betas"])
        case "RMSprop":
            return optax.rmsprop(rate, k["alpha"], eps_in_sqrt=False)
    raise AssertionError(f"no translation of {base['class']}")


SIZE = 8  # of the largest parameters recorded, together


def vector(arrays):
    """The arrays of a case one after another, and zeros: of one shape, so that cases share what is compiled."""
    flat = np.concatenate([np.ravel(array) for array in arrays])
    return np.pad(flat, (0, SIZE - flat.size))


def replay(optimizer, case, dtype):
    params = jnp.asarray(vector(case["params0"]), dtype)
    state = optimizer.init(params)
    for i, grads in enumerate(case["grads"]):
        value = {"value": case["losses"][i]} if "losses" in case else {}
        updates, state = optimizer.update(jnp.asarray(vector(grads), dtype), state, params, **value)
        params = optax.apply_updates(params, updates)
        yield params, state


def close(actual, desired, tolerance, scale):
    np.testing.assert_allclose(actual, vector(desired), rtol=0, atol=tolerance * scale)


def largest(*histories):
    return max(np.abs(leaf).max() for history in histories for tree in history for leaf in map(np.asarray, tree))


def replay_plain(case, dtype, tolerance):
    scale = largest(case["params"])
    for (params, _), desired in zip(replay(plain(case), case, dtype), case["params"], strict=True):
        close(params, desired, tolerance, scale)


def replay_schedule_free(case, dtype, tolerance):
    scale = largest(case["x"], case["y"], case["z"])
    history = replay(schedule_free(case), case, dtype)
    for (params, state), x, y, z in zip(history, case["x"], case["y"], case["z"], strict=True):
        close(params, y, tolerance, scale)
        close(eval_params(state, params), x, tolerance, scale)
        close(state.z, z, tolerance, scale)


PLAIN = [*cases("torch"), *cases("optax")]
REFERENCE = [case for case in cases("schedulefree") if "defect" not in case.values[0]]


@pytest.mark.parametrize("case", PLAIN)
def test_equals_what_pytorch_and_optax_recorded(case):
    replay_plain(case, jnp.float32, 1e-6)


@pytest.mark.parametrize("case", PLAIN)
def test_equals_what_pytorch_and_optax_recorded_in_float64(case, x64):
    replay_plain(case, jnp.float64, 1e-12)


@pytest.mark.parametrize("case", REFERENCE)
def test_x_y_and_z_equal_those_of_the_schedule_free_reference(case):
    # The rate of ScheduleFree+ depends on z - x, through which rounding is fed back.
    replay_schedule_free(case, jnp.float32, 2e-6 if "Plus" in case["class"] else 1e-6)


@pytest.mark.parametrize("case", REFERENCE)
def test_x_y_and_z_equal_those_of_the_schedule_free_reference_in_float64(case, x64):
    replay_schedule_free(case, jnp.float64, 1e-12)


def test_the_norm_of_schedule_free_plus_is_corrected_once():
    """The reference corrects its running norm again at every update, and its rate comes out too small."""
    (case,) = [c.values[0] for c in cases("schedulefree") if "defect" in c.values[0]]
    rho, base = case["kwargs"]["polyak_beta"], case["base_lr"]
    norm, rates = 0.0, []
    for k, (_, state) in enumerate(replay(schedule_free(case), case, jnp.float32)):
        length = np.sqrt(np.pi / 2) * sum(np.abs(g).sum() for g in map(np.asarray, case["grads"][k]))
        norm = rho * norm + (1 - rho) * length
        np.testing.assert_allclose(state.norm, norm, rtol=1e-5)
        if k == 0:  # where nothing but the loss and the norm enter
            first = base * max(case["losses"][0], 0) / (norm / (1 - rho))
            np.testing.assert_allclose(state.used["learning_rate"], first, rtol=1e-5)
        rates.append(float(state.used["learning_rate"]))
    gap = np.abs(np.array(case["values"]) - rates)
    assert gap.max() > 0.1 * max(rates)


def test_the_peers_recorded_are_the_ones_meant():
    found = {case.values[0]["class"] for case in [*PLAIN, *REFERENCE]}
    assert len(PLAIN) >= 15
    assert len(REFERENCE) >= 30
    assert found == {
        "Adam", "AdamW", "SGD", "adam", "adamw", "sgd", "SGDScheduleFree", "AdamWScheduleFree", "RAdamScheduleFree",
        "ScheduleFreeWrapper", "AdamWScheduleFreePaper", "AdamCScheduleFreePlusPaper",
    }  # fmt: skip
