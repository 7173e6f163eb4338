"""Schedules: pure functions of the step that are also values.

>>> from schedules import cosine, warmup
>>> lr = warmup(cosine(0.5, 0.0, steps=900), steps=100)
>>> float(lr(50))
0.25
>>> lr
warmup(cosine(start=0.5, end=0.0, steps=900), steps=100, init=0.0, shape=linear)
>>> lr == lr.replace(steps=100) != lr.replace(steps=200)
True

The clock: `lr(t)` is the value for the update that follows t updates; the first update uses `lr(0)`.
Lengths are counted in updates and never include a neighbour's; a boundary b takes effect at t = b.
"""

from schedules.clocks import advance as advance
from schedules.clocks import delay as delay
from schedules.clocks import extend as extend
from schedules.clocks import per_epoch as per_epoch
from schedules.clocks import per_update as per_update
from schedules.clocks import stretch as stretch
from schedules.combinators import clip as clip
from schedules.combinators import cooldown as cooldown
from schedules.combinators import join as join
from schedules.combinators import maximum as maximum
from schedules.combinators import minimum as minimum
from schedules.combinators import power_cooldown as power_cooldown
from schedules.combinators import warmup as warmup
from schedules.composed import recipe as recipe
from schedules.core import Schedule as Schedule
from schedules.core import ScheduleLike as ScheduleLike
from schedules.core import Schedules as Schedules
from schedules.core import Shape as Shape
from schedules.core import add as add
from schedules.core import as_schedule as as_schedule
from schedules.core import constant as constant
from schedules.core import function as function
from schedules.core import multiply as multiply
from schedules.core import power as power
from schedules.core import schedule as schedule
from schedules.core import stack as stack
from schedules.cycles import restarts as restarts
from schedules.cycles import triangular as triangular
from schedules.decays import exponential_decay as exponential_decay
from schedules.decays import interpolate as interpolate
from schedules.decays import inverse_time as inverse_time
from schedules.decays import multistep as multistep
from schedules.decays import noise as noise
from schedules.decays import piecewise_constant as piecewise_constant
from schedules.decays import power_law as power_law
from schedules.decays import table as table
from schedules.formula import Formula as Formula
from schedules.inspection import boundaries as boundaries
from schedules.inspection import check as check
from schedules.inspection import describe as describe
from schedules.inspection import plot as plot
from schedules.inspection import tabulate as tabulate
from schedules.kinds import Boundaries as Boundaries
from schedules.kinds import Period as Period
from schedules.kinds import Positive as Positive
from schedules.kinds import Precise as Precise
from schedules.kinds import Steps as Steps
from schedules.kinds import Value as Value
from schedules.kinds import Values as Values
from schedules.ramps import cosine as cosine
from schedules.ramps import exponential as exponential
from schedules.ramps import linear as linear
from schedules.ramps import one_minus_sqrt as one_minus_sqrt
from schedules.ramps import polynomial as polynomial
from schedules.ramps import rex as rex
from schedules.ramps import square as square
from schedules.ramps import tanh as tanh
from schedules.recipes import flat_cosine as flat_cosine
from schedules.recipes import infinite as infinite
from schedules.recipes import inverse_sqrt as inverse_sqrt
from schedules.recipes import noam as noam
from schedules.recipes import one_cycle as one_cycle
from schedules.recipes import one_cycle_momentum as one_cycle_momentum
from schedules.recipes import one_cycle_three_phase as one_cycle_three_phase
from schedules.recipes import sgdr as sgdr
from schedules.recipes import step_decay as step_decay
from schedules.recipes import triangle as triangle
from schedules.recipes import warmup_cosine as warmup_cosine
from schedules.recipes import wsd as wsd
from schedules.text import parse as parse
