"""Optax transformations as optimizers in state-space form.

Derivatives of the transition are JAX's wherever those are finite. They are not at a root of 0:
the update m / (sqrt(v) + epsilon) of `optax.adam` at rest has the derivative 0 times infinity in
v. There the derivative is taken at a state whose coordinates are larger by 2^20 times the smallest
normal number, which gives the limit v -> 0 from above: 0 for Adam, and a huge number where the
slope is infinite.
"""

import dataclasses
from functools import partial
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lrevopt.optimizers.interface import (
    AbstractOptimizer,
    AbstractParameterOptimizer,
    given_parameter,
)
from lrevopt.optimizers.optax.recipe import Recipe
from lrevopt.optimizers.optax.state_leaves import (
    StateLeaf,
    arrays_of,
    carried_on,
    init_state,
    with_constants,
)


@dataclasses.dataclass(frozen=True)
class Program:
    """What is static about an optimizer: how it is made, its state, and the names and shapes of its
    hyperparameters, in the order of their names.
    """

    recipe: Recipe
    leaves: tuple[StateLeaf, ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Name of each state coordinate: its path in optax's state, and `update` for the last."""
        names = [
            leaf.name if leaf.size == 1 else f"{leaf.name}[{index}]"
            for leaf in self.leaves
            for index in range(leaf.size)
        ]
        return (*names, "update")

    def readout(self, dtype: Any) -> Float[Array, " state"]:
        return jnp.zeros(len(self.coordinates), dtype).at[-1].set(1)

    def hyperparameters(self, flat: Float[Array, " flat"]) -> dict[str, Array]:
        """Arrays by name, out of the flat vector of all of them."""
        ends = np.cumsum([prod(shape) for _, shape in self.shapes])[:-1]
        parts = jnp.split(flat, ends) if self.shapes else []
        named = zip(self.shapes, parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in named}

    def initial_state(
        self, parameter: Float[Array, ""], flat: Float[Array, " flat"]
    ) -> Float[Array, " state"]:
        transformation = self.recipe.build(self._arguments(flat))
        kept = [
            array.reshape(-1).astype(parameter.dtype)
            for leaf, array in zip(
                self.leaves, arrays_of(init_state(transformation, parameter[None])), strict=True
            )
            if leaf.size
        ]
        return jnp.concatenate([*kept, jnp.zeros_like(parameter[None])])

    def _arguments(self, flat: Float[Array, " flat"]) -> list[Array]:
        return [] if self.recipe.made else list(self.hyperparameters(flat).values())

    def move(
        self, point: Float[Array, " point"], held: tuple[Array, ...]
    ) -> Float[Array, " state"]:
        """F(h, g, x). `point` is h, then g, then x, then all hyperparameters."""
        dtype, size = point.dtype, len(self.coordinates)
        state, gradient, parameter, flat = (
            point[:size], point[size : size + 1], point[size + 1 : size + 2], point[size + 2 :]
        )  # fmt: skip
        transformation = self.recipe.build(self._arguments(flat))
        start, structure = jax.tree.flatten(init_state(transformation, parameter))
        required = self._required(start, state, flat, held)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            before = jax.tree.unflatten(structure, required)
            update, after = transformation.update(gradient, before, parameter)
        parts = self._parts(state)
        following = []
        for leaf, part, old, array in zip(
            self.leaves, parts, required, carried_on(before, after), strict=True
        ):
            if leaf.kind == "counter":
                # The old value plus optax's increment, so that the derivative in itself is 1.
                moved = array.astype(dtype) - old.astype(dtype)
                following.append(part + moved.reshape(-1))
            elif leaf.size:
                following.append(array.reshape(-1).astype(dtype))
        return jnp.concatenate([*following, update.astype(dtype)])

    def _parts(self, state: Float[Array, " state"]) -> list[Array]:
        ends = np.cumsum([leaf.size for leaf in self.leaves])
        return jnp.split(state, ends)[: len(self.leaves)]

    def _required(
        self, start: list[Any], state: Array, flat: Array, held: tuple[Array, ...]
    ) -> list[Array]:
        """The arrays of optax's state, in their own dtypes."""
        standing = iter(held)
        injected = self.hyperparameters(flat)
        required = []
        for leaf, part, first in zip(self.leaves, self._parts(state), start, strict=True):
            array = jnp.asarray(first)
            if leaf.kind == "held":
                required.append(next(standing).astype(array.dtype))
            elif leaf.kind == "hyperparameter":
                required.append(injected[leaf.name].astype(array.dtype))
            elif leaf.kind == "constant":
                required.append(array)
            else:
                part = part.reshape(leaf.shape)
                value = {"counter": jnp.round(part), "flag": part > 0.5}.get(leaf.kind, part)
                required.append(value.astype(array.dtype))
        return required


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _transition(
    program: Program, point: Float[Array, " point"], held: tuple[Array, ...]
) -> Float[Array, " state"]:
    return _compiled_move(program, point, held)


@_transition.defjvp
def _transition_jvp(program, primals, tangents):
    point, held = primals
    # A product is linear in the tangent, so that JAX can transpose it.
    return _transition(program, point, held), _slopes(program, point, held) @ tangents[0]


# Compiled, so that infinities on the way do not stop a caller who looks for NaN.
_compiled_move = jax.jit(Program.move, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _slopes(
    program: Program, point: Float[Array, " point"], held: tuple[Array, ...]
) -> Float[Array, "state point"]:
    def jacobian(at: Array) -> Array:
        return jax.jacfwd(program.move)(at, held)

    # Only states move: an update that vanishes with the gradient must vanish faster than the root.
    size = len(program.coordinates)
    aside = point.at[:size].add(2**20 * jnp.finfo(point.dtype).tiny)
    slopes = jacobian(point)
    return jnp.where(jnp.isfinite(slopes), slopes, jacobian(aside))


def _flat(hyperparameters: dict[str, Array], dtype: Any) -> Float[Array, " flat"]:
    arrays = [array.reshape(-1).astype(dtype) for array in jax.tree.leaves(hyperparameters)]
    return jnp.concatenate(arrays) if arrays else jnp.zeros(0, dtype)


def _moved(
    optimizer: "OptaxOptimizer | OptaxParameterOptimizer",
    state: Float[Array, " state"],
    gradient: Float[Array, ""],
    parameter: Float[Array, ""],
) -> Float[Array, " state"]:
    flat = _flat(optimizer.hyperparameters, state.dtype)
    ends = jnp.stack([gradient.astype(state.dtype), parameter.astype(state.dtype)])
    point = jnp.concatenate([state, ends, flat])
    return _transition(optimizer.program, point, optimizer.held)


class _OfOptax:
    """What optimizers made from optax have in common, with and without x as an input."""

    program: Program
    hyperparameters: dict[str, Float[Array, "..."]]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Name of each state coordinate: its path in optax's state, and `update` for the last."""
        return self.program.coordinates

    @property
    def transformation(self) -> Any:
        """Optax's transformation with these hyperparameters.

        Of one that was given, and not made by a factory, hyperparameters are constants in its
        state: they are these in the state that `init` returns. Counters that are held count on.
        """
        recipe = self.program.recipe
        if recipe.made:
            return with_constants(recipe.source, self.hyperparameters)
        return recipe.build(jax.tree.leaves(self.hyperparameters))


class OptaxOptimizer(_OfOptax, AbstractOptimizer):
    """An optax transformation in state-space form, as `from_optax` returns it.

    `hyperparameters` are arrays by name, `held` the values of counters that are fixed, and
    `parameter` is the value of x that is passed to the transformation.
    """

    program: Program = eqx.field(static=True)
    hyperparameters: dict[str, Float[Array, "..."]]
    parameter: Float[Array, ""]
    held: tuple[Array, ...]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.program.readout(self.parameter.dtype)

    def initial_state(self) -> Float[Array, " state"]:
        flat = _flat(self.hyperparameters, self.parameter.dtype)
        return self.program.initial_state(self.parameter, flat)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return _moved(self, state, gradient, self.parameter)


class OptaxParameterOptimizer(_OfOptax, AbstractParameterOptimizer):
    """An optax transformation whose updates depend on x, as `from_optax` returns it.

    Fields are those of `OptaxOptimizer`, but the parameter is an argument. `unit` is the number 1,
    in the dtype of the state.
    """

    program: Program = eqx.field(static=True)
    hyperparameters: dict[str, Float[Array, "..."]]
    unit: Float[Array, ""]
    held: tuple[Array, ...]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.program.readout(self.unit.dtype)

    def initial_state(self, parameter: Float[Array, ""] | None = None) -> Float[Array, " state"]:
        dtype = self.unit.dtype
        start = given_parameter(self, parameter).astype(dtype)
        return self.program.initial_state(start, _flat(self.hyperparameters, dtype))

    def transition(
        self,
        state: Float[Array, " state"],
        gradient: Float[Array, ""],
        parameter: Float[Array, ""] | None = None,
    ) -> Float[Array, " state"]:
        return _moved(self, state, gradient, given_parameter(self, parameter))
