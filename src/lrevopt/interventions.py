"""What each mechanism is worth: take it away, and test what is left.

The paper finds mechanisms by looking; whether an optimizer needs them, looking cannot say. Here
each intervention makes from an optimizer another one that lacks one thing, or keeps only one, and
both run on the same test problems. A mechanism that is not there costs nothing to remove.

What an optimizer does near its convergence point (h*, 0) is split as in `analysis.linearization`:
modes of `J = dF/dh` with eigenvalues lambda_m and learning rates alpha_m. The *slow mode* is the
one that gives most of the steady-state gain, with its conjugate if it is complex; `P` is the
spectral projector on it. An optimizer that is changed here keeps its own start, unless said
otherwise.

`measure_streams` asks a question that the paper leaves open (section 5.5): whether parameters of
different layers get different learning rates because of the gradients they meet, and because of
which property of these.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from lrevopt.analysis.fixed_points import FixedPoints, find_fixed_points
from lrevopt.analysis.linearization import (
    Linearization,
    Modes,
    conjugate_mode,
    linear_optimizer,
    linearize,
    mode_optimizer,
    mode_responses,
    slow_mode,
)
from lrevopt.analysis.mechanisms import STARTS, convergence_point, separated_modes
from lrevopt.analysis.precision import as_double, double_precision
from lrevopt.analysis.projections import (
    choose,
    diverged_on_all,
    follow,
    group_spans,
    over_problems,
    side_by_side,
    spread,
    visit,
)
from lrevopt.analysis.schedules import measure_schedule
from lrevopt.analysis.update_functions import effective_learning_rate
from lrevopt.checks import positive_integer
from lrevopt.evaluation import evaluate, paired_interval
from lrevopt.optimizers.classical import as_float
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.linear import ModeOptimizer
from lrevopt.tasks.interface import AbstractTask, sample_problems

ORIGINAL = "original"
"""Name of the optimizer as it is."""


class Context(eqx.Module):
    """What interventions know of an optimizer. Host arrays in float64.

    - `found`: the search for fixed points at zero gradient; `center` the convergence point h*.
    - `model`, `modes`: its linearisation there; `slow`: indices of the slow mode.
    - `rates`: effective learning rate along the autonomous path, and `rate` at its end, h*.
    """

    found: FixedPoints
    center: Float[np.ndarray, " state"]
    model: Linearization
    modes: Modes
    slow: Int[np.ndarray, " slow"]
    rates: Float[np.ndarray, " visited"]
    rate: float

    @property
    def projector(self) -> Float[np.ndarray, "state state"]:
        """P, the spectral projector on the slow mode."""
        return (self.modes.right[:, self.slow] @ self.modes.left[self.slow]).real


def measure_context(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
) -> Context:
    """Find an optimizer's convergence point, modes and schedule on fresh problems.

    Raises `ValueError` for counts below 1, or an optimizer that diverges on every problem.
    """
    visits = visit(optimizer, task, key=key, problems=problems, steps=steps)
    cloud = visits.states.reshape(-1, visits.states.shape[-1])
    found = find_fixed_points(optimizer, spread(cloud, STARTS))
    center = convergence_point(found)[0]
    model = linearize(optimizer, center)
    modes = separated_modes(model)
    slow = slow_mode(modes)
    return Context(
        found=found,
        center=center,
        model=model,
        modes=modes,
        slow=np.unique([slow, conjugate_mode(modes, slow)]),
        rates=measure_schedule(optimizer, steps).rates,
        rate=float(effective_learning_rate(optimizer, center)),
    )


# Optimizers that lack something.


class Forgetting(AbstractOptimizer):
    """Remembers only part of its state: `h' = F(h* + kept (h - h*), g)`.

    With `kept = I - P` the slow mode's eigenvalue becomes 0 while its learning rate, and all other
    modes, stay. With `kept = P` it is the other way round.
    """

    optimizer: AbstractOptimizer
    center: Float[Array, " state"]
    kept: Float[Array, "state state"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        kept = self.center + self.kept @ (state - self.center)
        return self.optimizer.transition(kept, gradient)


class GainAtOnce(AbstractOptimizer):
    """The slow mode's whole response in one step: its memory is gone, its steady gain is not.

        h' = F(h* + (I - P) (h - h*), g)
        y' = w . h' + sum_m (1 / (1 - lambda_m) - 1) (w . r_m) l_m . (h' - h*)     m in slow mode

    State: h, then the step y.
    """

    forgetting: Forgetting
    boost: Float[Array, " own"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return _step_last(self.forgetting)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.forgetting.initial_state(), 0.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        following = self.forgetting.transition(state[:-1], gradient)
        extra = self.boost @ (following - self.forgetting.center)
        return jnp.append(following, self.forgetting.readout @ following + extra)


class Restarted(AbstractOptimizer):
    """Starts at `start`, and is else as it was."""

    optimizer: AbstractOptimizer
    start: Float[Array, " state"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.start

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return self.optimizer.transition(state, gradient)


class StraightStates(AbstractOptimizer):
    """Linear in the gradient at every state: `h' = F(h, 0) + dF/dg(h, 0) g`."""

    optimizer: AbstractOptimizer

    @property
    def readout(self) -> Float[Array, " state"]:
        return self.optimizer.readout

    def initial_state(self) -> Float[Array, " state"]:
        return self.optimizer.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        return _tangent(self.optimizer, state, gradient)


class StraightUpdates(AbstractOptimizer):
    """Update functions replaced by their tangents at zero gradient; states move as before.

        h' = F(h, g)        y' = w . (F(h, 0) + dF/dg(h, 0) g)

    State: h, then the step y.
    """

    optimizer: AbstractOptimizer

    @property
    def readout(self) -> Float[Array, " state"]:
        return _step_last(self.optimizer)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.optimizer.initial_state(), 0.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        following = self.optimizer.transition(state[:-1], gradient)
        step = self.optimizer.readout @ _tangent(self.optimizer, state[:-1], gradient)
        return jnp.append(following, step)


class OneUpdateFunction(AbstractOptimizer):
    """Every state answers a gradient as the convergence point does; states move as before.

        h' = F(h, g)        y' = w . (F(h, 0) + F(h*, g) - F(h*, 0))

    The offset that momentum gives to an update function stays, its slope and shape are those of
    h*. State: h, then the step y.
    """

    optimizer: AbstractOptimizer
    center: Float[Array, " own"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return _step_last(self.optimizer)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.optimizer.initial_state(), 0.0)

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        move, zero = self.optimizer.transition, jnp.zeros_like(gradient)
        answer = move(self.center, gradient) - move(self.center, zero)
        step = self.optimizer.readout @ (move(state[:-1], zero) + answer)
        return jnp.append(move(state[:-1], gradient), step)


class ScheduledModes(AbstractOptimizer):
    """Modes whose learning rates follow a schedule: `y' = factors_k (w . v')` at step k.

    After its end the last factor stays. State: v, the step's number k, the step y.
    """

    modes: ModeOptimizer
    factors: Float[Array, " visited"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.append(jnp.zeros(self.modes.readout.size + 1, self.factors.dtype), 1.0)

    def initial_state(self) -> Float[Array, " state"]:
        return jnp.append(self.modes.initial_state(), jnp.zeros(2, self.factors.dtype))

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        own, count = state[:-2], state[-2]
        velocities = self.modes.transition(own, gradient)
        place = jnp.minimum(count, self.factors.size - 1).astype(int)
        step = self.factors[place] * (self.modes.readout @ velocities)
        return jnp.concatenate([velocities, jnp.stack([count + 1, step])])


def _step_last(optimizer: AbstractOptimizer) -> Float[Array, " state"]:
    """Readout of an optimizer whose step is its last coordinate, after the given one's."""
    return jnp.append(jnp.zeros_like(optimizer.readout), 1.0)


def _tangent(
    optimizer: AbstractOptimizer, state: Float[Array, " state"], gradient: Float[Array, ""]
) -> Float[Array, " state"]:
    """`F(h, 0) + dF/dg(h, 0) g`."""
    zero = jnp.zeros_like(gradient)
    rest, slope = jax.jvp(lambda g: optimizer.transition(state, g), (zero,), (gradient,))
    return rest + slope


# Interventions by name.


def without_slow_memory(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """The slow mode's eigenvalue is 0, its learning rate stays: momentum as gradient descent."""
    return _forgetting(optimizer, context, np.eye(len(context.center)) - context.projector)


def slow_gain_at_once(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """The slow mode's eigenvalue is 0, its steady-state gain stays: `GainAtOnce`.

    Raises `ValueError` for an eigenvalue of 1, whose gain is infinite.
    """
    modes, slow = context.modes, context.slow
    gap = 1 - modes.eigenvalues[slow]
    if np.abs(gap).min() <= np.finfo(float).eps:
        raise ValueError("`context.modes` must not have the eigenvalue 1: its gain is infinite.")
    boost = ((1 / gap - 1) * (context.model.readout @ modes.right[:, slow])) @ modes.left[slow]
    kept = np.eye(len(context.center)) - context.projector
    return GainAtOnce(_forgetting(optimizer, context, kept), as_float(boost.real))


def slow_memory_only(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """All modes but the slow one forget: the state starts each step on the line through h*."""
    return _forgetting(optimizer, context, context.projector)


def _forgetting(optimizer: AbstractOptimizer, context: Context, kept: np.ndarray) -> Forgetting:
    return Forgetting(optimizer, as_float(context.center), as_float(kept))


def linearised(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """F is its first-order expansion at the convergence point, and starts there.

    Only there is it meant to be right: from elsewhere it would drift in ways F does not.
    """
    return linear_optimizer(context.model)


def top_modes(optimizer: AbstractOptimizer, context: Context, count: int) -> AbstractOptimizer:
    """The `count` modes whose responses to one gradient are largest, alone; pairs count as one.

    By the energy `sum_k |alpha lambda^k|^2` over the steps of the context's schedule. Raises
    `ValueError` where the Jacobian is near-defective.
    """
    modes = context.modes
    _check_rates(modes)
    own = np.sum(np.abs(mode_responses(modes, len(context.rates))) ** 2, axis=1)
    chosen: list[int] = []
    for index in np.argsort(-own, kind="stable").tolist():
        if len(chosen) < count and conjugate_mode(modes, index) not in chosen:
            chosen.append(index)
    return mode_optimizer(modes, chosen)


def schedule_replayed(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """The slow mode alone, with the learning rates of the autonomous path as a written schedule.

    Momentum with `alpha_s rates_k / rate` at step k and the eigenvalue of the slow mode. Raises
    `ValueError` where the Jacobian is near-defective or the convergence point has no learning
    rate.
    """
    _check_rates(context.modes)
    if context.rate == 0:
        raise ValueError("`context.rate` must not be 0: nothing is left of a schedule.")
    slow = mode_optimizer(context.modes, context.slow.tolist())
    return ScheduledModes(slow, as_float(context.rates / context.rate))


def _check_rates(modes: Modes) -> None:
    if np.isnan(modes.learning_rates).any():
        raise ValueError(
            "`context.modes` must have learning rates, but the Jacobian is near-defective."
        )


def straight_updates(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """Updates do not saturate: `StraightUpdates`."""
    return StraightUpdates(optimizer)


def straight_states(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """Nor does what is remembered of gradients: `StraightStates`."""
    return StraightStates(optimizer)


def started_at_rest(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """Starts at the convergence point, and so has no autonomous schedule."""
    return Restarted(optimizer, as_float(context.center))


def one_update_function(optimizer: AbstractOptimizer, context: Context) -> AbstractOptimizer:
    """No state changes how gradients are answered: `OneUpdateFunction`."""
    return OneUpdateFunction(optimizer, as_float(context.center))


@dataclasses.dataclass(frozen=True)
class Intervention:
    """Something to take away: what (`removes`), of which of the paper's mechanisms, and how."""

    removes: str
    mechanism: str
    apply: Callable[[AbstractOptimizer, Context], AbstractOptimizer]


MOMENTUM, CLIPPING, SCHEDULE, ADAPTATION = "momentum", "clipping", "schedule", "adaptation"
LINEAR = "all but momentum"

INTERVENTIONS: dict[str, Intervention] = {
    "no_slow_memory": Intervention(
        "memory of the slow mode; its learning rate stays", MOMENTUM, without_slow_memory
    ),
    "gain_at_once": Intervention(
        "memory of the slow mode; its steady gain stays", MOMENTUM, slow_gain_at_once
    ),
    "straight_updates": Intervention("saturation of updates", CLIPPING, straight_updates),
    "straight_states": Intervention("saturation of updates and states", CLIPPING, straight_states),
    "started_at_rest": Intervention(
        "the path from the start to the convergence point", SCHEDULE, started_at_rest
    ),
    "one_update_function": Intervention(
        "changes of the update function from state to state", ADAPTATION, one_update_function
    ),
    "slow_memory_only": Intervention(
        "memory of all modes but the slow one", ADAPTATION, slow_memory_only
    ),
    "linear": Intervention("all that is not linear", LINEAR, linearised),
    "four_modes": Intervention("the same, and all modes but four", LINEAR,
                               lambda optimizer, context: top_modes(optimizer, context, 4)),
    "two_modes": Intervention("the same, and all modes but two", LINEAR,
                              lambda optimizer, context: top_modes(optimizer, context, 2)),
    "one_mode": Intervention("the same, and all modes but one", LINEAR,
                             lambda optimizer, context: top_modes(optimizer, context, 1)),
    "replayed": Intervention(
        "all but the slow mode and a written schedule", LINEAR, schedule_replayed
    ),
}  # fmt: skip
"""By the mechanism that they remove."""


# What they cost.


class Interventions(eqx.Module):
    """What each intervention costs, on test problems. Host arrays in float64.

    - `names`, `removed`, `mechanisms`: of the interventions, as in `INTERVENTIONS`.
    - `original`, `objectives`: meta-objective of every run, mean(losses) / losses[0]; +inf where it
      diverged. `diverged`, `original_diverged` count these.
    - `differences`: mean of intervention minus original, with the ends of its 95 % interval;
      infinite where runs diverged (see `evaluation.paired_interval`).
    - `log_ratios`: mean log of intervention over original, with its interval, on the problems on
      which neither diverged; NaN if there are none. 0 is no change.
    - `omitted`: sentences on interventions that this optimizer does not admit.
    """

    names: tuple[str, ...]
    removed: tuple[str, ...]
    mechanisms: tuple[str, ...]
    original: Float[np.ndarray, " problem"]
    objectives: Float[np.ndarray, "intervention problem"]
    original_diverged: int
    diverged: Int[np.ndarray, " intervention"]
    differences: Float[np.ndarray, " intervention"]
    difference_lows: Float[np.ndarray, " intervention"]
    difference_highs: Float[np.ndarray, " intervention"]
    log_ratios: Float[np.ndarray, " intervention"]
    log_ratio_lows: Float[np.ndarray, " intervention"]
    log_ratio_highs: Float[np.ndarray, " intervention"]
    omitted: tuple[str, ...]

    @property
    def problems(self) -> int:
        """Number of test problems."""
        return self.original.size


def intervene(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
    context: Context | None = None,
    interventions: Mapping[str, Intervention] = INTERVENTIONS,
) -> Interventions:
    """Run an optimizer and what interventions make of it on the same `problems` draws.

    These are the draws of `evaluate` with the same key. Without a `context` one is measured first,
    on other problems (both keys are then split from `key`). An intervention that the optimizer does
    not admit is left out, and said so.

    Raises `ValueError` for counts below 1, a name that is taken, or an optimizer that diverges on
    every problem of the context.
    """
    if ORIGINAL in interventions:
        raise ValueError(f"`interventions` must not contain {ORIGINAL!r}, the optimizer itself.")
    problems = positive_integer("problems", problems)
    if context is None:
        context_key, key = jr.split(key)
        context = measure_context(optimizer, task, key=context_key, steps=steps)
    optimizers: dict[str, AbstractOptimizer] = {ORIGINAL: optimizer}
    omitted = []
    for name, intervention in interventions.items():
        try:
            optimizers[name] = intervention.apply(optimizer, context)
        except ValueError as error:
            omitted.append(f"{name}: {error}")
    evaluation = evaluate(optimizers, task, problems=problems, steps=steps, key=key)
    objectives = np.asarray(evaluation.meta_objectives(), float)
    original, changed = objectives[0], objectives[1:]
    names = evaluation.names[1:]
    differences = [paired_interval(own, original) for own in changed]
    ratios = [_log_ratio(own, original) for own in changed]
    return Interventions(
        names=names,
        removed=tuple(interventions[name].removes for name in names),
        mechanisms=tuple(interventions[name].mechanism for name in names),
        original=original,
        objectives=changed,
        original_diverged=int(np.isinf(original).sum()),
        diverged=np.isinf(changed).sum(axis=1),
        differences=np.array([mean for mean, _, _ in differences]),
        difference_lows=np.array([low for _, low, _ in differences]),
        difference_highs=np.array([high for _, _, high in differences]),
        log_ratios=np.array([mean for mean, _, _ in ratios]),
        log_ratio_lows=np.array([low for _, low, _ in ratios]),
        log_ratio_highs=np.array([high for _, _, high in ratios]),
        omitted=tuple(omitted),
    )


def _log_ratio(
    values: Float[np.ndarray, " problem"], baseline: Float[np.ndarray, " problem"]
) -> tuple[float, float, float]:
    both = np.isfinite(values) & np.isfinite(baseline)
    if not both.any():
        return np.nan, np.nan, np.nan
    return paired_interval(np.log(values[both]), np.log(baseline[both]))


def intervention_table(record: Interventions) -> str:
    """The record as CSV: one row per intervention, the original first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([
        "name", "mechanism", "removes", "meta_objective", "difference", "difference_low",
        "difference_high", "ratio", "ratio_low", "ratio_high", "diverged", "problems",
    ])  # fmt: skip
    mean = record.original.mean()
    nothing = [mean, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, record.original_diverged, record.problems]
    table.writerow([ORIGINAL, "", "", *nothing])
    for index, name in enumerate(record.names):
        ends = (record.log_ratios, record.log_ratio_lows, record.log_ratio_highs)
        table.writerow([
            name, record.mechanisms[index], record.removed[index], record.objectives[index].mean(),
            record.differences[index], record.difference_lows[index],
            record.difference_highs[index], *(np.exp(end[index]) for end in ends),
            record.diverged[index], record.problems,
        ])  # fmt: skip
    return text.getvalue()


def intervention_lines(record: Interventions) -> list[str]:
    """The record in words, one line per intervention, the original first."""
    lines = [
        f"{ORIGINAL}: {record.original.mean():.4f} on {record.problems} test problems, "
        f"{record.original_diverged} diverged"
    ]
    for index, name in enumerate(record.names):
        ratio, low, high = (
            np.exp(ends[index])
            for ends in (record.log_ratios, record.log_ratio_lows, record.log_ratio_highs)
        )
        lines.append(
            f"{name} ({record.mechanisms[index]}): {record.objectives[index].mean():.4g}, "
            f"difference {record.differences[index]:.4g} [{record.difference_lows[index]:.4g}, "
            f"{record.difference_highs[index]:.4g}], ratio {ratio:.4g} [{low:.4g}, {high:.4g}], "
            f"{record.diverged[index]} diverged"
        )
    return lines + [f"left out, {sentence}" for sentence in record.omitted]


# Which property of gradients tells layers apart.

CHOSEN = 16
"""Parameters of each group and problem whose gradients are replayed."""

OWN, EXCHANGED, EXCHANGED_HALFWAY = "own", "exchanged", "exchanged_halfway"


class Streams(eqx.Module):
    """Learning rates of groups of parameters when their gradients are replayed, changed.

    States of an optimizer start alike for all parameters, so that all they can know of their layer
    is the stream of gradients they meet. Streams recorded in test runs are changed in one property
    and replayed to fresh states: the rates say whether that property had told groups apart.

    - `groups`: names of the groups; `names`: of the changes, `own` (none) first, as in `CHANGES`.
    - `rates`: effective learning rate, mean over parameters and problems.
    - `separations`: standard deviation over groups of the rate, averaged over the run, relative to
      its mean size over groups, for each problem.
    - `remaining`: mean separation over that of `own`, with the ends of the 95 % interval of the
      mean difference, in the same unit; NaN where `own` has none.
    - `followed`: how far groups that are given the next group's stream take over its rates, at each
      step: 0 is the rate of their own stream, 1 that of the other; from the start
      (`exchanged`), and from the middle of the run on (`exchanged_halfway`). NaN while rates are
      equal.
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


def _exchanged(streams: Recorded, rng: np.random.Generator) -> Recorded:
    return np.roll(streams, -1, axis=1)


def _exchanged_halfway(streams: Recorded, rng: np.random.Generator) -> Recorded:
    middle = streams.shape[-1] // 2
    return np.concatenate(
        [streams[..., :middle], np.roll(streams, -1, axis=1)[..., middle:]], axis=-1
    )


def _of_one_size(streams: Recorded, rng: np.random.Generator) -> Recorded:
    return _rescaled(streams, (2, 3))


def _of_one_size_at_each_step(streams: Recorded, rng: np.random.Generator) -> Recorded:
    return _rescaled(streams, (2,))


def _rescaled(streams: Recorded, axes: tuple[int, ...]) -> Recorded:
    """Groups scaled to one root mean square over some axes, the geometric mean of theirs."""
    sizes = np.sqrt(np.mean(streams**2, axis=axes, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        common = np.exp(np.mean(np.log(sizes), axis=1, keepdims=True))
        factors = common / sizes
    # A group without any gradient keeps none, and the others stay as they are.
    return streams * np.where(np.isfinite(factors) & (factors > 0), factors, 1.0)


def _in_random_order(streams: Recorded, rng: np.random.Generator) -> Recorded:
    return rng.permuted(streams, axis=-1)


def _of_random_signs(streams: Recorded, rng: np.random.Generator) -> Recorded:
    return streams * rng.choice([-1.0, 1.0], size=streams.shape)


def _of_one_sign(streams: Recorded, rng: np.random.Generator) -> Recorded:
    return np.abs(streams)


CHANGES: dict[str, Callable[[Recorded, np.random.Generator], Recorded]] = {
    OWN: lambda streams, rng: streams,
    EXCHANGED: _exchanged,
    EXCHANGED_HALFWAY: _exchanged_halfway,
    "one_size": _of_one_size,
    "one_size_at_each_step": _of_one_size_at_each_step,
    "random_order": _in_random_order,
    "random_signs": _of_random_signs,
    "one_sign": _of_one_sign,
}
"""Changes of recorded streams. Given to the next group (the last one's to the first), or scaled so
that groups have gradients of one size (over the run, or at every step): what is left is how they
vary. In random order, of random signs, or all positive: what is left is how large they are."""


def measure_streams(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 8,
    steps: int = 200,
    parameters: int = CHOSEN,
) -> Streams:
    """Record gradients of `parameters` of each group, change them, and replay them to states.

    A group with fewer parameters gives some of its streams several times. Problems on which the
    optimizer leaves the finite numbers are left out. Raises `ValueError` for counts below 1, a
    task whose parameters are one group, or an optimizer that diverges on every problem.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    parameters = positive_integer("parameters", parameters)
    dim = eqx.filter_eval_shape(task.sample, key).initial_parameters.size
    spans = group_spans(task, dim)
    if len(spans) < 2:
        raise ValueError(
            f"`task` must name groups of parameters that can be compared, but "
            f"{type(task).__name__} has one."
        )
    record_key, change_key = jr.split(key)
    batch = side_by_side(dim, problems)
    streams = np.asarray(
        _record(optimizer, task, record_key, problems, steps, tuple(spans.values()), parameters,
                batch), float,
    )  # fmt: skip
    whole = np.isfinite(streams).all(axis=(1, 2, 3))
    if not whole.any():
        raise ValueError(diverged_on_all(optimizer, task, problems))
    streams = streams[whole]
    rng = np.random.default_rng(np.asarray(jr.key_data(change_key)))
    with double_precision():
        replayed = {
            name: np.asarray(_replay(as_double(optimizer), change(streams, rng)))
            for name, change in CHANGES.items()
        }
    separations = np.array([_separation(rates) for rates in replayed.values()])
    unit = separations[0].mean()
    intervals = np.array([paired_interval(own, separations[0]) for own in separations])
    with np.errstate(divide="ignore", invalid="ignore"):
        remaining = 1 + intervals / unit
    rates = {name: own.mean(axis=0) for name, own in replayed.items()}
    return Streams(
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


def _separation(
    rates: Float[np.ndarray, "problem group visited"],
) -> Float[np.ndarray, " problem"]:
    """Spread of groups' mean rates over their mean size."""
    means = rates.mean(axis=-1)
    size = np.abs(means).mean(axis=1)
    return np.where(size > 0, means.std(axis=1) / np.where(size > 0, size, 1.0), 0.0)


def _followed(
    own: Float[np.ndarray, "group visited"], changed: Float[np.ndarray, "group visited"]
) -> Float[np.ndarray, " visited"]:
    """Least-squares share of the way from the own stream's rates to the next group's."""
    way = np.roll(own, -1, axis=0) - own
    length = np.sum(way**2, axis=0)
    # Below round-off of the rates there is no way to go.
    there = length > 1e-24 * np.sum(own**2, axis=0)
    share = np.sum((changed - own) * way, axis=0) / np.where(there, length, 1.0)
    return np.where(there, share, np.nan)


def stream_lines(record: Streams) -> list[str]:
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
def _record(optimizer, task, key, problems, steps, spans, parameters, batch):
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
def _replay(opt, streams):
    """Mean effective learning rate over paths, before each gradient and after the last."""
    one = jnp.ones((), streams.dtype)

    def rate(state):
        slope = jax.jvp(lambda g: opt.transition(state, g), (jnp.zeros_like(one),), (one,))[1]
        return -opt.readout @ slope

    def path(stream):
        start = opt.initial_state()
        last, rates = lax.scan(lambda h, g: (opt.transition(h, g), rate(h)), start, stream)
        return jnp.append(rates, rate(last))

    def group(paths):
        return jax.vmap(path)(paths).mean(axis=0)

    # One problem and group at a time, so that states stay in cache.
    flat = streams.reshape(-1, *streams.shape[2:])
    return lax.map(group, flat).reshape(*streams.shape[:2], -1)
