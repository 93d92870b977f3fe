"""Which property of gradients separates the learning rates of layers (paper, section 5.5).

The paper leaves open whether parameters of different layers get different learning rates because
of their gradients, and because of which property of these. Here recorded gradients are changed in
one property and replayed to fresh states.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.resolution import need_limits
from lrevopt.checks import positive_integer, random_key
from lrevopt.inner_loop.evaluation import paired_interval
from lrevopt.inner_loop.run_checks import check_run
from lrevopt.inner_loop.sampled_states import AllDivergedError, choose, follow, over_problems
from lrevopt.inner_loop.steps import run_on_gradients
from lrevopt.inner_loop.unroll import batch_size
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.limits import slope
from lrevopt.optimizers.wrappers import at_parameter
from lrevopt.tasks.interface import AbstractTask, compared_spans, sample_problems
from lrevopt.text import Facts, number

CHOSEN = 16
"""Parameters of each group and problem whose gradients are replayed."""

OWN, EXCHANGED, EXCHANGED_HALFWAY = "own", "exchanged", "exchanged_halfway"


class GradientReplay(eqx.Module):
    """Effective learning rates of groups of parameters whose recorded gradients are changed.

    The initial state is the same for all parameters, so a parameter's layer enters only through
    its sequence of gradients. Sequences recorded in test runs are changed in one property and
    replayed to fresh states. If the rates of groups are then closer, that property separated them.

    - `groups`: names of the groups; `names`: the changes, `own` (none) first, as in `CHANGES`.
    - `rates`: effective learning rate, mean over parameters and problems.
    - `separations`: standard deviation over groups of the rate, averaged over the run, relative to
      its mean magnitude over groups, for each problem.
    - `remaining`: mean separation relative to that of `own`, with the ends of the 95 % interval of
      the mean difference in the same unit; NaN where `own` has none.
    - `followed`: where groups get the gradients of the next group, how far their rates follow, at
      each step: 0 is the rate with their own gradients, 1 that of the next group. From the start
      (`exchanged`), and from the middle of the run on (`exchanged_halfway`). NaN where the two
      rates are equal.
    """

    groups: tuple[str, ...]
    names: tuple[str, ...]
    rates: Float[np.ndarray, "change group visited"]
    separations: Float[np.ndarray, "change problem"]
    remaining: Float[np.ndarray, " change"]
    remaining_lows: Float[np.ndarray, " change"]
    remaining_highs: Float[np.ndarray, " change"]
    followed: dict[str, Float[np.ndarray, " visited"]]


Recorded = Float[np.ndarray, "problem group path step"]


def _exchanged(replay: Recorded, rng: np.random.Generator) -> Recorded:
    return np.roll(replay, -1, axis=1)


def _exchanged_halfway(replay: Recorded, rng: np.random.Generator) -> Recorded:
    middle = replay.shape[-1] // 2
    return np.concatenate(
        [replay[..., :middle], np.roll(replay, -1, axis=1)[..., middle:]], axis=-1
    )


def _of_one_size(replay: Recorded, rng: np.random.Generator) -> Recorded:
    return _rescaled(replay, (2, 3))


def _of_one_size_at_each_step(replay: Recorded, rng: np.random.Generator) -> Recorded:
    return _rescaled(replay, (2,))


def _rescaled(replay: Recorded, axes: tuple[int, ...]) -> Recorded:
    """Groups scaled to one root mean square over some axes, the geometric mean of theirs."""
    sizes = np.sqrt(np.mean(replay**2, axis=axes, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        common = np.exp(np.mean(np.log(sizes), axis=1, keepdims=True))
        factors = common / sizes
    # The geometric mean is 0 if the gradients of a group are all 0: then none are scaled.
    return replay * np.where(np.isfinite(factors) & (factors > 0), factors, 1.0)


def _in_random_order(replay: Recorded, rng: np.random.Generator) -> Recorded:
    return rng.permuted(replay, axis=-1)


def _of_random_signs(replay: Recorded, rng: np.random.Generator) -> Recorded:
    return replay * rng.choice([-1.0, 1.0], size=replay.shape)


def _of_one_sign(replay: Recorded, rng: np.random.Generator) -> Recorded:
    return np.abs(replay)


CHANGES: dict[str, Callable[[Recorded, np.random.Generator], Recorded]] = {
    OWN: lambda replay, rng: replay,
    EXCHANGED: _exchanged,
    EXCHANGED_HALFWAY: _exchanged_halfway,
    "one_size": _of_one_size,
    "one_size_at_each_step": _of_one_size_at_each_step,
    "random_order": _in_random_order,
    "random_signs": _of_random_signs,
    "one_sign": _of_one_sign,
}
"""Changes of recorded gradients. `exchanged`: each group gets those of the next group, the last
group those of the first. `one_size`: groups are scaled to the same root mean square over the run,
or at every step, so that groups differ only in how gradients vary. In random order, with random
signs, or all positive: groups differ only in magnitudes."""


def measure_gradient_replay(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 8,
    steps: int = 200,
    parameters: int = CHOSEN,
) -> GradientReplay:
    """Record gradients of `parameters` of each group, change them, and replay them to fresh states.

    Parameters of a smaller group are used several times. Problems on which the optimizer diverges
    are left out. An optimizer that takes x meets its parameters in the runs that are recorded. A
    replay moves no parameters, so there x is 0, where decay vanishes and gradients alone act.

    Raises `ValueError` for counts below 1, a task whose parameters are one group, or an optimizer
    that diverges on every problem.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    parameters = positive_integer("parameters", parameters)
    key = random_key("key", key)
    shape = check_run(optimizer, task, key)
    spans = compared_spans(task, shape.size)
    record_key, change_key = jr.split(key)
    batch = batch_size(optimizer, shape)
    replay = np.asarray(
        _record(optimizer, task, record_key, problems=problems, steps=steps,
                spans=tuple(spans.values()), parameters=parameters, batch=batch), float,
    )  # fmt: skip
    whole = np.isfinite(replay).all(axis=(1, 2, 3))
    if not whole.any():
        raise AllDivergedError(optimizer, task, problems)
    replay = replay[whole]
    rng = np.random.default_rng(np.asarray(jr.key_data(change_key)))
    replayed = _under_changes(at_parameter(optimizer, 0.0), replay, rng)
    separations = np.array([_separation(rates) for rates in replayed.values()])
    unit = separations[0].mean()
    intervals = np.array([paired_interval(own, separations[0]) for own in separations])
    with np.errstate(divide="ignore", invalid="ignore"):
        remaining = 1 + intervals / unit
    rates = {name: own.mean(axis=0) for name, own in replayed.items()}
    return GradientReplay(
        groups=tuple(spans),
        names=tuple(CHANGES),
        rates=np.array(list(rates.values())),
        separations=separations,
        remaining=remaining[:, 0],
        remaining_lows=remaining[:, 1],
        remaining_highs=remaining[:, 2],
        followed={
            name: _followed(rates[OWN], rates[name]) for name in (EXCHANGED, EXCHANGED_HALFWAY)
        },
    )


