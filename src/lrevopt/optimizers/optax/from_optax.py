"""Optax transformations as optimizers: which are accepted, and which are refused.

Whether a transformation is component-wise is read off the traced program (`proof`), for any number
of updates and any values of the hyperparameters. Trial runs (`couplings`) are a second check.
"""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from lrevopt.optimizers.classical import hyperparameter
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.optax.counters import held_counters
from lrevopt.optimizers.optax.couplings import check_runs
from lrevopt.optimizers.optax.proof import Verdict, prove
from lrevopt.optimizers.optax.recipe import Recipe, make_recipe
from lrevopt.optimizers.optax.state_leaves import (
    COUNTING,
    StateLeaf,
    arrays_of,
    describe_state,
    init_state,
)
from lrevopt.optimizers.optax.state_space import OptaxOptimizer, OptaxParameterOptimizer, Program
from lrevopt.optimizers.optax.trial_runs import key_of


def from_optax(
    transformation: Any,
    *,
    at_step: int | None = None,
    parameter: ArrayLike | None = None,
    assume_component_wise: bool = False,
    assume_finite: bool = False,
    **hyperparameters: Any,
) -> OptaxOptimizer | OptaxParameterOptimizer:
    """A component-wise optax transformation as an optimizer: `from_optax(optax.adam(1e-3))`.

    A factory with its arguments gives an optimizer whose floating-point arrays are leaves, by name
    in `hyperparameters`: `from_optax(optax.adam, learning_rate=jnp.array(1e-3), b1=0.9)` can be
    stacked, mapped, tuned and differentiated in the learning rate. Plain numbers and all else stay
    constants. Constants in the state of `optax.inject_hyperparams` are leaves as well.

    The state is optax's state of one parameter, array after array in the order of its tree, and
    then the update, with sign and learning rate. `coordinates` names its entries, for Adam
    `("[0].count", "[0].mu", "[0].nu", "update")`. Arrays that never change are left out. `at_step`
    says what becomes of step counters, the integers and booleans of optax's state:

    - `None`: they are coordinates and count, so that a run makes optax's own updates. A state with
      a live counter has no fixed point. The derivative of a counter in itself is 1; all else is
      differentiated as if counters were constant.
    - `k`: they are held at k and are no coordinates. F is that of update k, which turns `states[k]`
      into `states[k + 1]`, at every step, and can have fixed points. k = 0 is the first update; a
      large k is the limit without bias correction, at the end of every schedule.

    Where updates depend on x (weight decay, averages of parameters), the result is an
    `AbstractParameterOptimizer`, whose transition takes x. With `parameter`, x is held at that
    value instead, also along a run, and the result is an `AbstractOptimizer`.

    Raises `ValueError` if the update of one parameter may depend on others, in any state: clipping
    by a norm, LAMB, Adafactor, Muon and others. The message names the operation. Two options:

    - `assume_component_wise`: the coupling in the program never changes an update. Trial runs still
      refuse one that they see.
    - `assume_finite`: gradients are finite. `optax.apply_if_finite` and `skip_not_finite` stop
      every parameter where one gradient is infinite or NaN; here they stop that one alone.

    Also for updates that depend on the shape of the array, random numbers, arguments beside the
    gradient (`value`, `value_fn`), complex numbers, traced values that a transformation closes
    over, and an `at_step` that is negative or where counters depend on gradients. Where
    hyperparameters are traced there are no trial runs; the proof holds for every value.
    """
    if at_step is not None:
        _require_count(at_step)
    shown = hyperparameter("parameter", 0.0 if parameter is None else parameter, may_vanish=True)
    with jax.debug_nans(False), jax.debug_infs(False), jax.numpy_rank_promotion("allow"):
        recipe, arrays = make_recipe(transformation, hyperparameters)
        values = list(arrays.values())
        describe_state(recipe, values, False)
        verdict = _judge(recipe, values, assume_component_wise, assume_finite)
        live = verdict.uses_parameter and parameter is None
        leaves, held = _state(recipe, values, live, at_step)
        arrays = _injected(recipe, leaves) if recipe.made else arrays
    program = Program(recipe, leaves, tuple((n, arrays[n].shape) for n in sorted(arrays)))
    if live:
        return OptaxParameterOptimizer(program, arrays, jnp.ones_like(shown), held)
    return OptaxOptimizer(program, arrays, shown, held)


