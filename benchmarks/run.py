"""Time the package's jobs beside the plain way of doing the same, in one run.

    python benchmarks/run.py
    python benchmarks/run.py --job meta_step_64 --repeats 9

Compilation (the first call) is counted apart. Runs of the two are taken in turn, so that what
else the machine does falls on both; the ratio is the median over turns. `plain` is JAX code
that a careful user would write without this package: reverse-mode differentiation of a scan
with one checkpoint per step, a `vmap` over everything, Adam descent to fixed points.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array

import lrevopt as lo
from lrevopt.runs.command_line import parse, plain_errors


class Job(NamedTuple):
    """The same work done by the package and plainly; both return something to compare."""

    ours: Callable[[], Any]
    plain: Callable[[], Any]


def trained_like(units: int) -> lo.RecurrentOptimizer:
    """A GRU that moves, with random weights."""
    optimizer = lo.GRUOptimizer(units, key=jr.key(0))
    readout = -0.02 * jr.normal(jr.key(1), (units,)) / units**0.5
    return eqx.tree_at(lambda o: o.weights, optimizer, readout)


def plain_losses(optimizer: lo.AbstractOptimizer, task: Any, problem: Any, steps: int) -> Array:
    """Losses of one run by a scan over a checkpointed step."""
    start = problem.initial_parameters
    states = jnp.tile(optimizer.initial_state(), (start.size, 1))

    @jax.checkpoint
    def step(carry: Any, index: Array) -> Any:
        parameters, states = carry
        loss, gradient = jax.value_and_grad(task.loss, 1)(problem, parameters, index)
        states = jax.vmap(optimizer.transition)(states, gradient)
        return (parameters + states @ optimizer.readout, states), loss

    (end, _), losses = jax.lax.scan(step, (start, states), jnp.arange(steps))
    return jnp.append(losses, task.loss(problem, end, steps))


def meta_step(units: int) -> Job:
    """Meta-gradient over 32 linear regressions and 200 updates."""
    task, optimizer = lo.LinearRegression(), trained_like(units)
    settings = lo.MetaTraining()
    keys = jr.split(jr.key(2), settings.problems)

    def objective(optimizer: Any) -> Array:
        def one(key: Array) -> Array:
            return plain_losses(optimizer, task, task.sample(key), settings.unroll)

        return lo.meta_objective(jax.vmap(one)(keys)).mean()

    ours = eqx.filter_jit(lambda optimizer: lo.meta_gradient(optimizer, task, keys, settings))
    plain = eqx.filter_jit(eqx.filter_value_and_grad(objective))
    return Job(lambda: ours(optimizer)[0], lambda: plain(optimizer)[0])


def evaluation() -> Job:
    """Meta-objective of a GRU 64 on 64 linear regressions, 200 updates, problems drawn anew."""
    task, optimizer = lo.LinearRegression(), trained_like(64)

    @eqx.filter_jit
    def plain(optimizer: Any, key: Array) -> Array:
        problems = lo.sample_problems(task, key, 64)
        losses = jax.vmap(lambda problem: plain_losses(optimizer, task, problem, 200))(problems)
        return lo.meta_objective(losses).mean()

    def ours() -> float:
        found = lo.evaluate({"gru": optimizer}, task, problems=64, steps=200, key=jr.key(3))
        return float(found.meta_objectives().mean())

    return Job(ours, lambda: plain(optimizer, jr.key(3)))


def tuning() -> Job:
    """Scores of 2,500 momentum settings on 64 linear regressions, 200 updates."""
    task = lo.LinearRegression()
    rates, complements = np.random.default_rng(5).uniform([[-5], [-3]], [[1], [0]], (2, 2500))
    grid = {"learning_rate": 10.0**rates, "momentum": 1 - 10.0**complements}
    stacked = lo.stack_settings(lo.Momentum, grid)
    problems = lo.sample_problems(task, jr.key(4), 64)

    @eqx.filter_jit
    def plain(stacked: Any) -> Array:
        def one(optimizer: Any, problem: Any) -> Array:
            return lo.meta_objective(plain_losses(optimizer, task, problem, 200))

        over_problems = jax.vmap(one, (None, 0))
        return jnp.nanmin(jax.vmap(over_problems, (0, None))(stacked, problems).mean(axis=1))

    return Job(
        lambda: np.min(lo.score_settings(task, stacked, problems, 200)[0]), lambda: plain(stacked)
    )


def fixed_points() -> Job:
    """Fixed points of a GRU 64 from 500 states; the result is the worst speed q.

    Plain: 1,000 steps of Adam on the mean of q, as the paper's authors do.
    """
    optimizer = trained_like(64)
    states = 0.5 * jr.normal(jr.key(6), (500, 64))

    def speeds(states: Array) -> Array:
        moved = jax.vmap(optimizer.transition, (0, None))(states, jnp.zeros(()))
        return 0.5 * jnp.sum((moved - states) ** 2, axis=1)

    @jax.jit
    def plain(states: Array) -> Array:
        adam = optax.adam(0.01)

        def step(carry: Any, _: None) -> Any:
            states, moments = carry
            gradient = jax.grad(lambda states: speeds(states).mean())(states)
            moves, moments = adam.update(gradient, moments)
            return (states + moves, moments), None

        carry, _ = jax.lax.scan(step, (states, adam.init(states)), length=1000)
        return speeds(carry[0]).max()

    return Job(
        lambda: np.max(lo.find_fixed_points(optimizer, states).speeds), lambda: plain(states)
    )


JOBS: dict[str, Callable[[], Job]] = {
    "meta_step_64": lambda: meta_step(64),
    "meta_step_256": lambda: meta_step(256),
    "evaluation": evaluation,
    "tuning": tuning,
    "fixed_points": fixed_points,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time the package's jobs beside the plain way of doing the same, in one run."""

    job: str | None = None
    """Only this one: meta_step_64, meta_step_256, evaluation, tuning or fixed_points."""
    repeats: int = 7
    """Turns after the first, which compiles."""


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Time of one call, and its result as a number."""
    start = time.perf_counter()
    result = float(jax.block_until_ready(call()))
    return time.perf_counter() - start, result


def main(settings: Settings) -> None:
    """Time and print."""
    if settings.job not in (None, *JOBS):
        raise ValueError(f"`job` must be one of {', '.join(JOBS)}, got {settings.job!r}.")
    print(f"{'job':14}{'ours s':>9}{'plain s':>9}{'ratio':>7}{'first call, s':>16}  results")
    for name, build in JOBS.items():
        if settings.job not in (None, name):
            continue
        job = build()
        first, results = zip(*map(seconds, job), strict=True)
        turns = [tuple(seconds(call)[0] for call in job) for _ in range(settings.repeats)]
        ours, plain = (statistics.median(times) for times in zip(*turns, strict=True))
        ratio = statistics.median(a / b for a, b in turns)
        print(
            f"{name:14}{ours:9.4f}{plain:9.4f}{ratio:7.2f}{first[0]:8.1f}{first[1]:8.1f}"
            f"  {results[0]:.6g} {results[1]:.6g}",
            flush=True,
        )


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        main(settings)
