"""Optimizers whose hyperparameters are numbers or schedules: real optax transformations.

>>> import jax.numpy as jnp, optax
>>> from optim import adam, average, ema, eval_params
>>> optimizer = average(adam(1e-3), ema(0.999))
>>> params = {"w": jnp.ones(3)}
>>> state = optimizer.init(params)
>>> updates, state = optimizer.update({"w": jnp.ones(3)}, state, params)
>>> params = optax.apply_updates(params, updates)
>>> averaged = eval_params(state, params)
"""

from optim.adam import AdamState as AdamState
from optim.adam import adam as adam
from optim.averaging import AverageState as AverageState
from optim.averaging import average as average
from optim.averaging import ema as ema
from optim.averaging import exponential_average as exponential_average
from optim.averaging import polyak as polyak
from optim.evaluation import eval_params as eval_params
from optim.schedule_free import schedule_free as schedule_free
