"""How a meta-gradient is made to fit into memory, and how much it will take.

Backpropagation through T updates of a problem with d parameters and s state coordinates keeps

    all states       T d (s + 2)                                numbers
    segments of S    T d + (T / S + 1) d (s + 1) + S d (s + 2)

(gradients of all updates; parameters and states of all updates, or of the segments' starts and of
the one segment that is being recomputed), which is least for S near sqrt(T). To this comes what
one update needs while it is differentiated, which depends on the task's loss and on the
optimizer: it is read off a compiled meta-gradient of very few updates. Both scale with the
problems that are differentiated at a time.
"""

import dataclasses
import math
import os
from typing import Any

import equinox as eqx
import jax
import jax.random as jr

from lrevopt.checks import finite
from lrevopt.inner_loop.adjoint import unroll_losses
from lrevopt.inner_loop.unroll import batch_size
from lrevopt.meta_training.estimators import first_particles, meta_gradient
from lrevopt.meta_training.settings import MetaTraining
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask

GIBIBYTE = 2**30

WORTH_KEEPING = 2**26
"""Bytes of states up to which keeping all is faster than recomputing them."""

SHARE = 0.8
"""Share of the memory that is free which a plan may take, unless a limit is given."""


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """How many problems are differentiated at a time, in segments of how many updates.

    `kept` and `working` are predicted bytes of what is kept of a run and of one update's
    derivative, `data` of the task, weights and pairs under way; `limit` is what there is.
    """

    micro_batch: int
    checkpoint_every: int
    kept: int
    working: int
    data: int
    limit: int

    @property
    def peak(self) -> int:
        """Predicted bytes at the peak, beside the program itself."""
        return self.kept + self.working + self.data

    def __str__(self) -> str:
        parts = (self.peak, self.kept, self.working, self.data, self.limit)
        peak, kept, working, data, limit = (f"{part / GIBIBYTE:.3g}" for part in parts)
        return (
            f"memory plan: {self.micro_batch} problems at a time, a checkpoint every "
            f"{self.checkpoint_every} updates; predicted peak {peak} GiB "
            f"(kept {kept}, one update {working}, data {data}) of {limit} GiB"
        )

    def apply(self, settings: MetaTraining) -> MetaTraining:
        """The settings with this plan's micro-batch and segment."""
        return dataclasses.replace(
            settings, micro_batch=self.micro_batch, checkpoint_every=self.checkpoint_every
        )


def plan_memory(
    task: AbstractTask,
    optimizer: AbstractOptimizer,
    settings: MetaTraining,
    *,
    memory_limit: float | None = None,
) -> MemoryPlan:
    """Choose what `settings` leave open of `micro_batch` and `checkpoint_every`.

    The plan stays within a limit in GiB.

    As many problems at a time as stay in cache, and all states while these are few; else
    segments of about sqrt(unroll) updates; and fewer problems at a time where that does not fit.
    Without a limit a plan may take 80 % of the memory that is free now.

    Raises `ValueError` for a limit that is not positive, and where nothing fits, saying what the
    least would take.
    """
    limit = available_bytes()
    if memory_limit is not None:
        limit = finite("memory_limit", memory_limit, above=0.0) * GIBIBYTE
    shapes = eqx.filter_eval_shape(task.sample, jr.key(0)).initial_parameters
    numbers, state = shapes.size * shapes.dtype.itemsize, state_size(optimizer)
    kept_per = kept_numbers(settings.unroll, settings.unroll, state) * numbers
    if settings.problems * kept_per <= WORTH_KEEPING:
        once, each = _small_working_bytes(optimizer, numbers * state)
    else:
        once, each = 0, _working_bytes(task, optimizer, settings)
    data = _data_bytes(task, optimizer, settings)
    backward = settings.estimator not in ("es", "pes")

    def plan(micro_batch: int, checkpoint_every: int) -> MemoryPlan:
        each_kept = (
            kept_numbers(settings.unroll, checkpoint_every, state) * numbers if backward else 0
        )
        working = once + micro_batch * each
        return MemoryPlan(
            micro_batch, checkpoint_every, micro_batch * each_kept, working, data, int(limit)
        )

    plans = [
        plan(micro_batch, checkpoint_every)
        for micro_batch in _micro_batches(settings, batch_size(optimizer, shapes))
        for checkpoint_every in _segments(settings, micro_batch * kept_per)
    ]
    for candidate in plans:
        if candidate.peak <= limit:
            return candidate
    least = min(plans, key=lambda candidate: candidate.peak)
    raise ValueError(
        f"`memory_limit` must be at least {least.peak / GIBIBYTE:.3g} GiB ({least.micro_batch} of "
        f"{settings.problems} problems at a time, segments of {least.checkpoint_every} of "
        f"{settings.unroll} updates), got {limit / GIBIBYTE:.3g}: fewer units, a shorter unroll, "
        f"or the estimator es would take less."
    )


