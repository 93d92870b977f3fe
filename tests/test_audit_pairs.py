"""Audits flag no sound pair: optax against ours, against plain formulas, against chains of optax.

The pairs against torch.optim are in `test_audit_torch.py`.
"""

from collections.abc import Callable
from typing import Any

import optax
import pytest
from by_hand import (
    adabelief,
    adadelta,
    adagrad,
    adam,
    adamax,
    lion,
    momentum,
    nadam,
    rmsprop,
    rprop,
)
from tables import mostly_long

import lrevopt as lo


def fixed_rprop():
    """Ours as a pair in optax's manner; optax's own is one update late in release 0.2.8."""

    def init(parameters):
        return parameters * 0 + 0.01, parameters * 0

    def update(gradients, state, parameters):
        import jax.numpy as jnp

        size, kept = state
        same = jnp.sign(gradients) * kept
        grown = jnp.clip(size * jnp.where(same > 0, 1.2, 0.5), 1e-6, 50.0)
        size = jnp.where(same == 0, size, grown)
        seen = jnp.where(same < 0, 0.0, gradients)
        return -size * jnp.sign(seen), (size, jnp.sign(seen))

    return optax.GradientTransformation(init, update)


def decayed(gradients, parameters):
    moves = adam(gradients)
    return [u - 0.01 * 0.1 * x for u, x in zip(moves, parameters, strict=True)]


def coupled(gradients, parameters):
    return list(momentum([g + 0.1 * x for g, x in zip(gradients, parameters, strict=True)]))


def scheduled(gradients):
    return [-0.1 / (1 + k) * g for k, g in enumerate(gradients)]


def last_of_momentum(gradients):
    """The update after the whole history."""
    return -0.1 * sum(0.9**age * g for age, g in enumerate(reversed(gradients)))


PAIRS = {
    "gradient descent": (lo.GradientDescent(0.1), optax.sgd(0.1)),
    "clipped": (lo.ClippedGradientDescent(0.1, 2.0), optax.chain(optax.clip(2.0), optax.sgd(0.1))),
    "momentum": (lo.Momentum(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "Nesterov": (lo.Nesterov(0.1, 0.9), optax.sgd(0.1, 0.9, nesterov=True)),
    "RMSProp": (lo.RMSProp(0.01, 0.9, 1e-8), optax.rmsprop(0.01, 0.9, 1e-8)),
    "Adam": (lo.Adam(0.01), optax.adam(0.01)),
    "two velocities": (lo.AggregatedMomentum([0.1, 0.0], [0.9, 0.5]), optax.sgd(0.1, 0.9)),
    "momentum by hand": (momentum, optax.sgd(0.1, 0.9)),
    "momentum, last update": (last_of_momentum, lo.Momentum(0.1, 0.9)),
    "Nesterov by hand": (
        lambda g: momentum(g, form="nesterov"), optax.sgd(0.1, 0.9, nesterov=True),
    ),
    "Adam by hand": (adam, optax.adam(0.01)),
    "Adam, epsilon inside": (
        lambda g: adam(g, eps=1e-6, epsilon="inside"), optax.adam(0.01, eps=0.0, eps_root=1e-6),
    ),
    "Nadam": (nadam, optax.nadam(0.01)),
    "AMSGrad": (lambda g: adam(g, amsgrad="after"), optax.amsgrad(0.01)),
    "RMSProp by hand": (rmsprop, optax.rmsprop(0.01)),
    "centred RMSProp": (lambda g: rmsprop(g, centred=True), optax.rmsprop(0.01, centered=True)),
    "RMSProp, epsilon outside": (
        lambda g: rmsprop(g, inside=False), optax.rmsprop(0.01, eps_in_sqrt=False),
    ),
    "Adagrad": (adagrad, optax.adagrad(0.1)),
    "Adadelta": (adadelta, optax.adadelta(1.0)),
    "AdaMax": (adamax, optax.adamax(0.01)),
    "AdaBelief": (adabelief, optax.adabelief(0.01)),
    "Lion": (lion, optax.lion(0.001, weight_decay=0.0)),
    "Rprop": (rprop, fixed_rprop()),
    "AdamW": (decayed, optax.adamw(0.01, weight_decay=0.1)),
    "momentum with coupled decay": (
        coupled, optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)),
    ),
    "a schedule": (scheduled, optax.sgd(lambda count: 0.1 / (1 + count))),
    "sign descent": (
        lambda g: [-0.1 * ((u > 0) * 1.0 - (u < 0) * 1.0) for u in g], optax.sign_sgd(0.1),
    ),
    "a chain": (
        optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), optax.scale(-0.01)),
        optax.adamw(0.01, weight_decay=0.1),
    ),
    "steps in groups of one": (optax.MultiSteps(optax.adam(0.01), 1), optax.adam(0.01)),
}  # fmt: skip


MADE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "a GRU both ways": lambda: (lo.load("rosenbrock"), lo.to_optax(lo.load("rosenbrock"))),
    "from optax": lambda: (lo.from_optax(optax.amsgrad(0.01)), optax.amsgrad(0.01)),
    "AdamW from optax": lambda: (
        lo.from_optax(optax.adamw(0.01, weight_decay=0.1)), optax.adamw(0.01, weight_decay=0.1),
    ),
    "to optax": lambda: (lo.to_optax(lo.Adam(0.01)), optax.adam(0.01)),
}  # fmt: skip
"""Those that take a while to make: every worker imports this file."""


@pytest.mark.parametrize(
    "name",
    mostly_long(
        [*PAIRS, *MADE], "momentum", "Adam", "Adam by hand", "AdamW", "a schedule", "to optax"
    ),
)
def test_a_sound_pair_is_equal(name):
    found = lo.audit(*(MADE[name]() if name in MADE else PAIRS[name]))
    assert found.equal, found.verdict
    assert (found.experiment, found.difference, found.departure) == (None, None, None)
    assert found.departures == ()


def test_there_are_thirty():
    assert len(PAIRS) + len(MADE) >= 30
