"""A stage: the mechanisms of a run's optimizer, measured."""

from typing import Any

import equinox as eqx

from lrevopt import storage
from lrevopt.analysis import (
    Dynamics,
    Manifold,
    Mechanisms,
    ParameterTypes,
    analyze_sampled,
    measure_dynamics,
    measure_manifold,
    measure_modes,
    measure_parameter_types,
    textbook_update_functions,
)
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import AbstractOptimizer, at_parameter, hold_counters, saved
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.writing import write
from lrevopt.studies.scorecard.measuring import replay_states
from lrevopt.tasks import AbstractTask
from lrevopt.tasks.pictures import task_picture

ANALYSED_PROBLEMS, ANALYSED_LARGE_PROBLEMS, LARGE_NETWORK = 64, 8, 50_000
"""Problems whose states and gradients are looked at: the paper's number of test runs, and fewer
of problems with more parameters than the last number, whose runs take 7 s each."""


def analyze_run(
    run: Run, *, problems: int | None = None, steps: int = 200, seed: int = 0
) -> Mechanisms:
    """Measure the mechanisms of a run's optimizer, and save the numbers of its figures.

    Without `problems`, as many as `analysed_problems` says. Step counters of optax are held at
    `steps`, and an optimizer that takes x is analysed at x = 0; its runs use the parameters that
    they meet. What was measured when a call was interrupted is not measured again. Raises
    `ValueError` for a run without weights, step counters that depend on gradients, or an optimizer
    that diverges on every problem.
    """
    task, key = run.task, key_stream("analysis", seed)
    problems = analysed_problems(task) if problems is None else problems
    check_runs(task, problems=problems, steps=steps)
    optimizer, at_rest = at_rest_of(run, steps)
    facts = {"problems": problems, "steps": steps, "seed": seed}
    counts: Any = {"key": key, "problems": problems, "steps": steps}
    made_from = facts | {"task": storage.describe(task)}
    with storage.claimed(run.folder), storage.resumable(run.folder, "analyze", made_from):
        sampled = sample_states(optimizer, task, **counts)
        moving = optimizer if at_rest is None else at_rest
        optimizer = at_parameter(moving, 0.0)
        if at_rest is not None:
            sampled = replay_states(optimizer, sampled)
        record = storage.part(
            "mechanisms", Mechanisms, lambda: analyze_sampled(optimizer, sampled), of=optimizer
        )
        records: dict[str, Any] = {}
        records["dynamics"] = storage.part(
            "dynamics", Dynamics, lambda: measure_dynamics(optimizer, sampled), of=optimizer
        )
        if len(task.parameter_groups) > 1:
            types = storage.part(
                "parameter types",
                ParameterTypes,
                lambda: measure_parameter_types(moving, task, **counts),
                of=optimizer,
            )
            records["parameter_types"] = storage.six_digits(types, "states", "paths")
            records["manifold"] = storage.part(
                "manifold", Manifold, lambda: measure_manifold(optimizer, sampled), of=optimizer
            )
            records["mode_shifts"] = measure_modes(optimizer, sampled)
        records["textbook"] = textbook_update_functions()
        records["task_picture"] = task_picture(task, key=key)
        # what is drawn, and large
        record = storage.six_digits(record, "states.paths", "clipping.updates")
        write(run.folder, "mechanisms", record, json=facts)
        for name, found in records.items():
            write(run.folder, name, found)
    return record


def at_rest_of(run: Run, steps: int) -> tuple[AbstractOptimizer, AbstractOptimizer | None]:
    """The optimizer of a run and, if it keeps a step counter, the same with the counter held.

    A counter that goes on has no fixed point. Both have the hyperparameters that training found.
    Raises `ValueError` for a run without weights, or counters that depend on gradients.
    """
    optimizer = saved.load(run.folder)
    at_rest = hold_counters(optimizer, steps)
    return optimizer, None if at_rest is optimizer else at_rest


def analysed_problems(task: AbstractTask) -> int:
    """Number of problems of a task on which states are sampled."""
    problem = eqx.filter_eval_shape(task.sample, key_stream("analysis", 0))
    large = problem.initial_parameters.size > LARGE_NETWORK
    return ANALYSED_LARGE_PROBLEMS if large else ANALYSED_PROBLEMS
