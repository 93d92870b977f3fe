"""The jobs of `benchmarks/bench.py` for renn 0.1.0, the package of the paper's authors.

renn was written for jax 0.2; names that moved since are put where it looks for them, in this
process alone, and imports that no job uses (TensorFlow) are stood in for. Install it with
`pip install --no-deps renn==0.1.0 msgpack`.
"""

import importlib.util
import sys
import types
from typing import Any

import common
import jax
import jax.example_libraries.optimizers as optimizers
import jax.example_libraries.stax as stax
import jax.experimental
import jax.numpy as jnp
import numpy as np


class Anything(types.ModuleType):
    """A module whose every attribute is another such module, which can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


def _stand_in() -> None:
    sys.modules.setdefault("jax.experimental.optimizers", optimizers)
    sys.modules.setdefault("jax.experimental.stax", stax)
    older: Any = jax
    older.experimental.optimizers, older.experimental.stax = optimizers, stax
    for name in ("tree_map", "tree_flatten", "tree_unflatten", "tree_leaves", "tree_structure"):
        if name not in vars(jax):
            setattr(older, name, getattr(jax.tree_util, name))
    for name in ("tensorflow", "tensorflow_text", "tensorflow_datasets"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = Anything(name)


_stand_in()
import renn  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: E402
from renn import metaopt  # noqa: E402


def _meta_step(cfg: Any, problem_fun: Any, output_scale: float) -> Any:
    """A meta-training step as renn's notebook makes it: Adam, elementwise clip, penalty."""
    theta, optimizer_fun = metaopt.models.cwrnn(
        jax.random.PRNGKey(0), renn.GRU(cfg.units), input_scale="raw", output_scale=output_scale
    )
    objective = metaopt.build_metaobj(problem_fun, optimizer_fun, cfg.steps, l2_penalty=1e-4)
    batch = renn.batch_mean(lambda theta, key: objective(theta, key)[0], (None, 0))
    both = jax.value_and_grad(batch)
    rate = optimizers.exponential_decay(8e-3, 1000, 0.5)
    init, update, params = optimizers.adam(step_size=rate, b1=0.9, b2=0.999, eps=0.1)
    root = jax.random.PRNGKey(0)

    def step(i: Any, state: Any) -> tuple[Any, Any]:
        keys = jax.random.split(jax.random.fold_in(root, i), cfg.problems)
        loss, gradient = both(params(state), keys)
        clipped = jax.tree.map(lambda leaf: metaopt.clip(leaf, value=5.0), gradient)
        return loss, update(i, clipped, state)

    return common.meta_loop_case(step, init(theta), cfg.inner)


def j1(cfg: Any) -> Any:
    """A meta-training step on linear regression."""
    return _meta_step(cfg, metaopt.tasks.quad(5, -3, 0), 1.0)


def j2(cfg: Any) -> Any:
    """A meta-training step on two moons."""
    layers = (stax.Dense(64), stax.Tanh) * 3
    network = stax.serial(*layers, stax.Dense(1))
    return _meta_step(cfg, metaopt.tasks.two_moons(network, num_samples=1024), 1e-3)


def _weights(gru: dict[str, np.ndarray]) -> tuple[Any, Any]:
    def linear(gate: str) -> Any:
        return renn.rnn.cells.LinearRNN(
            jnp.asarray(gru[f"A{gate}"])[:, None], jnp.asarray(gru[f"W{gate}"]),
            jnp.asarray(gru[f"b{gate}"]),
        )  # fmt: skip

    cell = {
        "initial_state": jnp.asarray(gru["h0"]), "update_gate": linear("z"),
        "reset_gate": linear("r"), "cell_state": linear("c"),
    }  # fmt: skip
    return cell, (jnp.asarray(gru["w"])[:, None], jnp.asarray(gru["c"]).reshape(1))


def j3(cfg: Any) -> Any:
    """Evaluate a trained optimizer: the jitted vmap of renn's notebook.

    `metaopt.evaluate` itself compiles anew at every call.
    """
    theta = _weights(common.load_gru())
    _, optimizer_fun = metaopt.models.cwrnn(jax.random.PRNGKey(0), renn.GRU(64), output_scale=1.0)
    problem_fun = metaopt.tasks.quad(5, -3, 0)
    keys = jax.random.split(jax.random.PRNGKey(3), cfg.problems)

    def losses(theta: Any, key: Any) -> Any:
        optimizer = optimizer_fun(theta)
        return metaopt.unroll_scan(*problem_fun(key), optimizer, cfg.steps, renn.identity)[1]

    compiled, seconds, temporary = common.aot(jax.vmap(losses, (None, 0)), theta, keys)

    def run() -> dict[str, float]:
        for _ in range(cfg.inner):
            curves = jax.block_until_ready(compiled(theta, keys))
        return {"mean_ratio": float(jnp.mean(jnp.mean(curves, 1) / curves[:, 0]))}

    return common.Case(run, cfg.inner, seconds, temporary)


def j4(cfg: Any) -> Any:
    """Fixed points at zero gradient from visited states, by Adam as in renn."""
    gru = common.load_gru()
    loss = renn.build_fixed_point_loss(renn.GRU(64), _weights(gru)[0])
    states = jnp.asarray(common.visited_states(gru, cfg.states))

    def run() -> dict[str, float]:
        _, _, speeds = renn.find_fixed_points(
            loss, states, jnp.zeros((cfg.states, 1)), optimizers.adam(0.01), tolerance=-np.inf,
            steps=range(cfg.steps),
        )  # fmt: skip
        return {f"q{q}": float(np.percentile(speeds, q)) for q in (0, 50, 90, 100)}

    return common.Case(run)


def j5(cfg: Any) -> Any:
    """Score momentum settings on quadratics, all in one vmap."""
    _, momentum_fun = metaopt.models.momentum(jax.random.PRNGKey(0))
    objective = metaopt.build_metaobj(metaopt.tasks.quad(5, -3, 0), momentum_fun, cfg.steps)
    rates, momenta = map(jnp.asarray, common.search_settings(cfg.settings))
    keys = jax.random.split(jax.random.PRNGKey(3), cfg.problems)
    settings = jax.vmap(lambda a, b, key: objective((a, b), key)[0], (0, 0, None))
    problems = jax.vmap(settings, (None, None, 0))
    compiled, seconds, temporary = common.aot(
        lambda a, b, keys: jnp.mean(problems(a, b, keys), 0), rates, momenta, keys
    )

    def run() -> dict[str, float]:
        scores = np.asarray(compiled(rates, momenta, keys))
        best = int(np.nanargmin(scores))
        return {"best": float(scores[best]), "lr": float(rates[best]),
                "beta": float(momenta[best])}  # fmt: skip

    return common.Case(run, 1, seconds, temporary)
