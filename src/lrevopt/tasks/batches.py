"""Data of a user's task by inner step: arrays, functions of the step, random minibatches."""

from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Key, PyTree

from lrevopt.checks import positive_integer
from lrevopt.tasks.callables import Callback, as_array, check_no_tracers, shown
from lrevopt.tasks.interface import Step


class Minibatches(eqx.Module):
    """Random minibatches of a dataset: `size` examples at each step, drawn with replacement.

        batches = Minibatches((images, labels), 64)      loss(params, (images, labels))

    `data` is a pytree of arrays whose first axis counts examples. The examples of step k are drawn
    from `fold_in(key, k)` with the problem's own key: the same in each run on that problem, others
    on other problems.

    Raises `ValueError` for arrays of unequal first axis, or a size below 1 or above their number.
    """

    data: PyTree[Array]
    size: int = eqx.field(static=True)

    def __init__(self, data: PyTree, size: int):
        self.data = jax.tree.map(as_array, data)
        examples = _common_axis("data", self.data, "examples")
        self.size = positive_integer("size", size)
        if size > examples:
            raise ValueError(f"`size` must be at most {examples}, got {size}.")

    def __call__(self, step: Step, key: Key[Array, ""]) -> PyTree[Array]:
        examples = jax.tree.leaves(self.data)[0].shape[0]
        chosen = jr.randint(jr.fold_in(key, step), (self.size,), 0, examples)
        return jax.tree.map(lambda leaf: leaf[chosen], self.data)


def as_batches(batches: Any) -> Any:
    """Batches as a callback, or as arrays with a first axis of steps."""
    if batches is None:
        return None
    if callable(batches):
        check_no_tracers("batches", batches)
        callback = Callback(batches)
        if not (callback.takes(1) or callback.takes(2)):
            raise ValueError(
                f"`batches` must be callable as batches(step) or batches(step, key), got "
                f"{callback.signature()}."
            )
        return callback
    if isinstance(batches, list):
        raise ValueError(
            f"`batches` must be one tree of arrays whose first axis counts steps, got a list of "
            f"{len(batches)}: stack it with jax.tree.map(lambda *b: jnp.stack(b), *batches)."
        )
    arrays = jax.tree.map(as_array, batches)
    _common_axis("batches", arrays, "steps")
    return arrays


def _common_axis(name: str, tree: Any, counts: str) -> int:
    """Length of the first axis, which all leaves share."""
    leaves = jax.tree.leaves(tree)
    if not leaves or not all(eqx.is_array(leaf) for leaf in leaves):
        raise ValueError(
            f"`{name}` must be a tree of arrays whose first axis counts {counts}, got "
            f"{shown(tree)}."
        )
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(lengths) > 1 or 0 in lengths:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"`{name}` must have one first axis, which counts {counts}, of at least 1 in all "
            f"arrays, got shapes {shapes}."
        )
    return int(lengths.pop())
