"""What white boxes are compared with: the learned optimizer and the best of the tuned baselines."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from lrevopt.checks import mapping
from lrevopt.inner_loop.evaluation import evaluate
from lrevopt.inner_loop.recorded_runs import RecordedRuns, Typical, record_runs, typical_of
from lrevopt.inner_loop.run_checks import check_first_losses, check_run
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import AbstractOptimizer, WhiteBox
from lrevopt.studies.distillation.gain import best_baseline
from lrevopt.studies.distillation.training import BoxTraining
from lrevopt.tasks.interface import AbstractTask, sample_problems


class Tested(NamedTuple):
    """Meta-objectives on the same test problems, a row for each white box."""

    boxes: Float[np.ndarray, "box problem"]
    learned: Float[np.ndarray, " problem"]
    baseline: Float[np.ndarray, " problem"]
    baseline_name: str


def check_baselines(
    baselines: Mapping[str, AbstractOptimizer], task: AbstractTask, key: Key[Array, ""]
) -> None:
    """Raise `ValueError` for what are no optimizers by name that can be run on the task."""
    mapping("baselines", baselines, "optimizers")
    for name, one in baselines.items():
        check_run(one, task, key, f"baselines[{name!r}]")


def check_scored(
    task: AbstractTask, steps: int, draws: Sequence[tuple[Key[Array, ""], int]], optimizers: int = 2
) -> None:
    """Raise `ValueError` before anything is trained for problems that have no score in the end.

    `draws` are keys with counts of problems, on which so many `optimizers` run `steps` updates.
    """
    sample: Any = eqx.filter_jit(sample_problems)
    for key, problems in draws:
        check_runs(task, problems=problems, steps=steps, optimizers=optimizers)
        check_first_losses(task, sample(task, key, problems))


def check_free(white_box: WhiteBox) -> None:
    """Raise `ValueError` for a white box of which every number is held."""
    if not white_box.numbers():
        raise ValueError("`white_box` must have a number that is not held, got none.")


def check_parts(white_box: WhiteBox) -> None:
    """Raise `ValueError` for a white box that is a learning rate alone, or has it held."""
    if not white_box.parts:
        raise ValueError("`white_box` must have at least one part, got none.")
    if "learning_rate" in white_box.held:
        raise ValueError(
            "`white_box` must leave `learning_rate` free, the one number of its subset without "
            f"parts, got it held at {white_box.held['learning_rate']:.6g}."
        )


def check_moves(recorded: RecordedRuns) -> None:
    """Raise `ValueError` for runs of an optimizer that never moved: there is nothing to explain."""
    if not np.any(recorded.updates):
        raise ValueError("`optimizer` must move, but all of its updates are 0: train it first.")


def typical_sizes(
    optimizer: AbstractOptimizer, task: AbstractTask, steps: int, *, key: Key[Array, ""]
) -> Typical:
    """Sizes of gradients along runs of a learned optimizer, around which random starts lie.

    Raises `ValueError` for an optimizer that diverges on every problem, or never moves.
    """
    recorded = record_runs(optimizer, task, key=key, problems=16, steps=steps)
    check_moves(recorded)
    return typical_of(recorded.gradients)


def measured_beside(
    boxes: Sequence[AbstractOptimizer],
    optimizer: AbstractOptimizer,
    baselines: Mapping[str, AbstractOptimizer],
    task: AbstractTask,
    *,
    settings: BoxTraining,
    key: Key[Array, ""],
    test_key: Key[Array, ""],
    problems: int,
) -> Tested:
    """White boxes, the learned optimizer and the best baseline on problems from `test_key`.

    That baseline is the one with the least mean meta-objective on problems from `key`.
    """
    count, steps = settings.training.selection_problems, settings.training.unroll
    best = best_baseline(baselines, task, problems=count, steps=steps, key=key)
    # By place: names of baselines are the caller's, and may be any.
    each = [*boxes, optimizer, baselines[best]]
    tested = evaluate(
        {str(place): one for place, one in enumerate(each)}, task, problems=problems, steps=steps,
        key=test_key,
    )  # fmt: skip
    rows = np.asarray(tested.meta_objectives(), float)
    return Tested(rows[:-2], rows[-2], rows[-1], best)
