"""Optimizers and averages of the parameters, as optax transformations. Hyperparameters are numbers or schedules.

>>> import jax.numpy as jnp, optax
>>> from optim import adam, average, ema, eval_params
>>> optimizer = average(adam(1e-3), ema(0.999))
>>> params = {"w": jnp.ones(3)}
>>> state = optimizer.init(params)
>>> updates, state = optimizer.update({"w": jnp.ones(3)}, state, params)
>>> params = optax.apply_updates(params, updates)
>>> averaged = eval_params(state, params)
"""

from optim.adaptive import *
from optim.averaging import *
from optim.batch_stats import *
from optim.coefficients import *
from optim.duality import *
from optim.evaluation import *
from optim.latest import *
from optim.lr_finder import *
from optim.merging import *
from optim.momentum import *
from optim.plateau import *
from optim.polyak_step import *
from optim.post_hoc import *
from optim.presets import *
from optim.rules import *
