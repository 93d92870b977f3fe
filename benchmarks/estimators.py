"""Compare meta-gradient estimators on two moons: bias, variance, cost, and what training reaches.

    python benchmarks/estimators.py
    python benchmarks/estimators.py --seconds 300 --optimizer runs/short

Bias and variance are those of single-problem estimates at one optimizer, against the mean exact
gradient of short unrolls, where that is finite and small enough to estimate. Training gives every
estimator the same number of seconds, compilation apart, from the same weights, and is judged on
the same selection problems.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import lrevopt as lo
from lrevopt.meta_training import first_particles
from lrevopt.meta_training.estimators import estimate
from lrevopt.runs.command_line import parse, plain_errors

ESTIMATORS: tuple[str, ...] = ("exact", "clipped", "first_order", "es", "pes")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compare meta-gradient estimators on two moons, at one optimizer and in training."""

    optimizer: Path | None = None
    """Folder of a run at whose optimizer bias and variance are measured (default: untrained, with
    a random readout)."""
    unroll: int = 40
    """Updates of the runs whose gradients are compared."""
    estimates: int = 24
    """Estimates of each kind."""
    training_unroll: int = 100
    """Updates of training runs."""
    seconds: float = 120.0
    """Training time of each estimator."""
    units: int = 16
    """Width of the optimizers that are trained, and of an untrained one."""


def fresh(units: int) -> lo.RecurrentOptimizer:
    """An optimizer that does not move yet."""
    return lo.GRUOptimizer(units, key=jr.key(0), input_scale=300.0, output_scale=0.1)


def measure(task: lo.TwoMoons, optimizer: Any, settings: Settings) -> None:
    """Print bias, spread and cost of each estimator, one problem at a time."""
    rows, costs = {}, {}
    for name in ESTIMATORS:
        chosen: Any = name
        training = lo.MetaTraining(
            unroll=settings.unroll, problems=1, estimator=chosen, checkpoint_every=7, es_window=20
        )
        particles = None
        if name == "pes":
            particles = first_particles(optimizer, task, jr.key(3), training)

        def once(
            optimizer: Any, key: Any, particles: Any, training: Any = training
        ) -> tuple[Any, Any]:
            _, gradient, particles = estimate(optimizer, task, key, training, particles=particles)
            leaves = jax.tree.leaves(gradient)
            return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]), particles

        run = eqx.filter_jit(once)
        found = []
        for k in range(settings.estimates + 1):
            start = time.perf_counter()
            # The same problems for all that backpropagate.
            gradient, particles = jax.block_until_ready(run(optimizer, jr.key(k), particles))
            if k:  # the first compiles
                found.append((np.asarray(gradient, float), time.perf_counter() - start))
        rows[name] = np.stack([gradient for gradient, _ in found])
        costs[name] = float(np.median([seconds for _, seconds in found]))
    exact = rows["exact"].mean(axis=0)
    size = np.linalg.norm(exact)
    print(f"mean exact gradient of {settings.unroll} updates: norm {size:.3g}")
    print(f"{'estimator':12}{'median norm':>12}{'bias':>8}{'cosine':>8}{'deviation':>11}{'s':>7}")
    for name, row in rows.items():
        mean = row.mean(axis=0)
        bias = np.linalg.norm(mean - exact) / size
        cosine = mean @ exact / (np.linalg.norm(mean) * size)
        spread = np.sqrt(row.var(axis=0, ddof=1).sum()) / size
        norm = np.median(np.linalg.norm(row, axis=1))
        print(f"{name:12}{norm:12.3g}{bias:8.2f}{cosine:8.2f}{spread:11.2f}{costs[name]:7.2f}")


def train(task: lo.TwoMoons, settings: Settings) -> None:
    """Print the best snapshot of each estimator after the same time."""
    print(f"training, unrolls of {settings.training_unroll}, {settings.seconds:.0f} s each")
    print(f"{'estimator':12}{'meta-steps':>11}{'skipped':>9}{'best':>8}{'last':>8}{'norm':>9}")
    for name in ESTIMATORS:
        chosen: Any = name
        training = lo.MetaTraining(
            steps=100_000, unroll=settings.training_unroll, problems=1, estimator=chosen,
            checkpoint_every=10, micro_batch=1, learning_rate=1e-3, warm_up=20, schedule="constant",
            clip=1.0, snapshot_every=20, early_snapshots=False, selection_problems=4,
            rollback_ratio=None, selection_unroll=200, es_window=20,
        )  # fmt: skip
        key = jr.key(5)
        # One meta-step compiles the program, which the timed run then finds.
        start = fresh(settings.units)
        lo.meta_train(task, start, training, key=key, time_limit=1e-9, progress=False)
        history = lo.meta_train(
            task, start, training, key=key, time_limit=settings.seconds, progress=False
        ).history
        if history.outcome.startswith("SIG"):
            return
        scores = history.selection_scores[np.isfinite(history.selection_scores)]
        norm = np.nanmedian(history.gradient_norms[: history.steps])
        print(
            f"{name:12}{history.steps:11}{history.skipped:9}{scores.min():8.4f}{scores[-1]:8.4f}"
            f"{norm:9.3g}",
            flush=True,
        )


def main(settings: Settings) -> None:
    """Measure and train."""
    task = lo.TwoMoons()
    if settings.optimizer is None:
        optimizer: Any = fresh(settings.units)
        readout = -0.02 * jr.normal(jr.key(1), (settings.units,))
        optimizer = eqx.tree_at(lambda o: o.weights, optimizer, readout)
    else:
        optimizer = lo.load(settings.optimizer)
    measure(task, optimizer, settings)
    train(task, settings)


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        main(settings)
