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

from schedules.combinators import add as add
from schedules.combinators import function as function
from schedules.combinators import join as join
from schedules.combinators import multiply as multiply
from schedules.combinators import warmup as warmup
from schedules.core import Formula as Formula
from schedules.core import Schedule as Schedule
from schedules.core import ScheduleLike as ScheduleLike
from schedules.core import Schedules as Schedules
from schedules.core import Shape as Shape
from schedules.core import as_schedule as as_schedule
from schedules.core import schedule as schedule
from schedules.core import stack as stack
from schedules.decays import multistep as multistep
from schedules.decays import piecewise_constant as piecewise_constant
from schedules.decays import table as table
from schedules.inspection import tabulate as tabulate
from schedules.kinds import Boundaries as Boundaries
from schedules.kinds import Steps as Steps
from schedules.kinds import Value as Value
from schedules.kinds import Values as Values
from schedules.ramps import constant as constant
from schedules.ramps import cosine as cosine
from schedules.ramps import linear as linear
