"""Constructors of optimizers: which of their arguments are searched, and many settings at once."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lrevopt.checks import instance, mapping, real_array, shown
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tuning.settings import DEFAULT_RANGES, SearchRange, Tuning, axis_of


def search_axes(
    constructor: Callable[..., AbstractOptimizer], settings: Tuning
) -> dict[str, SearchRange]:
    """The axes that `tune` searches by argument of `constructor`. Raises as `tune` does."""
    instance("settings", settings, Tuning, "Tuning settings")
    title = name_of(constructor)
    arguments = _arguments(constructor)
    chosen = {name: axis_of(name, pair) for name, pair in settings.ranges.items()}
    ranges = {**DEFAULT_RANGES, **chosen}
    if unknown := [name for name in settings.ranges if name not in arguments]:
        raise ValueError(
            f"`ranges` must name arguments of {title} ({', '.join(arguments)}), got {unknown[0]!r}."
        )
    needed = (name for name, argument in arguments.items() if argument.default is argument.empty)
    if missing := [name for name in needed if name not in ranges]:
        raise ValueError(
            f"`ranges` must hold a range for `{missing[0]}` of {title}, which has neither a "
            f"default nor a built-in range, got {sorted(settings.ranges)}."
        )
    axes = {name: ranges[name] for name in arguments if name in ranges}
    if not axes:
        raise ValueError(f"`constructor` must have an argument to search, got {title}.")
    return axes


def name_of(constructor: Any) -> str:
    """The name of a constructor of optimizers; `ValueError` for anything else."""
    if not callable(constructor) or isinstance(constructor, AbstractOptimizer):
        hint = ": pass its class" if isinstance(constructor, AbstractOptimizer) else ""
        raise ValueError(
            f"`constructor` must be a class or function that makes an optimizer, got "
            f"{shown(constructor)}{hint}."
        )
    if isinstance(constructor, partial):
        return name_of(constructor.func)
    return getattr(constructor, "__name__", type(constructor).__name__)


def _arguments(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor, without those that a `functools.partial` has bound."""
    bound = constructor.keywords if isinstance(constructor, partial) else {}
    arguments = inspect.signature(constructor).parameters
    return {name: each for name, each in arguments.items() if name not in bound}


def takes(constructor: Callable[..., Any], name: str) -> bool:
    """Whether a constructor has an argument of this name."""
    arguments = inspect.signature(constructor).parameters
    return name in arguments or any(each.kind is each.VAR_KEYWORD for each in arguments.values())


def stack_settings(
    constructor: Callable[..., AbstractOptimizer],
    values: Mapping[str, Float[np.ndarray, " setting"]],
) -> AbstractOptimizer:
    """Optimizers of many settings as one module whose arrays have a leading axis `setting`.

    Raises `ValueError` for values that are not lists of numbers of one length, or an argument that
    `constructor` does not have.
    """
    name_of(constructor)
    arrays = {
        name: as_float(real_array(f"values[{name!r}]", value))
        for name, value in mapping("values", values, "settings").items()
    }
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or any(len(shape) != 1 or 0 in shape for shape in shapes):
        raise ValueError(
            "`values` must be lists of one length, an entry for each setting, got shapes "
            f"{[array.shape for array in arrays.values()]}."
        )
    if unknown := [name for name in arrays if not takes(constructor, name)]:
        raise ValueError(
            f"`values` must name arguments of {name_of(constructor)}, got {unknown[0]!r}."
        )
    return eqx.filter_vmap(lambda chosen: constructor(**chosen))(arrays)