def _under_changes(
    optimizer: AbstractOptimizer, replay: Recorded, rng: np.random.Generator
) -> dict[str, Float[np.ndarray, "problem group visited"]]:
    """Mean effective learning rates under the recorded gradients, changed in each way."""
    with double_precision():
        opt = as_double(optimizer)
        start = np.asarray(opt.initial_state())[None]
        limits = need_limits(opt, start, np.zeros(1))
        return {
            name: np.asarray(_replay(opt, change(replay, rng), limits))
            for name, change in CHANGES.items()
        }


def _separation(
    rates: Float[np.ndarray, "problem group visited"],
) -> Float[np.ndarray, " problem"]:
    """Standard deviation of groups' mean rates over their mean magnitude."""
    means = rates.mean(axis=-1)
    size = np.abs(means).mean(axis=1)
    return np.where(size > 0, means.std(axis=1) / np.where(size > 0, size, 1.0), 0.0)


def _followed(
    own: Float[np.ndarray, "group visited"], changed: Float[np.ndarray, "group visited"]
) -> Float[np.ndarray, " visited"]:
    """Least-squares share of the distance from a group's own rates to those of the next group."""
    way = np.roll(own, -1, axis=0) - own
    length = np.sum(way**2, axis=0)
    # Distances below the round-off of rates count as 0.
    there = length > 1e-24 * np.sum(own**2, axis=0)
    share = np.sum((changed - own) * way, axis=0) / np.where(there, length, 1.0)
    return np.where(there, share, np.nan)


def gradient_replay_lines(record: GradientReplay) -> list[str]:
    """The record in words, one line per change."""
    lines = [
        f"learning rates of {len(record.groups)} groups differ by "
        f"{100 * record.separations[0].mean():.3g} % of their mean (standard deviation)"
    ]
    for index, name in enumerate(record.names[1:], start=1):
        lines.append(
            f"{name}: {record.remaining[index]:.3g} "
            f"[{record.remaining_lows[index]:.3g}, {record.remaining_highs[index]:.3g}] of that"
        )
    for name, shares in record.followed.items():
        lines.append(f"{name}: rates followed the stream by {shares[-1]:.4g} at the end")
    return lines


@eqx.filter_jit
def _record(optimizer, task, key, *, problems, steps, spans, parameters, batch):
    problem_key, parameter_key = jr.split(key)
    drawn = sample_problems(task, problem_key, problems)

    def one(inputs):
        problem, key = inputs
        picked = [
            jnp.resize(choose(k, span, parameters), (parameters,))
            for k, span in zip(jr.split(key, len(spans)), spans, strict=True)
        ]
        chosen = jnp.stack(picked)
        kept, _ = follow(optimizer, task, problem, steps, lambda _, gradients: gradients[chosen])
        return jnp.moveaxis(kept, 0, -1)

    return over_problems(one, (drawn, jr.split(parameter_key, problems)), batch)


@eqx.filter_jit
def _replay(opt, replay, limits):
    """Mean effective learning rate over paths, before each gradient and after the last."""
    zero = jnp.zeros((), replay.dtype)

    def rate(state):
        return -opt.readout @ slope(opt, state, zero, limits=limits)

    def path(gradients):
        last, rates = run_on_gradients(opt, gradients, keep=lambda state, gradient: rate(state))
        return jnp.append(rates, rate(last))

    def group(paths):
        return jax.vmap(path)(paths).mean(axis=0)

    # One problem and group at a time, so that states stay in cache.
    flat = replay.reshape(-1, *replay.shape[2:])
    return lax.map(group, flat).reshape(*replay.shape[:2], -1)


def gradient_replay_facts(record: GradientReplay) -> Facts:
    """How much of the separation of groups is left after each change of their gradients."""
    whole = 100 * float(record.separations[0].mean())
    facts = [("Learning rates of groups", f"differ by {number(whole)} % of their mean")]
    for index, name in enumerate(record.names[1:], start=1):
        left, low, high = (
            float(ends[index])
            for ends in (record.remaining, record.remaining_lows, record.remaining_highs)
        )
        facts.append((
            f"Gradients {name.replace('_', ' ')}",
            f"{number(left)} [{number(low)}, {number(high)}] of that is left",
        ))  # fmt: skip
    return facts
