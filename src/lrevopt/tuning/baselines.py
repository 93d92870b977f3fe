"""The hand-written optimizers that learned ones are compared with."""

from collections.abc import Callable

from lrevopt.optimizers.classical import Adam, Momentum, RMSProp
from lrevopt.optimizers.interface import AbstractOptimizer

BASELINES: dict[str, Callable[..., AbstractOptimizer]] = {
    "momentum": Momentum,
    "rmsprop": RMSProp,
    "adam": Adam,
}
"""Constructors by name, whose arguments are tuned. One more line is one more baseline."""
