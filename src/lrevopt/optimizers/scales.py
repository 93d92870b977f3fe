"""Recurrent optimizers with other scales, as settings or as data of a compiled program."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lrevopt.checks import instance, positive_of_type
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.recurrent import RecurrentOptimizer, beside_cell


class Scaled(AbstractOptimizer):
    """An optimizer whose two scales are arrays: `h' = F(h, a g)`, `x' = x + b w . h'`.

    The scales of a `RecurrentOptimizer` are constants of a compiled program. Here optimizers that
    differ in them share one program, and can be stacked. `bits` holds a and b bit by bit, as
    integers, because training does not change integers, and nothing is rounded.
    """

    optimizer: AbstractOptimizer
    bits: Int[Array, "2"]

    @property
    def scales(self) -> Float[Array, "2"]:
        """The numbers a and b."""
        kind = {4: jnp.float32, 8: jnp.float64}[self.bits.dtype.itemsize]
        return jax.lax.bitcast_convert_type(self.bits, kind)

    @property
    def readout(self) -> Float[Array, " state"]:
        readout = self.optimizer.readout
        return self.scales[1].astype(readout.dtype) * readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.optimizer.transition(state, self.scales[0].astype(gradient.dtype) * gradient)


def scales_as_data(optimizer: RecurrentOptimizer) -> Scaled:
    """The same optimizer with its two scales as data; its weights come in the same order."""
    scales = jnp.asarray([optimizer.input_scale, optimizer.output_scale], float)
    kind = {4: jnp.int32, 8: jnp.int64}[scales.dtype.itemsize]
    plain = with_scales(optimizer, input_scale=1.0, output_scale=1.0)
    return Scaled(plain, jax.lax.bitcast_convert_type(scales, kind))


def with_scales(
    optimizer: RecurrentOptimizer, *, input_scale: float, output_scale: float
) -> RecurrentOptimizer:
    """The same weights between other scales."""
    untrained = RecurrentOptimizer(
        optimizer.cell,
        optimizer.start.size,
        input_scale=input_scale,
        output_scale=output_scale,
        bias=optimizer.bias is not None,
    )
    return eqx.tree_at(beside_cell, untrained, beside_cell(optimizer))


def rescaled(
    optimizer: RecurrentOptimizer, input_factor: float = 1.0, output_factor: float = 1.0
) -> RecurrentOptimizer:
    """The same weights with `input_scale` and `output_scale` multiplied by factors.

    Raises `ValueError` for an optimizer without scales, and for a factor, or a scale that it leads
    to, that is not a positive number which the type of the optimizer holds.
    """
    recurrent("optimizer", optimizer)
    dtype = optimizer.start.dtype
    scales = {}
    for end, given in (("input", input_factor), ("output", output_factor)):
        factor = positive_of_type(f"{end}_factor", given, dtype)
        scale = factor * getattr(optimizer, f"{end}_scale")
        scales[f"{end}_scale"] = positive_of_type(
            f"{end}_factor` times `optimizer.{end}_scale", scale, dtype
        )
    return with_scales(optimizer, **scales)


def recurrent(name: str, optimizer: Any) -> None:
    """Raise `ValueError` unless this is an optimizer with an input and an output scale."""
    instance(name, optimizer, RecurrentOptimizer, "a RecurrentOptimizer, which has scales")
