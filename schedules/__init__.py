"""Schedules: pure functions of the step that are also values.

>>> from schedules import cosine, warmup
>>> lr = warmup(cosine(0.5, 0.0, steps=900), steps=100)
>>> float(lr(50))
0.25
>>> lr
warmup(cosine(start=0.5, end=0.0, steps=900), steps=100, init=0.0, shape=linear)
>>> lr == lr.replace(steps=100) != lr.replace(steps=200)
True

The clock: `lr(t)` is the value for the update that follows t updates, so the first update uses `lr(0)`.
Lengths are numbers of updates, and each phase's length counts only its own updates. A boundary b takes effect at t = b.
"""

from schedules.clocks import *
from schedules.combinators import *
from schedules.composed import *
from schedules.core import *
from schedules.cycles import *
from schedules.decays import *
from schedules.drawing import *
from schedules.formula import *
from schedules.inspection import *
from schedules.kinds import *
from schedules.ramps import *
from schedules.recipes import *
from schedules.sequences import *
from schedules.text import *
