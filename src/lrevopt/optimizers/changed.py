"""Optimizers that lack something another one has, or have only part of it.

Each keeps the start of the optimizer that it was made from, unless it says otherwise.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.linear import ModeOptimizer


class Forgetting(AbstractOptimizer):
    """Remembers only part of its state: `h' = F(h* + kept (h - h*), g)`.

    With `kept = I - P` the dominant mode's eigenvalue becomes 0 while its learning rate, and all
    other
    modes, stay. With `kept = P` it is the other way round.
    """

    optimizer: AbstractOptimizer
    fixed_point: Float[Array, " state"]
    kept: Float[Array, "state state"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        kept = self.fixed_point + self.kept @ (state - self.fixed_point)
        return self.optimizer.transition(kept, gradient)


class GainAtOnce(AbstractOptimizer):
    """The dominant mode's whole response in one step: its memory is gone, its steady gain is not.

        h' = F(h* + (I - P) (h - h*), g)
        y' = w . h' + sum_m (1 / (1 - lambda_m) - 1) (w . r_m) l_m . (h' - h*)     m in dominant
        mode

    State: h, then the step y.
    """

    forgetting: Forgetting
    boost: Float[Array, " own"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return _step_last(self.forgetting)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.forgetting.initial_state(), 0.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        following = self.forgetting.transition(state[:-1], gradient)
        extra = self.boost @ (following - self.forgetting.fixed_point)
        return jnp.append(following, self.forgetting.readout @ following + extra)


class Restarted(AbstractOptimizer):
    """Starts at `start`, and is else as it was."""

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


class StraightStates(AbstractOptimizer):
    """Linear in the gradient at every state: `h' = F(h, 0) + dF/dg(h, 0) g`."""

    optimizer: AbstractOptimizer

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return _tangent(self.optimizer, state, gradient)


class StraightUpdates(AbstractOptimizer):
    """Update functions replaced by their tangents at zero gradient; states move as before.

        h' = F(h, g)        y' = w . (F(h, 0) + dF/dg(h, 0) g)

    State: h, then the step y.
    """

    optimizer: AbstractOptimizer

    @property
    def readout(self) -> Float[Array, " state"]:
        return _step_last(self.optimizer)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.optimizer.initial_state(), 0.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        following = self.optimizer.transition(state[:-1], gradient)
        step = self.optimizer.readout @ _tangent(self.optimizer, state[:-1], gradient)
        return jnp.append(following, step)


class OneUpdateFunction(AbstractOptimizer):
    """Every state answers a gradient as the fixed point does; states move as before.

        h' = F(h, g)        y' = w . (F(h, 0) + F(h*, g) - F(h*, 0))

    The offset that momentum gives to an update function stays, its slope and shape are those of
    h*. State: h, then the step y.
    """

    optimizer: AbstractOptimizer
    fixed_point: Float[Array, " own"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return _step_last(self.optimizer)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.optimizer.initial_state(), 0.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        move, zero = self.optimizer.transition, jnp.zeros_like(gradient)
        answer = move(self.fixed_point, gradient) - move(self.fixed_point, zero)
        step = self.optimizer.readout @ (move(state[:-1], zero) + answer)
        return jnp.append(move(state[:-1], gradient), step)


class ScheduledModes(AbstractOptimizer):
    """Modes whose learning rates follow a schedule: `y' = factors_k (w . v')` at step k.

    After its end the last factor stays. State: v, the step's number k, the step y.
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


def _step_last(optimizer: AbstractOptimizer) -> Float[Array, " state"]:
    """Readout of an optimizer whose step is its last coordinate, after the given one's."""
    return jnp.append(jnp.zeros_like(optimizer.readout), 1.0)


def _tangent(
    optimizer: AbstractOptimizer, state: Float[Array, " state"], gradient: Float[Array, ""]
) -> Float[Array, " state"]:
    """`F(h, 0) + dF/dg(h, 0) g`."""
    zero = jnp.zeros_like(gradient)
    rest, slope = jax.jvp(lambda g: optimizer.transition(state, g), (zero,), (gradient,))
    return rest + slope
