"""A stage: the optimizer of a run taken apart."""

import equinox as eqx
import jax.random as jr

from lrevopt.analysis import (
    Mechanisms,
    analyze_sampled,
    measure_manifold,
    measure_modes,
    measure_parameter_types,
    textbook_update_functions,
)
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers import AbstractOptimizer, OptaxOptimizer, saved
from lrevopt.optimizers.named import make_optimizer
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
    """Take the optimizer of a run apart, and save the numbers of its figures.

    Without `problems`, as many as `analysed_problems` says. Raises `ValueError` for a run without
    weights, or an optimizer that diverges on every problem.
    """
    task = run.task
    optimizer, at_rest = at_rest_of(run, steps)
    key = key_stream("analysis", seed)
    problems = analysed_problems(task) if problems is None else problems
    sampled = sample_states(optimizer, task, key=key, problems=problems, steps=steps)
    if at_rest is not None:
        optimizer, sampled = at_rest, replay_states(at_rest, sampled)
    record = analyze_sampled(optimizer, sampled)
    facts = {"problems": problems, "steps": steps, "seed": seed}
    write(run.folder, "mechanisms", record, json=facts)
    if len(task.parameter_groups) > 1:
        types = measure_parameter_types(optimizer, task, key=key, problems=problems, steps=steps)
        write(run.folder, "parameter_types", types)
        write(run.folder, "manifold", measure_manifold(optimizer, sampled))
        write(run.folder, "mode_shifts", measure_modes(optimizer, sampled))
    write(run.folder, "textbook", textbook_update_functions())
    write(run.folder, "task_picture", task_picture(task, key=key))
    return record


def at_rest_of(run: Run, steps: int) -> tuple[AbstractOptimizer, AbstractOptimizer | None]:
    """The optimizer of a run and, if it keeps a step counter, the same with the counter held.

    A counter that goes on has no fixed point. Raises `ValueError` for a run without weights.
    """
    optimizer, spec = saved.load(run.folder), run.settings.get(saved.SPEC)
    if spec is None or not isinstance(optimizer, OptaxOptimizer):
        return optimizer, None
    at_rest = make_optimizer(spec["spec"], spec["kwargs"], key=jr.key(0), at_step=steps)
    return optimizer, at_rest


def analysed_problems(task: AbstractTask) -> int:
    """How many problems of a task to look at."""
    problem = eqx.filter_eval_shape(task.sample, key_stream("analysis", 0))
    large = problem.initial_parameters.size > LARGE_NETWORK
    return ANALYSED_LARGE_PROBLEMS if large else ANALYSED_PROBLEMS
