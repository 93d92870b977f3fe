"""Memory plans: how a meta-gradient fits into memory, and how much it takes.

Backpropagation through T updates of a problem with d parameters and s state coordinates keeps

    all states              T d (s + 2)                                numbers
    every S-th state        T d + (T / S + 1) d (s + 1) + S d (s + 2)

These are gradients of all updates, and parameters and states of all updates, or of every S-th and
of the segment between two of them that is being recomputed. The second is least for S near
sqrt(T). In addition one update needs memory while it is differentiated. That depends on the task's
loss and on the optimizer, and is read off a compiled meta-gradient of few updates. Both scale with
the number of problems that are differentiated at a time.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.random as jr

from lrevopt.checks import finite, instance, positive_integer
from lrevopt.inner_loop.adjoint import unroll_losses
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.inner_loop.sizes import GIBIBYTE, available_bytes, check_fits, check_runs
from lrevopt.inner_loop.unroll import batch_size
from lrevopt.meta_training.estimators import first_particles, meta_gradient
from lrevopt.meta_training.settings import BACKPROPAGATING, MetaTraining
from lrevopt.optimizers.interface import AbstractOptimizer, state_size
from lrevopt.tasks.interface import AbstractTask

WORTH_KEEPING = 2**26
"""Bytes of states up to which keeping all of them is faster than recomputation."""


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Problems differentiated at a time, updates between checkpoints, and the memory they take.

    `micro_batch` problems are differentiated at a time, with a kept state every `checkpoint_every`
    updates. Predicted bytes: `kept` for the kept states and gradients, `working` for the derivative
    of one update, `data` for the task and, of the estimator "pes", the pairs of runs that go on
    from one meta-step to the next. `limit` is the memory available, in bytes.
    """

    micro_batch: int
    checkpoint_every: int
    kept: int
    working: int
    data: int
    limit: int

    @property
    def peak(self) -> int:
        """Predicted bytes at the peak, without the program itself."""
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
        """The settings with this plan's `micro_batch` and `checkpoint_every`."""
        return dataclasses.replace(
            settings, micro_batch=self.micro_batch, checkpoint_every=self.checkpoint_every
        )


