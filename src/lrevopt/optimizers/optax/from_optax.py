"""Optax transformations as optimizers: what is taken, and what is refused.

Component-wise is a property of the traced program (`proof`), for any number of updates and any
values of the hyperparameters. Trial runs (`couplings`) are the second witness.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike

from lrevopt.optimizers.classical import hyperparameter
from lrevopt.optimizers.optax.counters import held_counters
from lrevopt.optimizers.optax.couplings import check_runs
from lrevopt.optimizers.optax.proof import Verdict, prove
from lrevopt.optimizers.optax.recipe import Recipe, make_recipe
from lrevopt.optimizers.optax.state_leaves import (
    StateLeaf,
    arrays_of,
    describe_state,
    init_state,
)
from lrevopt.optimizers.optax.state_space import OptaxOptimizer, OptaxParameterOptimizer, Program
from lrevopt.optimizers.optax.trial_runs import key_of

Source = optax.GradientTransformation | optax.MultiSteps | Callable[..., Any]


def from_optax(
    transformation: Source,
    *,
    at_step: int | None = None,
    parameter: ArrayLike | None = None,
    assume_component_wise: bool = False,
    assume_finite: bool = False,
    **hyperparameters: Any,
) -> OptaxOptimizer | OptaxParameterOptimizer:
    """A component-wise optax transformation as an optimizer: `from_optax(optax.adam(1e-3))`.

    A factory with its arguments gives an optimizer whose array arguments are leaves:
    `from_optax(optax.adam, learning_rate=jnp.array(1e-3), b1=0.9)` can be stacked, mapped, tuned and
    differentiated in the learning rate. Plain numbers stay constants, and so does everything else.
    Constants of `optax.inject_hyperparams` in a transformation's state are leaves as well. All are
    in `hyperparameters`, by name.

    The state is optax's state of one parameter, array after array in the order of its tree, and
    then the update, with sign and learning rate. `coordinates` names its entries, for Adam
    `("[0].count", "[0].mu", "[0].nu", "update")`. Arrays that never change are left out. `at_step`
    says what becomes of step counters, the integers and booleans of optax's state:

    - `at_step=None`: counters are state coordinates and count. A run makes optax's own updates,
      with bias correction and schedules. A state with a live counter has no fixed point, so
      `find_fixed_points` converges nowhere. The derivative of a counter in itself is 1; all else
      is differentiated as if counters were constant.
    - `at_step=k`: counters are held at k and are not part of the state. F is that of update k,
      which turns `states[k]` into `states[k + 1]`, at every step. It can have fixed points, and
      linearization and modes are those of that step. k = 0 is the first update; a large k is the
      limit without bias correction, at the end of every schedule.

    Where updates depend on the value of x (weight decay, averages of parameters), the result is an
    `AbstractParameterOptimizer`, whose transition takes x. With `parameter`, x is held at that
    value instead, also along a run, and the result is an `AbstractOptimizer`.

    Raises `ValueError` if the update of one parameter may depend on others, for any state and any
    number of updates: `clip_by_global_norm`, LAMB, LARS, Adafactor, SM3, Muon and others. The
    message names the operation. Two arguments take a coupling back:

    - `assume_component_wise=True`: the coupling that the program shows never changes an update.
      Trial runs still refuse one that they see.
    - `assume_finite=True`: gradients are finite. `optax.apply_if_finite` and `skip_not_finite`
      stop every parameter where one gradient is infinite or NaN; here they stop that one alone.

    Also raises for updates that depend on the shape of the array, for random numbers, arguments
    beside the gradient (`value`, `value_fn`), complex numbers, a transformation that closes over
    traced values, a negative `at_step`, an `at_step` where counters depend on gradients, and a
    `parameter` that is not one finite number. With traced hyperparameters there are no trial runs,
    which need values; the proof holds for every value.
    """
    if at_step is not None:
        _require_count(at_step)
    shown = hyperparameter("parameter", 0.0 if parameter is None else parameter)
    with jax.debug_nans(False), jax.debug_infs(False), jax.numpy_rank_promotion("allow"):
        recipe, arrays = make_recipe(transformation, hyperparameters)
        values = list(arrays.values())
        describe_state(recipe, values, False)
        verdict = _judge(recipe, values, assume_component_wise, assume_finite)
        live = verdict.uses_parameter and parameter is None
        leaves = describe_state(recipe, values, live)
        held: tuple[Array, ...] = ()
        if at_step is not None:
            with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
                held = held_counters(recipe, values, leaves, at_step)
            leaves = _without_counters(leaves)
        if recipe.made:
            arrays = _injected(recipe, leaves)
    program = Program(recipe, leaves, tuple((n, arrays[n].shape) for n in sorted(arrays)))
    if live:
        return OptaxParameterOptimizer(program, arrays, jnp.ones_like(shown), held)
    return OptaxOptimizer(program, arrays, shown, held)


def _judge(
    recipe: Recipe, values: list[Array], assume_component_wise: bool, assume_finite: bool
) -> Verdict:
    """What the traced program shows; refuses couplings that it or trial runs show."""
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
        f"{coupling}. `assume_component_wise=True` takes it all the same."
    )


def _without_counters(leaves: tuple[StateLeaf, ...]) -> tuple[StateLeaf, ...]:
    return tuple(
        leaf._replace(kind="held") if leaf.kind in ("counter", "flag") else leaf for leaf in leaves
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
