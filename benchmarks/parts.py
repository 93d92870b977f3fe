"""Where the time of a meta-step goes: its parts, each timed alone in a scan on one device.

    python benchmarks/parts.py two_moons --units 16
    python benchmarks/parts.py linear_regression --units 64 --problems 32

A step of the unroll takes one gradient of the task and one transition; a step back takes the
transition again where states are recomputed, the transition with its pull back, and a product with
the task's Hessian. Times are CPU seconds of the process, the least of `repeats`. Floors are the
matrix products alone, at the rate that this machine reaches for a product of the same shape, and
the tanh of the gates.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import tyro

import lrevopt as lo
from lrevopt.inner_loop.pullbacks import Lanes, pull_back
from lrevopt.inner_loop.steps import losses_and_gradients, start_of_runs, transitions
from lrevopt.runs.command_line import parse, plain_errors
from lrevopt.runs.options import Images, Task
from lrevopt.tasks.interface import sample_problems
from lrevopt.tasks.named import make_task


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where the time of a meta-step goes."""

    task: tyro.conf.Positional[Task]
    """What the optimizer is trained on."""
    units: int = 16
    """Width of the GRU."""
    problems: int = 1
    """Problems side by side."""
    length: int = 20
    """Repetitions in one scan."""
    repeats: int = 9
    """Timings of each part, of which the least counts."""
    images: Images = Images()


def main(settings: Settings) -> None:
    """Time the parts and print a row for each."""
    task = make_task(settings.task, settings.images.kwargs(), settings.images.data_dir)
    problems = eqx.filter_jit(sample_problems)(task, jr.key(0), settings.problems)
    optimizer = lo.GRUOptimizer(settings.units, key=jr.key(0), output_scale=1e-3)
    parts = eqx.partition(optimizer, eqx.is_inexact_array)
    x, states = start_of_runs(optimizer, problems)
    count, units = x.size, settings.units
    g, over = jr.normal(jr.key(1), (count,)), 0.1 + jnp.zeros_like(states)

    def gradient(x: Any) -> Any:
        return x - 1e-3 * losses_and_gradients(task, problems, x, 0)[1]

    def transition(states: Any) -> Any:
        return transitions(optimizer, states, g, x.reshape(-1))

    def back(carry: Any) -> Any:
        states, over, sums = carry
        lanes = Lanes(x.reshape(-1), states, g, g, over, 0.9 * states)
        pulled, sums = pull_back(parts, optimizer.readout, lanes, sums)
        return 0.999 * states, pulled.to_states + 1e-3 * pulled.to_gradients, sums

    def curvature(carry: Any) -> Any:
        x, v = carry
        _, turned = jax.jvp(lambda x: losses_and_gradients(task, problems, x, 0)[1], (x,), (v,))
        return x + 1e-6 * turned, v + 1e-3 * turned

    matrix = jr.normal(jr.key(2), (2 * units, units)) / units
    sums = (jax.tree.map(jnp.zeros_like, parts[0]), jnp.zeros_like(optimizer.readout))
    jobs: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "gradient of the task": (gradient, x),
        "transition": (transition, states),
        "transition and pull back": (back, (states, over, sums)),
        "Hessian product": (curvature, (x, jnp.ones_like(x))),
        "one product (2 units, units)": (lambda h: 0.5 * h + (matrix @ h)[:units], states),
        "tanh of the gates": (jnp.tanh, jnp.ones((3 * units, count))),
    }
    print(f"{settings.task}, {units} units, {settings.problems} problems, {count:,} lanes")
    for name, (part, start) in jobs.items():
        print(f"{name:30}{1e3 * _seconds(part, start, settings):9.3f} ms")


def _seconds(part: Callable[[Any], Any], start: Any, settings: Settings) -> float:
    @jax.jit
    def run(carry: Any) -> Any:
        return jax.lax.scan(lambda c, _: (part(c), None), carry, None, length=settings.length)[0]

    jax.block_until_ready(run(start))
    found = []
    for _ in range(settings.repeats):
        before = time.process_time()
        jax.block_until_ready(run(start))
        found.append((time.process_time() - before) / settings.length)
    return min(found)


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        main(settings)