def plan_memory(
    task: AbstractTask,
    optimizer: AbstractOptimizer,
    settings: MetaTraining,
    *,
    memory_limit: float | None = None,
    members: int = 1,
) -> MemoryPlan:
    """Choose `micro_batch` and `checkpoint_every` where `settings` leave them open.

    The plan has as many problems at a time as fit into the cache. It keeps all states while they
    are few, else one every sqrt(unroll) updates or so, and takes fewer problems at a time if that
    does not fit. `memory_limit` is in GiB; without it a plan may take 80 % of the free memory. With
    `members` optimizers trained at once, all of them share it, and `micro_batch` is that of each.

    Raises `ValueError` for a limit that is not positive, for one that nothing fits into, with the
    least that is needed, and for fewer members than 1.
    """
    instance("settings", settings, MetaTraining, "MetaTraining settings")
    positive_integer("members", members)
    shapes = check_run(optimizer, task, jr.key(0))
    limit = available_bytes()
    if memory_limit is not None:
        limit = finite("memory_limit", memory_limit, above=0.0) * GIBIBYTE
    check_sizes(task, optimizer, settings)
    numbers, state = shapes.size * shapes.dtype.itemsize, state_size(optimizer)
    kept_per = members * kept_numbers(settings.unroll, settings.unroll, state) * numbers
    if settings.problems * kept_per <= WORTH_KEEPING:
        once, each = _small_working_bytes(optimizer, numbers * state)
    else:
        once, each = 0, _working_bytes(task, optimizer, settings)
    data = _data_bytes(task, optimizer, settings, members)
    backward = settings.estimator in BACKPROPAGATING

    def plan(micro_batch: int, checkpoint_every: int) -> MemoryPlan:
        kept = members * micro_batch * backward * numbers
        kept *= kept_numbers(settings.unroll, checkpoint_every, state)
        working = members * (once + micro_batch * each)
        return MemoryPlan(micro_batch, checkpoint_every, kept, working, data, int(limit))

    plans = [
        plan(micro_batch, checkpoint_every)
        for micro_batch in _micro_batches(settings, batch_size(optimizer, shapes) // members)
        for checkpoint_every in _segments(settings, micro_batch * kept_per)
    ]
    for candidate in plans:
        if candidate.peak <= limit:
            return candidate
    least = min(plans, key=lambda candidate: candidate.peak)
    raise ValueError(
        f"`memory_limit` must be at least {least.peak / GIBIBYTE:.3g} GiB ({least.micro_batch} of "
        f"{settings.problems} problems at a time, a checkpoint every {least.checkpoint_every} of "
        f"{settings.unroll} updates), got {limit / GIBIBYTE:.3g}: fewer units, a shorter unroll, "
        f"or the estimator es would take less."
    )


def check_sizes(task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining) -> None:
    """Raise `ValueError` if what a training keeps from its beginning to its end does not fit.

    These are the problems of a batch and of the selection, two numbers for each meta-step, and the
    weights of every snapshot. Nothing of that size is made.
    """
    check_runs(task, problems=settings.problems, steps=settings.unroll)
    steps = settings.selection_unroll or settings.unroll
    check_runs(task, problems=settings.selection_problems, steps=steps)
    check_fits(f"`steps` {settings.steps}", 24.0 * settings.steps)
    snapshots = settings.steps // settings.snapshot_every + 12
    weights = jax.tree.leaves(eqx.filter(optimizer, eqx.is_inexact_array))
    # On the host while it trains, and stacked on the device at the end.
    size = 3.0 * snapshots * sum(leaf.nbytes for leaf in weights)
    check_fits(f"`steps` {settings.steps} with {snapshots} snapshots of the weights", size)


def kept_numbers(unroll: int, checkpoint_every: int, state: int) -> int:
    """Numbers kept for each parameter of a problem, with `state` state coordinates."""
    if checkpoint_every >= unroll:
        return unroll * (state + 2)
    starts = unroll // checkpoint_every + 1
    return unroll + starts * (state + 1) + checkpoint_every * (state + 2)


def _micro_batches(settings: MetaTraining, most: int) -> list[int]:
    """Divisors of the batch size that are at most `most`, best first."""
    if settings.micro_batch is not None:
        return [settings.micro_batch]
    divisors = [m for m in range(settings.problems, 0, -1) if settings.problems % m == 0]
    return [m for m in divisors if m <= most or m == 1]


def _segments(settings: MetaTraining, kept: int) -> list[int]:
    """Numbers of updates between checkpoints to try, best first."""
    if settings.checkpoint_every is not None:
        return [settings.checkpoint_every]
    short = max(1, round(math.sqrt(settings.unroll)))
    return [settings.unroll, short] if kept <= WORTH_KEEPING else [short]


def _small_working_bytes(optimizer: AbstractOptimizer, state_bytes: int) -> tuple[int, int]:
    """A rough estimate of working bytes, for the weights and per problem, without compilation."""
    weights = jax.tree.leaves(eqx.filter(optimizer, eqx.is_inexact_array))
    return 6 * sum(leaf.nbytes for leaf in weights), 10 * state_bytes


def _working_bytes(task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining) -> int:
    """Bytes that one problem needs while one update is differentiated, or made if none is."""
    few = 4
    small = dataclasses.replace(
        settings, unroll=few, checkpoint_every=2, problems=1, micro_batch=1, es_window=few
    )
    keys = jr.split(jr.key(0), 1)
    if settings.estimator not in BACKPROPAGATING:

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


def _data_bytes(
    task: AbstractTask, optimizer: AbstractOptimizer, settings: MetaTraining, members: int
) -> int:
    """Bytes of arrays that every plan needs: the dataset, and each member's unfinished pairs."""
    size = _bytes_of(eqx.filter(task, eqx.is_array))
    if settings.estimator == "pes":
        pairs = eqx.filter_eval_shape(first_particles, optimizer, task, jr.key(0), settings)
        size += members * _bytes_of(pairs)
    return size


def _bytes_of(tree: Any) -> int:
    arrays = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
