"""One picture's worth of every schedule: an example of each, and the run to see it over."""

from collections.abc import Mapping

# What `parse` reads, but for `function`, which holds a plain callable. Most runs end a little after their schedule, so
# that it is seen to hold.
EXAMPLES: Mapping[str, tuple[str, int]] = {
    # Ramps
    "constant": ("constant(0.1)", 120),
    "linear": ("linear(0.1, 0, 100)", 120),
    "cosine": ("cosine(0.1, 0, 100)", 120),
    "exponential": ("exponential(0.1, 0.001, 100)", 120),
    "polynomial": ("polynomial(0.1, 0, 100, exponent=3)", 120),
    "one_minus_sqrt": ("one_minus_sqrt(0.1, 0, 100)", 120),
    "square": ("square(0.1, 0, 100)", 120),
    "rex": ("rex(0.1, 0, 100, bend=0.3)", 120),
    "tanh": ("tanh(0.1, 0, 100)", 120),
    # Without an end
    "exponential_decay": ("exponential_decay(0.1, factor=0.5, steps=30)", 120),
    "step_decay": ("step_decay(0.1, steps=30, factor=0.5)", 120),
    "multistep": ("multistep(0.1, milestones=[60, 90], factor=0.3)", 120),
    "piecewise_constant": ("piecewise_constant([0.02, 0.1, 0.05], boundaries=[20, 80])", 120),
    "interpolate": ("interpolate([0.01, 0.1, 0.06, 0.08, 0], [0, 20, 50, 70, 110])", 120),
    "inverse_time": ("inverse_time(0.1, rate=1, steps=30)", 120),
    "inverse_sqrt": ("inverse_sqrt(0.1, timescale=10)", 120),
    "power_law": ("power_law(0.1, exponent=2, timescale=30)", 120),
    "table": ("table([0.1, 0.06, 0.08, 0.03, 0.01], every=20)", 120),
    "noise": ("0.1 * (1 + noise(0.1, seed=0, every=3))", 120),
    # Cycles
    "restarts": ("restarts(cosine(0.1, 0.01, 30), period=30, growth=2, decay=0.8)", 210),
    "triangular": ("triangular(0.02, 0.1, up=15, down=25, decay=0.5)", 160),
    # One after another
    "join": ("join([linear(0.02, 0.1, 30), 0.05, cosine(0.08, 0, 40)], [30, 60])", 120),
    "warmup": ("warmup(cosine(0.1, 0, 80), 20)", 120),
    "cooldown": ("cooldown(inverse_sqrt(0.1, 20), start=80, steps=30)", 120),
    "power_cooldown": ("power_cooldown(inverse_sqrt(0.1, 20), start=60, steps=50, exponent=1.5)", 120),
    # On one clock
    "multiply": ("multiply(cosine(0.1, 0, 100), triangular(0.6, 1, 10, 10))", 120),
    "add": ("add(cosine(0.1, 0.02, 100), triangular(0, 0.02, 10, 10))", 120),
    "power": ("power(cosine(1, 0, 100), 3)", 120),
    "minimum": ("minimum(linear(0, 0.2, 80), cosine(0.1, 0, 100))", 120),
    "maximum": ("maximum(cosine(0.1, 0, 100), 0.02)", 120),
    "clip": ("clip(triangular(0, 0.1, 30, 30), low=0.02, high=0.08)", 120),
    "function": ("function(lambda t: 0.1 * jnp.exp(-((t - 40) / 20) ** 2))", 120),
    # Another clock
    "delay": ("delay(cosine(0.1, 0, 60), 40)", 120),
    "advance": ("advance(cosine(0.1, 0, 100), 40)", 120),
    "extend": ("extend(wsd(0.1, 10, 30, 30), at=30, steps=40)", 120),
    "stretch": ("stretch(warmup(cosine(0.1, 0, 40), 10), factor=2)", 120),
    "per_epoch": ("per_epoch(cosine(0.1, 0, 10), steps_per_epoch=10)", 120),
    "per_update": ("per_update(cosine(0.1, 0, 6_400), units=64)", 120),
    # Recipes
    "warmup_cosine": ("warmup_cosine(0.1, warmup_steps=20, decay_steps=80)", 120),
    "flat_cosine": ("flat_cosine(0.1, flat_steps=75, decay_steps=25)", 120),
    "wsd": ("wsd(0.1, warmup_steps=10, stable_steps=70, decay_steps=20)", 120),
    "infinite": ("infinite(0.1, 0.04, 0.001, 10, 40, 30, 30)", 120),
    "sgdr": ("sgdr(0.1, period=30, growth=2)", 210),
    "noam": ("noam(width=512, warmup_steps=30)", 240),
    "triangle": ("triangle(0.1, up=23, down=77)", 120),
    "one_cycle": ("one_cycle(0.1, up=30, down=70)", 120),
    "one_cycle_three_phase": ("one_cycle_three_phase(0.1, up=40, down=40, anneal=20, div=10)", 120),
    "one_cycle_momentum": ("one_cycle_momentum(up=30, down=70)", 120),
}
