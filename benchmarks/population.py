"""Time a population of seeds against the same trainings one after another.

    python benchmarks/population.py
    python benchmarks/population.py --members 8 --steps 100

Both ways use the same devices: on a CPU one for each core. A first training of each kind compiles
its programs, which later ones use again; its time is printed apart.
"""

import dataclasses
import os
import statistics
import time
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

import lrevopt as lo
from lrevopt.host_devices import THREADS, cores
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train seeds of one optimizer at once and one after another."""

    members: int = 16
    """Seeds."""
    units: int = 16
    """Width of the optimizers."""
    problems: int = 32
    """Problems in a batch."""
    steps: int = 300
    """Meta-steps."""
    unroll: int = 200
    """Inner updates."""
    rounds: int = 3
    """How often both ways are timed, in turn."""


def main(settings: Settings) -> None:
    """Time both ways, compare what comes out, print the ratio."""
    os.environ.setdefault(THREADS, str(2 * cores()))
    jax.config.update("jax_num_cpu_devices", cores())
    task = lo.LinearRegression()
    keys = jr.split(jr.key(0), settings.members)
    optimizers = [
        lo.GRUOptimizer(settings.units, key=key) for key in jr.split(jr.key(1), len(keys))
    ]
    training = lo.MetaTraining(
        steps=settings.steps, problems=settings.problems, unroll=settings.unroll,
        snapshot_every=settings.steps, early_snapshots=False,
    )  # fmt: skip

    def together(training: lo.MetaTraining) -> list[Any]:
        found = lo.meta_train_population(task, optimizers, training, keys=keys, progress=False)
        return [run.last for run in found.members]

    def in_turn(training: lo.MetaTraining, count: int = len(keys)) -> list[Any]:
        return [
            lo.meta_train(task, optimizers[k], training, key=keys[k], progress=False).last
            for k in range(count)
        ]

    def seconds(run: Any, *given: Any) -> tuple[float, Any]:
        begin = time.perf_counter()
        found = jax.block_until_ready(run(*given))
        return time.perf_counter() - begin, found

    print(f"{len(jax.devices())} devices; first training, with compilation:")
    print(f"  at once {seconds(together, training)[0]:.1f} s")
    print(f"  one alone {seconds(in_turn, training, 1)[0]:.1f} s")
    times: list[tuple[float, float]] = []
    for number in range(settings.rounds):
        (first, several), (second, singles) = (
            seconds(together, training),
            seconds(in_turn, training),
        )
        times.append((first, second))
        print(f"round {number}: at once {first:.2f} s, in turn {second:.2f} s", flush=True)
    ratio = statistics.median(first / second for first, second in times)
    print(f"at once / in turn: {ratio:.3f} (median of {len(times)})")
    print(f"largest relative difference of weights: {difference(several, singles):.1e}")


def difference(several: list[Any], singles: list[Any]) -> float:
    """Largest difference of trained weights, relative to the largest weight of an array."""
    found = 0.0
    for pair in zip(several, singles, strict=True):
        leaves = [jax.tree.leaves(eqx.filter(one, eqx.is_array)) for one in pair]
        for a, b in zip(*leaves, strict=True):
            size = float(np.abs(np.asarray(b)).max(initial=0.0)) or 1.0
            found = max(found, float(np.abs(np.asarray(a) - np.asarray(b)).max()) / size)
    return found


if __name__ == "__main__":
    with plain_errors():
        main(parse(Settings))
