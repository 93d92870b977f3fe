"""Appendices B and C of the paper on run directories.

Appendix B is about an optimizer that "performs as well as momentum", found among the snapshots of
one run. The *mimic* is the snapshot whose mean meta-objective on the run's selection problems is
nearest to that of tuned momentum on the same problems; the paired 95 % interval of the difference
says whether the two are equal. Learning rates and timescales of modes play no part in the choice.

Version 0.1 chose the snapshot whose mean loss curve is nearest to tuned momentum's, as root mean
square over steps of the difference of log10 (`curve_gaps`). The last updates decide that, where
losses are 1e-5, and it takes late snapshots. That one is kept beside the other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt import storage
from lrevopt.analysis import find_fixed_points
from lrevopt.analysis.schedules import autonomous_path
from lrevopt.checks import finite, positive_integer
from lrevopt.inner_loop.evaluation import Evaluation, evaluate
from lrevopt.meta_training import History
from lrevopt.meta_training.run_directory import OF_OPTIMIZER
from lrevopt.optimizers import AbstractOptimizer, Momentum, saved
from lrevopt.paper.appendices.aggregated_momentum import Derivation, derive_aggregated_momentum
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics, measure_meta_dynamics
from lrevopt.paper.appendices.momentum_mimic import (
    CURVES,
    SCORES,
    MomentumMimic,
    curve_gaps,
    measure_mimic,
)
from lrevopt.paper.contents import APPENDIX_B, META_DYNAMICS, MIMIC_BY_CURVES, MOMENTUM_MIMIC
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune import Say, load_tuning
from lrevopt.tasks import AbstractTask, LinearRegression
from lrevopt.text import csv_text
from lrevopt.tuning.random_search import analytic_momentum

MIMIC, BY_CURVES, DYNAMICS = (
    Path(part.file).name for part in (MOMENTUM_MIMIC, MIMIC_BY_CURVES, META_DYNAMICS)
)

SETTLING_STEPS = 1000
"""Steps without gradient after which a fixed point is searched for."""


def appendix_b(
    run_directory: Path,
    baselines: Path,
    output: Path,
    *,
    problems: int = 64,
    test_problems: int = 256,
    steps: int = 200,
    seed: int = 0,
    say: Say = print,
) -> tuple[MomentumMimic, MetaDynamics]:
    """Choose the mimic among a run's snapshots; analyze it and every snapshot, and save both.

    `baselines` is a folder with tuned momentum; `output` becomes a folder that `load` reads. It
    also gets the snapshot of the nearest loss curve as `mimic_by_curves.npz`, and `snapshots.csv`
    with difference of the meta-objective, gap, score and dominant mode of each snapshot.

    Raises `ValueError` for a run that is not on linear regression, the only task whose optimum is
    known, or that has no snapshots; for baselines without momentum; and for an `output` that holds
    a run, or the appendix of another one.
    """
    task = linear_regression_of(run_directory)
    tuned = _tuned_momentum(baselines, task)
    own = _settings_for(output, run_directory)
    optimum = analytic_momentum(task.log10_eigenvalues)
    snapshots, history = load_snapshots(run_directory)
    taken, scores = history.snapshot_steps[: len(snapshots)], history.selection_scores
    compared = compare_snapshots(run_directory, snapshots, task, tuned)
    chosen, by_curves = compared.equal, compared.nearest_curve
    say(f"{len(snapshots)} snapshots; {compared.in_words(taken)}")
    key, counts = key_stream("analysis", seed), {"problems": problems, "steps": steps}

    def measured(index: int, chosen_by: str) -> MomentumMimic:
        return measure_mimic(
            snapshots[index], task, tuned, optimum, key=key, test_key=key_stream("test", seed),
            step=int(taken[index]), chosen_by=chosen_by, test_problems=test_problems, **counts,
        )  # fmt: skip

    mimic, other = measured(chosen, SCORES), measured(by_curves, CURVES)
    dynamics = measure_meta_dynamics(
        snapshots, taken, scores[: len(snapshots)], task, optimum, key=key, problems=problems,
        inner_steps=steps,
    )  # fmt: skip
    settings = {
        "snapshot": mimic.step, "snapshot_by_curves": other.step, "test_problems": test_problems,
        "seed": seed, **counts, **compared.facts(chosen),
    }  # fmt: skip
    curves = ("losses", "paths")
    measurements: dict[str, str | bytes] = {
        name: storage.record_bytes(storage.six_digits(record, *large))
        for name, record, large in (
            (MIMIC, mimic, curves), (BY_CURVES, other, curves),
            (DYNAMICS, dynamics, ("eigenvalues", "learning_rates")),
        )
    }  # fmt: skip
    measurements["snapshots.csv"] = _table(dynamics, compared)
    with storage.claimed(output):
        _replace(output, own | {APPENDIX_B: settings}, snapshots[chosen], measurements)
    return mimic, dynamics


def _replace(
    output: Path,
    settings: dict[str, Any],
    optimizer: AbstractOptimizer,
    measurements: Mapping[str, str | bytes],
) -> None:
    """Settings, weights and what was measured, in place of those that are there.

    A folder never has measurements of other settings or weights than those in it: what later stages
    have made from other weights is removed.
    """
    identity: dict[str, str | bytes] = {
        storage.SETTINGS: storage.json_text(settings),
        storage.WEIGHTS: saved.weights_bytes(optimizer),
    }

    def remove_old() -> None:
        later = () if saved.holds(output, optimizer) else OF_OPTIMIZER
        for name in (*measurements, *later, storage.OLD_WEIGHTS):
            storage.remove(output / name)

    contents = {output / name: content for name, content in (identity | dict(measurements)).items()}
    storage.replace_together(contents, remove_old)


def _tuned_momentum(baselines: Path, task: AbstractTask) -> Momentum:
    tuned = load_tuning(baselines, task)
    if "momentum" not in tuned:
        raise ValueError(
            f"`baselines` must be a folder with tuned momentum, but `{baselines}` has only "
            f"{', '.join(tuned)}."
        )
    return Momentum(**tuned["momentum"].best)


def _settings_for(output: Path, run_directory: Path) -> dict[str, Any]:
    """Settings of the run. Raises `ValueError` if `output` holds anything but its appendix."""
    own = Run(run_directory).settings
    path = output / storage.SETTINGS
    if path.exists() and APPENDIX_B not in storage.load_json(path):
        raise ValueError(
            f"`output` must be a folder of its own, got `{output}`, which holds a run: choose "
            "another folder."
        )
    storage.check_output(output, own)
    return own


def linear_regression_of(directory: Path) -> LinearRegression:
    """The task of a run on linear regression. Raises `ValueError` for a run on another."""
    run = Run(directory)
    if not isinstance(run.task, LinearRegression):
        raise ValueError(
            f"`run_directory` must hold a run on linear_regression, but that in `{directory}` "
            f"is on {run.task_name}."
        )
    return run.task


def load_snapshots(directory: Path) -> tuple[list[AbstractOptimizer], History]:
    """The snapshots that a run took before it ended, and its history.

    Raises `ValueError` for a folder that has none.
    """
    history = storage.load_record(History, directory / "history.npz")
    like, folder = saved.load(directory), directory / "snapshots"
    stacked = storage.load_arrays(folder)
    count = int(np.sum(~np.isnan(history.selection_scores)))
    each = [{name: array[i] for name, array in stacked.items()} for i in range(count)]
    return [storage.arrays_to_tree(arrays, like, folder) for arrays in each], history


def selection_runs(
    directory: Path, optimizers: Mapping[str, AbstractOptimizer], task: AbstractTask
) -> Evaluation:
    """Optimizers evaluated on the run's selection problems (not trained or tested on)."""
    settings = Run(directory).settings
    training = settings["training"]
    _, selection_key = jr.split(training_key(settings))
    return evaluate(
        optimizers,
        task,
        problems=training["selection_problems"],
        steps=training.get("selection_unroll") or training["unroll"],
        key=selection_key,
    )


