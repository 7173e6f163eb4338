"""Predicting what a schedule does before training: bounds, laws of loss curves, an exact model, advice.

All are functions of schedules and arrays. The docstring of each says what it is based on and how far to trust it.
"""

from theory.advice import *
from theory.last_iterate import *
from theory.loss_fit import *
from theory.loss_laws import *
from theory.quadratics import *
from theory.refinement import *
