"""Optimizers made from others: other units, another start, or one mechanism removed.

A wrapper is itself an optimizer in state-space form, so every tool takes it like any other. It
starts where the wrapped optimizer starts, unless its docstring says otherwise.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from lrevopt.optimizers.classical import hyperparameter
from lrevopt.optimizers.interface import (
    AbstractOptimizer,
    AbstractParameterOptimizer,
    given_parameter,
    moved_at,
)
from lrevopt.optimizers.limits import slope
from lrevopt.optimizers.linear import ModeOptimizer


class _AbstractSameState(AbstractOptimizer):
    """Has the state and the readout of the optimizer that it wraps."""

    optimizer: eqx.AbstractVar[AbstractOptimizer]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state()


class _AbstractOwnStep(AbstractOptimizer):
    """Has the state of the optimizer that it wraps, and then its own step as a coordinate."""

    optimizer: eqx.AbstractVar[AbstractOptimizer]

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.append(jnp.zeros_like(self.optimizer.readout), 1.0)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.optimizer.initial_state(), 0.0)


class AtParameter(AbstractOptimizer):
    """Holds x at one value: `h' = F(h, g, x)` with x fixed."""

    optimizer: AbstractParameterOptimizer
    parameter: Float[Array, ""]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state(self.parameter)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return moved_at(self.optimizer, state, gradient, self.parameter)


def at_parameter(optimizer: AbstractOptimizer, parameter: ArrayLike) -> AbstractOptimizer:
    """The optimizer as it is at one value of x, for every tool that looks at F(h, g).

    An optimizer whose updates do not depend on x comes back as it is. Raises `ValueError` for a
    `parameter` that is not one finite number.
    """
    held = hyperparameter("parameter", parameter, may_vanish=True)
    if isinstance(optimizer, AbstractParameterOptimizer):
        return AtParameter(optimizer, held)
    return optimizer


class AtEachParameter(AbstractParameterOptimizer):
    """A wrapper of an optimizer that takes x, where the wrapper knows of F(h, g) alone.

    `held` is the wrapper around that optimizer held at one x (`AtParameter`), which is replaced by
    the x of the moment.
    """

    held: AbstractOptimizer

    def _at(self, parameter: Float[Array, ""] | None) -> AbstractOptimizer:
        x = given_parameter(self, parameter)
        return jax.tree.map(
            lambda part: AtParameter(part.optimizer, x) if isinstance(part, AtParameter) else part,
            self.held,
            is_leaf=lambda part: isinstance(part, AtParameter),
        )

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.held.readout

    def initial_state(self, parameter: Float[Array, ""] | None = None) -> Float[Array, " state"]:
        return self._at(parameter).initial_state()

    def transition(
        self,
        state: Float[Array, " state"],
        gradient: Float[Array, ""],
        parameter: Float[Array, ""] | None = None,
    ) -> Float[Array, " state"]:
        return self._at(parameter).transition(state, gradient)


def wrapped(
    optimizer: AbstractOptimizer, wrap: Callable[[AbstractOptimizer], AbstractOptimizer]
) -> AbstractOptimizer:
    """`wrap(optimizer)`, which goes on taking x if `optimizer` does.

    What `wrap` decides by numbers, it decides at x = 0.
    """
    made = wrap(at_parameter(optimizer, 0.0))
    return AtEachParameter(made) if isinstance(optimizer, AbstractParameterOptimizer) else made


class ScaledGradients(_AbstractSameState):
    """Multiplies each gradient by `scale`, as a loss in other units would: `h' = F(h, scale g)`.

    Meta-objectives are relative to the first loss and do not see the scale; the updates do. Raises
    `ValueError` for a `scale` that is not one finite number of the default floating type; 0, and
    negative ones, are allowed.
    """

    optimizer: AbstractOptimizer
    scale: Float[Array, ""] = eqx.field(converter=functools.partial(hyperparameter, "scale"))

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.optimizer.transition(state, self.scale * gradient)


class StateInUnits(AbstractOptimizer):
    """Measures each coordinate of the state in a unit of its own: `z = h / unit`.

    The updates are the same. Coordinates may differ by ten decades, as Adam's second moment and
    its step do; distances between states then only see the largest unless each has its unit.
    """

    optimizer: AbstractOptimizer
    unit: Float[Array, " state"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.unit * self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state() / self.unit

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.optimizer.transition(self.unit * state, gradient) / self.unit


class Restarted(AbstractOptimizer):
    """Starts at `start` instead of the initial state."""

    optimizer: AbstractOptimizer
    start: Float[Array, " state"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.start

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.optimizer.transition(state, gradient)


class Forgetting(_AbstractSameState):
    """Keeps only part of its state from step to step: `h' = F(h* + kept (h - h*), g)`.

    With `kept = I - P`, for the spectral projector P of a mode at the fixed point h*, the mode's
    eigenvalue becomes 0; its learning rate and all other modes stay. With `kept = P` all other
    modes get the eigenvalue 0.
    """

    optimizer: AbstractOptimizer
    fixed_point: Float[Array, " state"]
    kept: Float[Array, "state state"]

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        kept = self.fixed_point + self.kept @ (state - self.fixed_point)
        return self.optimizer.transition(kept, gradient)


class GainAtOnce(AbstractOptimizer):
    """Gives a mode's whole response in one step: no memory, but the same steady-state gain.

        h' = F(h* + (I - P) (h - h*), g)
        y' = w . h' + boost . (h' - h*)
        boost = sum_m (1 / (1 - lambda_m) - 1) (w . r_m) l_m

    The sum runs over the mode and, if it is complex, its conjugate. State: h, then the step y.
    """

    forgetting: Forgetting
    boost: Float[Array, " own"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.append(jnp.zeros_like(self.forgetting.readout), 1.0)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.forgetting.initial_state(), 0.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        following = self.forgetting.transition(state[:-1], gradient)
        extra = self.boost @ (following - self.forgetting.fixed_point)
        return jnp.append(following, self.forgetting.readout @ following + extra)


class StraightStates(_AbstractSameState):
    """Is linear in the gradient at every state: `h' = F(h, 0) + dF/dg(h, 0) g`.

    With `limits`, limits from above stand in where F has no slope (see `optimizers.limits`).
    """

    optimizer: AbstractOptimizer
    limits: bool = eqx.field(default=False, static=True)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return _tangent(self.optimizer, state, gradient, self.limits)


class StraightUpdates(_AbstractOwnStep):
    """Replaces update functions by their tangents at zero gradient; states move as before.

        h' = F(h, g)        y' = w . (F(h, 0) + dF/dg(h, 0) g)

    State: h, then the step y. `limits` as in `StraightStates`.
    """

    optimizer: AbstractOptimizer
    limits: bool = eqx.field(default=False, static=True)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        following = self.optimizer.transition(state[:-1], gradient)
        tangent = _tangent(self.optimizer, state[:-1], gradient, self.limits)
        step = self.optimizer.readout @ tangent
        return jnp.append(following, step)


class OneUpdateFunction(_AbstractOwnStep):
    """Responds to a gradient in every state as in the fixed point h*; states move as before.

        h' = F(h, g)        y' = w . (F(h, 0) + F(h*, g) - F(h*, 0))

    The update at zero gradient, which is momentum, stays that of h. Slope and shape are those of
    h*. State: h, then the step y.
    """

    optimizer: AbstractOptimizer
    fixed_point: Float[Array, " own"]

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        move, zero = self.optimizer.transition, jnp.zeros_like(gradient)
        response = move(self.fixed_point, gradient) - move(self.fixed_point, zero)
        step = self.optimizer.readout @ (move(state[:-1], zero) + response)
        return jnp.append(move(state[:-1], gradient), step)


class ScheduledModes(AbstractOptimizer):
    """Modes whose learning rates follow a schedule: `y' = factors_k (w . v')` at step k.

    After the end of `factors` the last one stays. State: v, the number k of the step, the step y.
    """

    modes: ModeOptimizer
    factors: Float[Array, " visited"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.append(jnp.zeros(self.modes.readout.size + 1, self.factors.dtype), 1.0)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.modes.initial_state(), jnp.zeros(2, self.factors.dtype))

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        own, count = state[:-2], state[-2]
        velocities = self.modes.transition(own, gradient)
        place = jnp.minimum(count, self.factors.size - 1).astype(int)
        step = self.factors[place] * (self.modes.readout @ velocities)
        return jnp.concatenate([velocities, jnp.stack([count + 1, step])])


def _tangent(
    optimizer: AbstractOptimizer,
    state: Float[Array, " state"],
    gradient: Float[Array, ""],
    limits: bool,
) -> Float[Array, " state"]:
    """`F(h, 0) + dF/dg(h, 0) g`."""
    zero = jnp.zeros_like(gradient)
    rise = slope(optimizer, state, zero, limits=limits) * gradient
    return optimizer.transition(state, zero) + rise


def lacks_slope(optimizer: AbstractOptimizer) -> bool:
    """Whether JAX's derivative dF/dg at the initial state and zero gradient is not finite."""
    start = optimizer.initial_state()
    return not bool(jnp.isfinite(slope(optimizer, start, jnp.zeros((), start.dtype))).all())