def training_key(settings: Mapping[str, Any]) -> Key[Array, ""]:
    """The key that a run was trained with, which `meta_train` keeps in its settings."""
    return jr.wrap_key_data(jnp.asarray(settings["key"], jnp.uint32))


class Compared(NamedTuple):
    """Snapshots beside tuned momentum on the run's selection problems.

    `differences`: mean meta-objective minus momentum's, with the paired 95 % interval from `lows`
    to `highs`; `gaps`: distance of mean loss curves over the whole run, in decades.
    """

    differences: Float[np.ndarray, " snapshot"]
    lows: Float[np.ndarray, " snapshot"]
    highs: Float[np.ndarray, " snapshot"]
    gaps: Float[np.ndarray, " snapshot"]

    @property
    def equal(self) -> int:
        """Index of the mimic: the least difference, of equal ones the first."""
        return int(np.argmin(np.abs(self.differences)))

    @property
    def nearest_curve(self) -> int:
        """Index of the snapshot with the nearest loss curve."""
        return int(np.argmin(self.gaps))

    def facts(self, index: int) -> dict[str, float]:
        """How far one of the snapshots is from tuned momentum, as settings keep it."""
        return {
            "difference": float(self.differences[index]),
            "difference_low": float(self.lows[index]),
            "difference_high": float(self.highs[index]),
            "curve_gap": float(self.gaps[index]),
        }

    def in_words(self, taken: Int[np.ndarray, " snapshot"]) -> str:
        """Both choices, with the meta-step at which each snapshot was taken."""
        mimic = self.equal
        same = self.lows[mimic] <= 0 <= self.highs[mimic]
        found = "performs as tuned momentum" if same else "none performs as tuned momentum, nearest"
        return (
            f"{found} after {taken[mimic]} meta-steps: meta-objective "
            f"{self.differences[mimic]:+.4f} [{self.lows[mimic]:+.4f}, {self.highs[mimic]:+.4f}] "
            f"from its; nearest loss curve after {taken[self.nearest_curve]} meta-steps"
        )


