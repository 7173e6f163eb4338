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

from optim.adaptive import AdamState as AdamState
from optim.adaptive import adam as adam
from optim.adaptive import adamw as adamw
from optim.adaptive import radam as radam
from optim.adaptive import rectification as rectification
from optim.averaging import AverageState as AverageState
from optim.averaging import Coefficient as Coefficient
from optim.averaging import average as average
from optim.batch_stats import refresh_batch_stats as refresh_batch_stats
from optim.batch_stats import refresh_batch_stats_nnx as refresh_batch_stats_nnx
from optim.coefficients import Remembering as Remembering
from optim.coefficients import Weights as Weights
from optim.coefficients import ema as ema
from optim.coefficients import ema_half_life as ema_half_life
from optim.coefficients import ema_relative as ema_relative
from optim.coefficients import ema_warmed as ema_warmed
from optim.coefficients import exponent_of_width as exponent_of_width
from optim.coefficients import exponential_average as exponential_average
from optim.coefficients import polyak as polyak
from optim.coefficients import polynomial_average as polynomial_average
from optim.coefficients import power_ema as power_ema
from optim.coefficients import relative_width as relative_width
from optim.coefficients import sampled as sampled
from optim.coefficients import swa as swa
from optim.coefficients import tail as tail
from optim.coefficients import weighted as weighted
from optim.evaluation import Average as Average
from optim.evaluation import eval_params as eval_params
from optim.evaluation import hyperparameters as hyperparameters
from optim.evaluation import require_eval_params as require_eval_params
from optim.latest import LawaState as LawaState
from optim.latest import lawa as lawa
from optim.lr_finder import RangeTest as RangeTest
from optim.lr_finder import plot_range_test as plot_range_test
from optim.lr_finder import range_test as range_test
from optim.lr_finder import suggest_rate as suggest_rate
from optim.momentum import SgdState as SgdState
from optim.momentum import sgd as sgd
from optim.plateau import Plateau as Plateau
from optim.plateau import PlateauState as PlateauState
from optim.plateau import reduce_on_plateau as reduce_on_plateau
from optim.polyak_step import ScheduleFreePlusState as ScheduleFreePlusState
from optim.polyak_step import schedule_free_plus as schedule_free_plus
from optim.post_hoc import Snapshot as Snapshot
from optim.post_hoc import post_hoc_ema as post_hoc_ema
from optim.presets import gpa as gpa
from optim.presets import schedule_free as schedule_free
from optim.presets import schedule_free_adamw as schedule_free_adamw
from optim.presets import schedule_free_radam as schedule_free_radam
from optim.presets import schedule_free_sgd as schedule_free_sgd
from optim.presets import warmed as warmed
from optim.rules import ScaleByPathState as ScaleByPathState
from optim.rules import matching as matching
from optim.rules import not_matching as not_matching
from optim.rules import per_parameter as per_parameter
from optim.rules import scale_by_path as scale_by_path
