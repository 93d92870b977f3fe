"""The package's side of five jobs that are also timed for other implementations.

`j1(cfg)` ... `j5(cfg)` each build a case for a harness whose module `common` says what a case
is and supplies the inputs in NumPy, so that all implementations work on the same numbers. Each
goes through the public API, as a user's program would. Problems are spread over one CPU device for
each core, or over as many as `LREVOPT_DEVICES` says.
"""

import time
from collections.abc import Callable
from typing import Any

import common  # the harness's, on its own path
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

import lrevopt as lo
from lrevopt.host_devices import asked_devices, cores
from lrevopt.inner_loop.devices import check_mesh, on_every_device
from lrevopt.meta_training.outer_step import first_state, outer_step
from lrevopt.tasks.interface import Step

jax.config.update("jax_num_cpu_devices", asked_devices() or cores())


class Quadratic(eqx.Module):
    """`f(x) = 1/2 x'Hx + v'x + offset` and a start."""

    hessian: Float[Array, "dim dim"]
    linear: Float[Array, " dim"]
    offset: Float[Array, ""]
    initial_parameters: Float[Array, " dim"]


@jax.custom_jvp
def quadratic_form(
    hessian: Float[Array, "dim dim"], linear: Float[Array, " dim"], x: Float[Array, " dim"]
) -> Float[Array, ""]:
    """`1/2 x'Hx + v'x` for symmetric H; value and gradient share one product."""
    return x @ (0.5 * (hessian @ x) + linear)