def kept_numbers(unroll: int, checkpoint_every: int, state: int) -> int:
    """Numbers that are kept for each parameter of a problem."""
    if checkpoint_every >= unroll:
        return unroll * (state + 2)
    starts = unroll // checkpoint_every + 1
    return unroll + starts * (state + 1) + checkpoint_every * (state + 2)


def available_bytes() -> float:
    """What a plan may take by default: of the device's memory, or of this machine's."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "bytes_limit" in stats:
        return SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _micro_batches(settings: MetaTraining, most: int) -> list[int]:
    """Divisors of the batch to try, best first."""
    if settings.micro_batch is not None:
        return [settings.micro_batch]
    divisors = [m for m in range(settings.problems, 0, -1) if settings.problems % m == 0]
    return [m for m in divisors if m <= most or m == 1]


def _segments(settings: MetaTraining, kept: int) -> list[int]:
    """Lengths of segments to try, best first."""
    if settings.checkpoint_every is not None:
        return [settings.checkpoint_every]
    short = max(1, round(math.sqrt(settings.unroll)))
    return [settings.unroll, short] if kept <= WORTH_KEEPING else [short]


def _small_working_bytes(optimizer: AbstractOptimizer, state_bytes: int) -> tuple[int, int]:
    """The same without compiling anything, where it hardly matters: for weights, and a problem."""
    weights = jax.tree.leaves(eqx.filter(optimizer, eqx.is_inexact_array))
    return 6 * sum(leaf.nbytes for leaf in weights), 10 * state_bytes


def _working_bytes(task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining) -> int:
    """What one problem needs while one update is differentiated (or done, where none is)."""
    few = 4
    small = dataclasses.replace(
        settings, unroll=few, checkpoint_every=2, problems=1, micro_batch=1, es_window=few
    )
    keys = jr.split(jr.key(0), 1)
    if settings.estimator in ("es", "pes"):

        def run(optimizer: Any, task: Any, keys: Any) -> Any:
            problems = jax.vmap(task.sample)(keys)
            return unroll_losses(optimizer, task, problems, few)

        return 2 * _temporary(eqx.filter_jit(run), optimizer, task, keys)
    compiled = eqx.filter_jit(
        lambda optimizer, task, keys: meta_gradient(optimizer, task, keys, small)
    )
    shapes = eqx.filter_eval_shape(task.sample, keys[0]).initial_parameters
    kept = kept_numbers(few, 2, state_size(optimizer)) * shapes.size * shapes.dtype.itemsize
    return max(0, _temporary(compiled, optimizer, task, keys) - kept)


def _temporary(function: Any, *inputs: Any) -> int:
    """Bytes of temporary buffers of a compiled function."""
    return int(function.lower(*inputs).compile().compiled.memory_analysis().temp_size_in_bytes)


def _data_bytes(task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining) -> int:
    """Arrays that are there anyway: the dataset, and pairs under way."""
    trees: list[Any] = [eqx.filter(task, eqx.is_array)]
    if settings.estimator == "pes":
        trees.append(eqx.filter_eval_shape(first_particles, optimizer, task, jr.key(0), settings))
    arrays = [leaf for leaf in jax.tree.leaves(trees) if hasattr(leaf, "dtype")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
