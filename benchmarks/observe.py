"""What watching an optimizer costs: steps of an Equinox MLP of about a million parameters.

python benchmarks/observe.py --every 10

Steps with and without `lo.observe` run in turn, compiled, on this machine. CPU seconds are those of
the process, over all its threads; the least of all timings counts, because other jobs only add.
"""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import lrevopt as lo
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Overhead of `lo.observe` around Adam, in CPU time and in wall time."""

    every: int = 10
    """One update in so many is measured."""
    batch: int = 128
    """Examples in a batch."""
    steps: int = 50
    """Steps in each timing."""
    repeats: int = 9
    """Timings of each kind, in turn; the least counts."""
    sharpness: bool = False
    """Whether the curvature is measured, too: two Hessian-vector products a record."""


def main(settings: Settings) -> None:
    """Time both loops in turn and print the ratio."""
    model = eqx.nn.MLP(784, 10, 512, 3, key=jr.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    images = jr.normal(jr.key(1), (settings.batch, 784))
    labels = jr.randint(jr.key(2), (settings.batch,), 0, 10)

    def loss(params: Any) -> Any:
        logits = jax.vmap(eqx.combine(params, static))(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizers = {
        "plain": optax.adam(1e-3),
        "observed": lo.observe(
            optax.adam(1e-3), every=settings.every, sharpness=settings.sharpness
        ),
    }
    loops = {}
    for name, optimizer in optimizers.items():
        extra = {"loss": loss} if name == "observed" and settings.sharpness else {}
        loops[name] = _loop(optimizer, loss, extra), (params, optimizer.init(params))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for repeat in range(settings.repeats + 1):
        for name, (step, start) in loops.items():
            carry, cpu, wall = start, time.process_time(), time.perf_counter()
            for _ in range(settings.steps):
                carry = step(*carry)
            jax.block_until_ready(carry)
            if repeat:  # the first compiles
                found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{count:,} parameters, batch {settings.batch}, measured every {settings.every} updates")
    least = {name: np.min(np.array(times), axis=0) for name, times in found.items()}
    for name, (cpu, wall) in least.items():
        print(f"{name:10} {1e3 * cpu / settings.steps:8.2f} ms CPU a step"
              f"{1e3 * wall / settings.steps:10.2f} ms")  # fmt: skip
    cpu, wall = least["observed"] / least["plain"] - 1
    print(f"overhead: {100 * cpu:.1f} % CPU, {100 * wall:.1f} % wall")


def _loop(optimizer: Any, loss: Any, extra: dict[str, Any]) -> Any:
    @jax.jit
    def step(params: Any, state: Any) -> Any:
        gradients = jax.grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params, **extra)
        return jax.tree.map(jnp.add, params, updates), state

    return step


if __name__ == "__main__":
    chosen = parse(Settings)
    with plain_errors():
        main(chosen)