@quadratic_form.defjvp
def _quadratic_form_derivative(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    hessian, linear, x = primals
    product = hessian @ x
    return x @ (0.5 * product + linear), (product + linear) @ tangents[2]


class Quadratics(lo.AbstractTask):
    """Given quadratics: problems are stacked by hand, not drawn."""

    def sample(self, key: Key[Array, ""]) -> Quadratic:
        raise ValueError("`Quadratics` has no distribution: stack its problems by hand.")

    def loss(self, problem: Quadratic, parameters: Float[Array, " dim"], step: Step) -> Array:
        return quadratic_form(problem.hessian, problem.linear, parameters) + problem.offset


def meta_step_case(cfg: Any, task: lo.AbstractTask, output_scale: float) -> Any:
    """One outer step with the harness's settings, drawing its problems inside."""
    settings = lo.MetaTraining(
        steps=1000,
        unroll=cfg.steps,
        problems=cfg.problems,
        learning_rate=8e-3,
        epsilon=0.1,
        clip=5.0,
        penalty=1e-4,
        penalty_form="norm",
    )
    optimizer = lo.GRUOptimizer(cfg.units, key=jr.key(0), output_scale=output_scale)
    settings = lo.plan_memory(task, optimizer, settings).apply(settings)
    weights, fixed = eqx.partition(optimizer, eqx.is_inexact_array)
    key, mesh = jr.key(1), check_mesh(None)

    def step(i: Array, state: Any) -> tuple[Array, Any]:
        inputs = (fixed, task, key, i, 8e-3 * 0.5 ** (i / 1000))
        state = outer_step(inputs, state, settings, mesh)
        return state.objectives[i], state

    start = on_every_device(first_state(weights, settings), mesh)
    return common.meta_loop_case(step, start, cfg.inner)


def j1(cfg: Any) -> Any:
    """A meta-training step on linear regression."""
    return meta_step_case(cfg, lo.LinearRegression(), 1.0)


def j2(cfg: Any) -> Any:
    """A meta-training step on two moons."""
    return meta_step_case(cfg, lo.TwoMoons(), 1e-3)


class ShiftedCell(eqx.Module):
    """A cell in coordinates `h + shift`, so that a readout w sees `w . h + w . shift`.

    The stored optimizer has a readout bias, which the state-space form lacks: with
    `w . shift` equal to the bias, this is the same optimizer.
    """

    cell: Callable[[Array, Array], Array]
    shift: Float[Array, " units"]

    def __call__(
        self, inputs: Float[Array, "1"], hidden: Float[Array, " units"]
    ) -> Float[Array, " units"]:
        # A product with a mapped 1 keeps the mapped axis where the cell has it, as in `GRUCell`.
        shift = self.shift[:, None] @ (1 + 0 * inputs)
        return self.cell(inputs, hidden - shift) + shift


def stored_optimizer() -> lo.RecurrentOptimizer:
    """The trained GRU that the harness supplies, without its readout bias."""
    stored = common.load_gru()
    weights = {name: jnp.asarray(array) for name, array in stored.items()}
    units = weights["w"].size
    optimizer = lo.RecurrentOptimizer(lo.GRUCell(units, key=jr.key(0)), units)

    def where(o):
        return (
            o.cell.gates, o.cell.candidate, o.cell.inputs, o.cell.bias, o.start, o.weights
        )  # fmt: skip

    def join(prefix, gates):
        return jnp.concatenate([weights[prefix + gate] for gate in gates])

    values = (
        join("W", "zr"), weights["Wc"], join("A", "zrc"), join("b", "zrc"), weights["h0"],
        weights["w"],
    )  # fmt: skip
    return eqx.tree_at(where, optimizer, values)


def with_stored_bias(optimizer: lo.RecurrentOptimizer) -> lo.RecurrentOptimizer:
    """The same optimizer with its readout bias."""
    weights = optimizer.weights
    shift = common.load_gru()["c"] * weights / (weights @ weights)
    return eqx.tree_at(
        lambda o: (o.cell, o.start),
        optimizer,
        (ShiftedCell(optimizer.cell, jnp.asarray(shift)), optimizer.start + shift),
    )


def timed_first_call(call: Any) -> float:
    """Seconds of a first call, nearly all of it compilation."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def j3(cfg: Any) -> Any:
    """Evaluate a trained optimizer on fresh problems."""
    optimizers, task = {"gru": with_stored_bias(stored_optimizer())}, lo.LinearRegression()

    def call() -> lo.Evaluation:
        return lo.evaluate(optimizers, task, problems=cfg.problems, steps=cfg.steps, key=jr.key(3))

    seconds = timed_first_call(call)

    def run() -> dict[str, float]:
        for _ in range(cfg.inner):
            evaluation = call()
        return {"mean_ratio": float(np.mean(evaluation.meta_objectives()))}

    return common.Case(run, cfg.inner, seconds, None)


def j4(cfg: Any) -> Any:
    """Fixed points at zero gradient from visited states."""
    optimizer = stored_optimizer()
    states = jnp.asarray(common.visited_states(common.load_gru(), cfg.states))

    def call() -> lo.FixedPoints:
        return lo.find_fixed_points(optimizer, states)

    seconds = timed_first_call(call)

    def run() -> dict[str, float]:
        speeds = np.asarray(call().speeds)
        return {f"q{q}": float(np.percentile(speeds, q)) for q in (0, 50, 90, 100)}

    return common.Case(run, 1, seconds, None)


def j5(cfg: Any) -> Any:
    """Score given momentum settings on given problems."""
    rates, momenta = map(jnp.asarray, common.search_settings(cfg.settings))
    starts, hessians, linear, offsets = map(jnp.asarray, common.quadratic_batch(3, cfg.problems))
    problems = Quadratic(hessians, linear, offsets, starts)
    optimizers = eqx.filter_vmap(lo.Momentum)(rates, momenta)

    def call() -> tuple[Array, Array]:
        return lo.score_settings(Quadratics(), optimizers, problems, cfg.steps)

    seconds = timed_first_call(call)

    def run() -> dict[str, float]:
        scores = np.asarray(call()[0])
        best = int(np.argmin(scores))
        return {
            "best": float(scores[best]),
            "lr": float(rates[best]),
            "beta": float(momenta[best]),
        }

    return common.Case(run, 1, seconds, None)
