"""Every gradient transformation that optax and optax.contrib have, in several settings each.

Made from the namespaces themselves, so that what a new release adds turns up by itself.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

RATE = 0.05


def first_half(tree: Any) -> Any:
    """A mask by place: a transformation that treats arrays differently."""
    return jax.tree.map(lambda leaf: leaf.ndim < 2, tree)


ARGUMENTS: dict[str, Any] = {
    "adv_optimizer": optax.sgd(RATE),
    "base_optimizer": optax.adam(RATE),
    "clipping": 0.1,
    "decay": 0.9,
    "eta": 0.01,
    "f": lambda update, parameter: jax.tree.map(lambda u: 0.5 * u, update),
    "fast_optimizer": optax.sgd(RATE),
    "freeze_mask": first_half,
    "gamma": 0.55,
    "inner": optax.adam(RATE),
    "inner_factory": optax.adam,
    "key": 0,
    "l2_norm_clip": 1.0,
    "learning_rate": RATE,
    "mask": first_half,
    "max_backtracking_steps": 5,
    "max_consecutive_errors": 3,
    "max_delta": 1.0,
    "max_linesearch_steps": 5,
    "max_norm": 1.0,
    "measure": optax.tree.norm,
    "measure_name": "norm",
    "measures": {"norm": optax.tree.norm},
    "noise_multiplier": 0.1,
    "optimizer": optax.adam(RATE),
    "param_labels": partial(jax.tree.map, lambda leaf: "all"),
    "seed": 0,
    "should_transform_fn": lambda step: step % 2 == 0,
    "slow_step_size": 0.5,
    "step_size": -RATE,
    "step_size_fn": lambda step: -RATE / (1 + step),
    "sync_period": 5,
    "threshold": 1.0,
    "transforms": {"all": optax.adam(RATE)},
    "tx": optax.adam(RATE),
}
"""Arguments without a default, by name."""

SCHEDULED = {"adabelief", "adam", "adamw", "contrib.muon", "contrib.schedule_free", "lamb", "sgd"}
"""Optimizers that are also tried with a schedule."""

POSITIONAL: dict[str, tuple[Any, ...]] = {
    "chain": (optax.clip(1.0), optax.sgd(RATE)),
    "named_chain": (("clip", optax.clip(1.0)), ("move", optax.sgd(RATE))),
}

VARIANTS: dict[str, Any] = {
    "accumulator_dtype": jnp.float32,
    "learning_rate": lambda step: RATE / (1 + 0.1 * step),
    "momentum": 0.8,
    "mu_dtype": jnp.float32,
    "weight_decay": 0.1,
}
"""A second value of arguments, where an optimizer has them."""

UNANNOTATED = {
    "monitor",
    "scale_by_factored_rms",
    "dog",
    "dowg",
    "hutchinson_estimator_diag_hessian",
}
"""Transformations whose functions do not say what they return."""


class Configuration(NamedTuple):
    """A transformation by name; `varied` says that an argument is not at its default."""

    name: str
    make: Callable[[], Any]
    varied: bool


def transformations() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions of the namespaces that make transformations, by name."""
    for module, prefix in ((optax, ""), (optax.contrib, "contrib.")):
        for name in sorted(set(dir(module))):
            function = getattr(module, name)
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            returned = str(inspect.signature(function).return_annotation)
            if "GradientTransformation" in returned or name in UNANNOTATED:
                yield prefix + name, function


def configurations() -> list[Configuration]:
    """Each transformation in its default setting, then with one argument changed at a time."""
    found = []
    for name, function in transformations():
        parameters = inspect.signature(function).parameters
        fixed = {
            key: ARGUMENTS[key]
            for key, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind != parameter.VAR_POSITIONAL
        }
        if {"key", "seed"} <= set(parameters):
            fixed["key"] = 0
        changes: list[dict[str, Any]] = [{}]
        for key, parameter in parameters.items():
            if isinstance(parameter.default, bool) and key != "verbose":
                changes.append({key: not parameter.default})
            elif key in VARIANTS and (key != "learning_rate" or name in SCHEDULED):
                changes.append({key: VARIANTS[key]})
        for change in changes:
            label = name + "".join(f"-{key}" for key in change)
            make = partial(made, name, function, fixed | change)
            found.append(Configuration(label, make, varied=bool(change)))
    steps: tuple[tuple[str, dict[str, Any]], ...] = (
        ("accumulated", {}),
        ("accumulated-skipping", {"should_skip_update_fn": optax.skip_not_finite}),
        ("accumulated-sum", {"use_grad_mean": False}),
    )
    for label, settings in steps:
        for inner, tx in (("adam", optax.adam(RATE)), ("lamb", optax.lamb(RATE))):
            make = partial(optax.MultiSteps, tx, 3, **settings)
            found.append(Configuration(f"{label}-{inner}", make, varied=False))
    return found


def made(name: str, function: Callable[..., Any], settings: dict[str, Any]) -> Any:
    result = function(*POSITIONAL.get(name, ()), **settings)
    if "inner_factory" in settings:
        return result(learning_rate=RATE)
    if name == "monitor":
        return optax.chain(optax.sgd(RATE), result)
    return result
