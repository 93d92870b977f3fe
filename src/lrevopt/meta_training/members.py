"""Optimizers that are trained together: stacked for one program, and taken apart again."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from lrevopt.checks import sequence
from lrevopt.inner_loop.run_checks import check_stacked
from lrevopt.optimizers.interface import AbstractOptimizer, check_optimizer
from lrevopt.optimizers.recurrent import RecurrentOptimizer
from lrevopt.optimizers.scales import scales_as_data
from lrevopt.optimizers.stacking import first_different, stacked, unstacked


class Members(eqx.Module):
    """Optimizers one by one, as they were given, and stacked.

    Every array of `stacked` has a first axis `seed`. Recurrent optimizers that differ in their
    scales are stacked with the scales as data.
    """

    each: tuple[AbstractOptimizer, ...]
    stacked: AbstractOptimizer

    def with_weights(self, member: int, weights: PyTree) -> AbstractOptimizer:
        """A member with trained weights: those of its stacked form, without the axis `seed`."""
        own, fixed = eqx.partition(self.each[member], eqx.is_inexact_array)
        trained = jax.tree.unflatten(jax.tree.structure(own), jax.tree.leaves(weights))
        return eqx.combine(trained, fixed)


def members_of(optimizers: AbstractOptimizer | Sequence[AbstractOptimizer], count: int) -> Members:
    """`count` optimizers, given stacked or as a list.

    Raises `ValueError` for another number of them, what is no optimizer, and optimizers of several
    structures.
    """
    if isinstance(optimizers, AbstractOptimizer):
        check_stacked("optimizers", optimizers)
        arrays = jax.tree.leaves(eqx.filter(optimizers, eqx.is_array))
        _check_count(arrays[0].shape[0], count)
        return Members(unstacked(optimizers), optimizers)
    each = tuple(sequence("optimizers", optimizers, "optimizer"))
    _check_count(len(each), count)
    for place, one in enumerate(each):
        check_optimizer(one, f"optimizers[{place}]")
    together: list[Any] = list(each)
    if first_different(together) is not None and all(
        isinstance(o, RecurrentOptimizer) for o in each
    ):
        together = [scales_as_data(one) for one in each]
    if (other := first_different(together)) is not None:
        raise ValueError(
            f"`optimizers` must have one structure, to be trained in one program, but number "
            f"{other} ({type(each[other]).__name__}) has another one than number 0 "
            f"({type(each[0]).__name__})."
        )
    return Members(each, stacked(together))


def _check_count(found: int, count: int) -> None:
    if found != count:
        raise ValueError(f"`optimizers` must be as many as `keys`, {count}, got {found}.")
