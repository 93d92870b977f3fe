"""Optimizers by name: of optax, what `module:factory` makes, or a white box in a JSON file."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from lrevopt import specs
from lrevopt.checks import shown
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.optax import from_optax
from lrevopt.optimizers.white_box_documents import load_box

OPTAX = "optax:"
"""What the name of one of optax's optimizers begins with, as in `optax:adamw`."""


def make_optimizer(
    spec: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    key: Key[Array, ""],
) -> AbstractOptimizer:
    """The optimizer that `optax:name` or `module:factory` makes of these arguments.

    A name that ends with `.json` is a white box in a file that `lrevopt distill` wrote.

    A factory makes an `AbstractOptimizer` or an optax transformation; `key` is passed on to one
    that has an argument of that name. `module:optimizer` may also be one of both itself.

    Raises `ValueError` for a name that stands for no optimizer, arguments that do not fit, and a
    transformation that `from_optax` refuses.
    """
    if specs.is_box(spec):
        if kwargs:
            raise ValueError(f"`kwargs` must be left out for `{spec}`, a white box with numbers.")
        return load_box(spec)
    make = _optax(spec) if spec.startswith(OPTAX) else specs.find_object("optimizer", spec)
    arguments = dict(kwargs or {})
    if not isinstance(make, AbstractOptimizer | optax.GradientTransformation):
        if "key" not in arguments and not spec.startswith(OPTAX) and specs.takes(make, "key"):
            arguments["key"] = key
        made = specs.call("optimizer", spec, make, arguments)
    elif arguments:
        raise ValueError(f"`kwargs` must be left out, since {spec} is an optimizer itself.")
    else:
        made = make
    if isinstance(made, AbstractOptimizer):
        return made
    if isinstance(made, optax.GradientTransformation | optax.MultiSteps):
        try:
            return from_optax(made)
        except ValueError as error:
            raise blamed(spec, arguments, error) from error
    raise ValueError(
        f"`optimizer` must make an AbstractOptimizer or an optax transformation, but {spec} made a "
        f"{type(made).__name__}."
    )


def blamed(spec: str, kwargs: Mapping[str, Any], error: ValueError) -> ValueError:
    """The error, or where a transformation fails with arguments that are no numbers, one of them.

    Names of floating types are arguments, too.
    """
    unfit = [f"{name}={shown(value)}" for name, value in kwargs.items() if not _fits(value)]
    if not unfit or not str(error).startswith("`transformation`"):
        return error
    return ValueError(
        f"`kwargs` must hold finite numbers where {spec} computes with them, got "
        f"{', '.join(unfit)}."
    )


def _fits(value: Any) -> bool:
    """Whether a value may be an argument of one of optax's optimizers."""
    if isinstance(value, str):
        try:
            jnp.dtype(value)
        except TypeError:
            return False
    return not isinstance(value, list | dict) and (
        not isinstance(value, float) or math.isfinite(value)
    )


def make_transformation(spec: str, kwargs: Mapping[str, Any]) -> Any:
    """The transformation that `optax:name` makes of these arguments, which may be traced."""
    return specs.call("optimizer", spec, _optax(spec), kwargs)


def needs_learning_rate(spec: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether this is an optimizer of optax whose learning rate is not among `kwargs`."""
    return (
        spec.startswith(OPTAX)
        and "learning_rate" not in kwargs
        and specs.takes(_optax(spec), "learning_rate")
    )


def _optax(spec: str) -> Any:
    """The function of optax that `optax:name` names."""
    found: Any = optax
    for part in spec.removeprefix(OPTAX).split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"`optimizer`: optax has no {spec.removeprefix(OPTAX)!r}.")
    return found
