"""Several processes that compute one thing: on one machine, or on several.

JAX runs one program on the devices of all of them, and every process must start the same programs
in the same order. So whatever only one process knows (its clock, its signals, the content of files)
has to be sent to the others first. In a process that is alone, these functions cost nothing.
"""

import zlib
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

Tree = TypeVar("Tree")


def several() -> bool:
    """Whether other processes take part."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is process 0, which alone reads, writes and prints."""
    return jax.process_index() == 0


def largest(*values: int) -> tuple[int, ...]:
    """Each value as the process with the largest has it. All processes must call this."""
    if not several():
        return values
    gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(int(value) for value in np.asarray(gathered).max(axis=0))


def from_first(tree: Tree) -> Tree:
    """The tree with its arrays as process 0 has them. All processes must call this."""
    if not several():
        return tree
    sent = multihost_utils.broadcast_one_to_all(tree)
    return jax.tree.map(
        lambda old, new: (
            np.array(new, old.dtype) if isinstance(old, np.ndarray) else jnp.asarray(new, old.dtype)
        ),
        tree,
        sent,
    )


def fetched(tree: Any) -> Any:
    """The arrays of a tree on the host, those included that are spread over several processes.

    All processes must call this.
    """

    def one(leaf: Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(one, tree)


def at_hand(array: Array) -> np.ndarray:
    """An array, or the part of it that this process has: rows of its first axis."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    rows = {str(shard.index): np.asarray(shard.data) for shard in array.addressable_shards}
    return np.concatenate(list(rows.values()))


def check_same(name: str, words: str) -> None:
    """Raise `ValueError`, naming an argument, unless all processes were given the same.

    `words` are what it is, in full. All processes must call this.
    """
    own = zlib.crc32(words.encode()) >> 1
    high, low = largest(own, -own)
    if (high, -low) != (own, own):
        raise ValueError(f"`{name}` must be the same in all {jax.process_count()} processes.")
