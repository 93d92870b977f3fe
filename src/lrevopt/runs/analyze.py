"""The trained optimizer taken apart."""

from pathlib import Path

import equinox as eqx

from lrevopt import storage
from lrevopt.analysis import (
    Mechanisms,
    analyze_sampled,
    measure_manifold,
    measure_modes,
    measure_parameter_types,
    textbook_update_functions,
)
from lrevopt.inner_loop.sampled_states import sample_states
from lrevopt.optimizers import saved
from lrevopt.runs.experiment import key_stream, load_task
from lrevopt.tasks import AbstractTask
from lrevopt.tasks.pictures import task_picture

ANALYSED_PROBLEMS, ANALYSED_LARGE_PROBLEMS, LARGE_NETWORK = 64, 8, 50_000
"""Problems whose states and gradients are looked at: the paper's number of test runs, and fewer
of problems with more parameters than the last number, whose runs take 7 s each."""


def analyze_run(
    directory: Path,
    problems: int | None,
    steps: int,
    seed: int = 0,
    data_dir: Path | None = None,
) -> Mechanisms:
    """Take the learned optimizer of a folder apart, and save the numbers of its figures.

    Without `problems`, as many as `analysed_problems` says. `data_dir` is as in `evaluate_run`.
    """
    _, task = load_task(directory, data_dir)
    optimizer, key = saved.load(directory), key_stream("analysis", seed)
    problems = analysed_problems(task) if problems is None else problems
    sampled = sample_states(optimizer, task, key=key, problems=problems, steps=steps)
    record = analyze_sampled(optimizer, sampled)
    storage.save_record(directory / "mechanisms.npz", record)
    if len(task.parameter_groups) > 1:
        types = measure_parameter_types(optimizer, task, key=key, problems=problems, steps=steps)
        storage.save_record(directory / "parameter_types.npz", types)
        storage.save_record(directory / "manifold.npz", measure_manifold(optimizer, sampled))
        storage.save_record(directory / "mode_shifts.npz", measure_modes(optimizer, sampled))
    facts = {"problems": problems, "steps": steps, "seed": seed}
    storage.save_json(directory / "analysis.json", facts)
    storage.save_record(directory / "textbook.npz", textbook_update_functions())
    storage.save_record(directory / "task_picture.npz", task_picture(task, key=key))
    return record


def analysed_problems(task: AbstractTask) -> int:
    """How many problems of a task to look at."""
    problem = eqx.filter_eval_shape(task.sample, key_stream("analysis", 0))
    large = problem.initial_parameters.size > LARGE_NETWORK
    return ANALYSED_LARGE_PROBLEMS if large else ANALYSED_PROBLEMS
