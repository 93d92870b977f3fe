"""How much memory runs take, so that what does not fit is refused before anything starts."""

import functools
import os

import jax
import jax.random as jr

from lrevopt.checks import at_most_32_bits, positive_integer
from lrevopt.shapes import shapes_of
from lrevopt.tasks.interface import AbstractTask, draw

GIBIBYTE = 2**30

SHARE = 0.8
"""Share of the free memory that may be taken without a limit."""


def available_bytes() -> float:
    """Bytes that may be taken by default, of the memory of the device or of the machine."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _any_key() -> jax.Array:
    with jax.ensure_compile_time_eval():  # an array also within a trace
        return jr.key(0)


def check_fits(what: str, size: float) -> None:
    """Raise `ValueError` if `size` bytes, needed for `what`, are more than are available."""
    if size > (limit := available_bytes()):
        raise ValueError(
            f"{what} would take {size / GIBIBYTE:.3g} GiB of memory, but only "
            f"{limit / GIBIBYTE:.3g} GiB are available."
        )


def check_runs(task: AbstractTask, *, problems: int, steps: int, optimizers: int = 1) -> None:
    """Raise `ValueError` for counts below 1, or if problems and losses of runs do not fit.

    These are `problems` draws of a task, and the losses of `optimizers` runs of `steps` updates on
    each. States are no part of it: as many problems are run at a time as fit.
    """
    numbers = {
        name: at_most_32_bits(name, positive_integer(name, value))
        for name, value in {"problems": problems, "steps": steps}.items()
    }
    shapes = jax.tree.leaves(shapes_of(draw, task, _any_key()))
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes if hasattr(leaf, "dtype"))
    number = jax.dtypes.canonicalize_dtype(float).itemsize
    losses = 2 * optimizers * (numbers["steps"] + 1) * number
    what = f"`problems` {problems} with `steps` {steps}"
    check_fits(what, numbers["problems"] * (each + losses))