def compare_snapshots(
    directory: Path, snapshots: Sequence[AbstractOptimizer], task: AbstractTask, tuned: Momentum
) -> Compared:
    """Compare every snapshot with tuned momentum on the problems that scored the snapshots."""
    named = {str(index): snapshot for index, snapshot in enumerate(snapshots)}
    runs = selection_runs(directory, named | {"momentum": tuned}, task)
    pairs = [runs.compare(name, "momentum") for name in named]
    *curves, reference = runs.mean_curve()
    differences, lows, highs = np.array(
        [(pair.difference, pair.low, pair.high) for pair in pairs]
    ).T
    return Compared(differences, lows, highs, curve_gaps(np.array(curves), reference))


def _table(dynamics: MetaDynamics, compared: Compared) -> str:
    columns = {
        "step": dynamics.steps,
        "score": dynamics.scores,
        "difference": compared.differences,
        "difference_low": compared.lows,
        "difference_high": compared.highs,
        "curve_gap": compared.gaps,
        "learning_rate": dynamics.dominant_learning_rates,
        "momentum": dynamics.dominant_momenta,
        "converged": dynamics.converged,
    }
    return csv_text(columns, zip(*columns.values(), strict=True))


def appendix_c(
    run_directory: Path, *, steps: int = 200, scale: float = 1e-3, seed: int = 0
) -> Derivation:
    """The equations of appendix C on the learned optimizer of a run, at its fixed point.

    Raises `ValueError` as `derive_aggregated_momentum` does, for an optimizer without a fixed
    point in particular.
    """
    positive_integer("steps", steps)
    finite("scale", scale, above=0.0)
    optimizer = saved.load(run_directory)
    ends = autonomous_path(optimizer, SETTLING_STEPS)[-1:]
    return derive_aggregated_momentum(
        optimizer,
        find_fixed_points(optimizer, ends).states[0],
        key=key_stream("analysis", seed),
        steps=steps,
        scale=scale,
    )
