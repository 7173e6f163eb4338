"""Predicting what a schedule does before training: bounds, laws of loss curves, an exact model, advice.

Functions of schedules and arrays. Each says in its documentation what it rests on and how far it can be trusted.
"""

from theory.advice import *
from theory.last_iterate import *
from theory.loss_fit import *
from theory.loss_laws import *
from theory.quadratics import *
from theory.refinement import *