def hold_counters(optimizer: AbstractOptimizer, at_step: int) -> AbstractOptimizer:
    """The optimizer as `from_optax(..., at_step=at_step)` makes it, with its own hyperparameters.

    One that is not of optax, or has no counter that goes on, comes back as it is. Raises
    `ValueError` for an `at_step` that is negative or where counters depend on gradients.
    """
    _require_count(at_step)
    if not isinstance(optimizer, OptaxOptimizer | OptaxParameterOptimizer):
        return optimizer
    program = optimizer.program
    if not any(leaf.kind in COUNTING for leaf in program.leaves):
        return optimizer
    values = [] if program.recipe.made else jax.tree.leaves(optimizer.hyperparameters)
    with jax.debug_nans(False), jax.debug_infs(False), jax.numpy_rank_promotion("allow"):
        leaves, held = _held(program.recipe, values, program.leaves, at_step)
    standing = dataclasses.replace(program, leaves=leaves)
    return dataclasses.replace(optimizer, program=standing, held=held)


def _state(
    recipe: Recipe, values: list[Array], live: bool, at_step: int | None
) -> tuple[tuple[StateLeaf, ...], tuple[Array, ...]]:
    """The arrays of the state, and the values of those that are held at a step."""
    leaves = describe_state(recipe, values, live)
    return (leaves, ()) if at_step is None else _held(recipe, values, leaves, at_step)


def _held(
    recipe: Recipe, values: list[Array], leaves: tuple[StateLeaf, ...], at_step: int
) -> tuple[tuple[StateLeaf, ...], tuple[Array, ...]]:
    """The arrays of the state with the counters marked as held, and their values at a step."""
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        held = held_counters(recipe, values, leaves, at_step)
    standing = tuple(
        leaf._replace(kind="held") if leaf.kind in COUNTING else leaf for leaf in leaves
    )
    return standing, held


def _judge(
    recipe: Recipe, values: list[Array], assume_component_wise: bool, assume_finite: bool
) -> Verdict:
    """The verdict on the traced program. `ValueError` for couplings in it or in trial runs."""
    # Computed at once, inside `jit` too. In double precision, because in single precision another
    # order of operations could change how an accumulator of half precision is rounded.
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
    ):
        verdict = prove(recipe, values, assume_finite=assume_finite)
        if verdict.coupling is not None and not assume_component_wise:
            _refuse(recipe, values, verdict.coupling)
        if (key := key_of(values)) is not None:
            check_runs(recipe, key)
    return verdict


def _refuse(recipe: Recipe, values: list[Array], coupling: str) -> None:
    # A transformation that only asks whether all gradients are finite.
    if prove(recipe, values, assume_finite=True).coupling is None:
        raise ValueError(
            "`transformation` must update every parameter on its own, got one that stops all of "
            f"them where one gradient is infinite or NaN: {coupling}. `assume_finite=True` takes "
            "it, and a gradient that is not finite then stops its own parameter alone."
        )
    raise ValueError(
        "`transformation` must update every parameter on its own, got one that couples them: "
        f"{coupling}. `assume_component_wise=True` accepts it all the same."
    )


def _injected(recipe: Recipe, leaves: tuple[StateLeaf, ...]) -> dict[str, Array]:
    """Hyperparameters among the state's constants, in the order of their names."""
    float_type = jnp.result_type(float)
    state = arrays_of(init_state(recipe.build(()), jnp.zeros(1, float_type)))
    return {
        leaf.name: array.astype(float_type)
        for leaf, array in zip(leaves, state, strict=True)
        if leaf.kind == "hyperparameter"
    }


def _require_count(at_step: Any) -> None:
    try:
        number = operator.index(at_step)
    except TypeError:
        number = -1
    if number < 0 or isinstance(at_step, bool):
        raise ValueError(f"`at_step` must be an integer of at least 0 or None, got {at_step!r}.")
