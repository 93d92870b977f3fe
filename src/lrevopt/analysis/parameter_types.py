"""Whether layers, weights and biases are treated differently (paper, section 5.5 and Figure 7).

States are averaged over the parameters of a group (`conv1.weight`, `conv1.bias`, ...) and over
test problems during the run: the states of all 82,250 parameters of a network would not fit.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt.analysis.projections import fit_projection
from lrevopt.analysis.ranks import rank_correlation
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.analysis.update_functions import effective_learning_rate, rate_table
from lrevopt.checks import positive_integer
from lrevopt.inner_loop.sampled_states import AllDivergedError, choose, follow, over_problems
from lrevopt.inner_loop.unroll import batch_size
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.wrappers import at_parameter
from lrevopt.tasks.interface import AbstractTask, compared_spans, sample_problems
from lrevopt.text import Facts, number

WEIGHT, BIAS = "weight", "bias"

SYNONYMS = {"kernel": WEIGHT, "w": WEIGHT, "b": BIAS}
"""Other names of the same kinds: Flax's `kernel`, and what dictionaries often have."""

SAMPLED = 64
"""Parameters of each group and problem over which learning rates are averaged."""

PROJECTED = 2
"""Of these, how many enter the principal components."""

BINS = 30


class ParameterTypes(eqx.Module):
    """States, learning rates and gradients of each group of parameters. Host arrays in float64.

    `groups` are named `layer.type`, first layer first; `sizes` are their numbers of parameters,
    and `problems` is the number of test problems averaged over (those that stayed finite).

    - `states`: mean state over a group's parameters and problems, at each step; `spreads`: root
      of the total variance around it.
    - `paths`: these means, projected on three principal components of single parameters'
      states, to which each group gives as many; `explained_variance`: the components' shares.
    - `rates`: effective learning rate at the mean state, which the paper plots; `mean_rates`:
      mean of the learning rates of up to 64 parameters, which differs for a nonlinear optimizer.
    - `log10_edges`, `histograms`: density of log10 |gradient| before the first update. `medians`
      of |gradient|, and `zeros`, the share that is exactly 0 and so in no histogram.
    - `separation`: at each step, root-mean-square distance between the mean states of two groups
      over that between two parameters of one group: 0 if groups have the same mean state,
      infinite if these differ and all states within each group are equal.
    - `bias_slowness`: at each step, learning rate of biases over that of weights, both averaged
      over the layers that have both; NaN if none has.
    - `depth_correlation`: for weights and biases, Spearman's rank correlation between the layer's
      place and its learning rate averaged over steps; 1 if each layer is faster than the last.
    - `bias_gradients`: by layer, median |gradient| of its bias over that of its weight.
    """

    groups: tuple[str, ...]
    sizes: Int[np.ndarray, " group"]
    problems: int
    states: Float[np.ndarray, "group visited state"]
    spreads: Float[np.ndarray, "group visited"]
    paths: Float[np.ndarray, "group visited component"]
    explained_variance: Float[np.ndarray, " component"]
    rates: Float[np.ndarray, "group visited"]
    mean_rates: Float[np.ndarray, "group visited"]
    log10_edges: Float[np.ndarray, " edge"]
    histograms: Float[np.ndarray, "group bin"]
    medians: Float[np.ndarray, " group"]
    zeros: Float[np.ndarray, " group"]
    separation: Float[np.ndarray, " visited"]
    bias_slowness: Float[np.ndarray, " visited"]
    depth_correlation: dict[str, float]
    bias_gradients: dict[str, float]


def measure_parameter_types(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    problems: int = 64,
    steps: int = 200,
) -> ParameterTypes:
    """Run an optimizer on fresh problems and average over groups of parameters.

    Problems on which it diverges are left out. Learning rates of an optimizer that takes x are
    those at x = 0; its runs use the parameters that they meet. Raises `ValueError` for counts below
    1, a task whose parameters are one group, or an optimizer that diverges on every problem.
    """
    problems = positive_integer("problems", problems)
    steps = positive_integer("steps", steps)
    shape = eqx.filter_eval_shape(task.sample, key).initial_parameters
    spans = compared_spans(task, shape.size)
    batch = batch_size(optimizer, shape)
    # As a tuple: JAX would sort the keys of a dictionary.
    found = _measure(optimizer, task, key, tuple(spans.values()), (problems, steps, batch))
    means, variances, mean_rates, cloud, gradients = (np.asarray(part, float) for part in found)
    whole = np.isfinite(means).all(axis=(1, 2, 3)) & np.isfinite(variances).all(axis=(1, 2))
    if not whole.any():
        raise AllDivergedError(optimizer, task, problems)
    states = means[whole].mean(axis=0).swapaxes(0, 1)
    # Within problems, and between them.
    variance = variances[whole].mean(axis=0).T + means[whole].var(axis=0).sum(axis=-1).T
    projection = fit_projection(evenly_spaced(cloud[whole].reshape(-1, states.shape[-1]), 100_000))
    rates = _rates_at(optimizer, states)
    magnitudes = {
        name: np.abs(gradients[whole, span.start : span.stop : span.step]).ravel()
        for name, span in spans.items()
    }
    edges, histograms = log_histograms(list(magnitudes.values()))
    medians = {name: float(np.median(size)) for name, size in magnitudes.items()}
    layers = layers_of(spans)
    return ParameterTypes(
        groups=tuple(spans),
        sizes=np.array([len(span) for span in spans.values()]),
        problems=int(whole.sum()),
        states=states,
        spreads=np.sqrt(variance),
        paths=projection(states),
        explained_variance=projection.explained_variance,
        rates=rates,
        mean_rates=mean_rates[whole].mean(axis=0).T,
        log10_edges=edges,
        histograms=histograms,
        medians=np.array(list(medians.values())),
        zeros=np.array([np.mean(size == 0) for size in magnitudes.values()]),
        separation=separation(states, variance),
        bias_slowness=bias_slowness(layers, dict(zip(spans, rates, strict=True))),
        depth_correlation=depth_correlation(layers, dict(zip(spans, rates, strict=True))),
        bias_gradients={
            layer: _ratio(medians[kinds[BIAS]], medians[kinds[WEIGHT]])
            for layer, kinds in layers.items()
            if {WEIGHT, BIAS} <= set(kinds)
        },
    )


def layer_and_kind(group: str) -> tuple[str, str]:
    """`conv1.weight` as ("conv1", "weight"). A name without a dot is a layer's only group."""
    layer, dot, kind = group.rpartition(".")
    return (layer, kind) if dot else (kind, "parameters")


def layers_of(groups: Mapping[str, object] | tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Layers in order, each with the names of its groups by kind.

    `kernel` and `w` count as weights and `b` as biases, of a layer that has no other.
    """
    layers: dict[str, dict[str, str]] = {}
    for group in groups:
        layer, kind = layer_and_kind(group)
        own = layers.setdefault(layer, {})
        common = SYNONYMS.get(kind, kind)
        own[kind if common in own else common] = group
    return layers


def separation(
    means: Float[np.ndarray, "group visited state"], variances: Float[np.ndarray, "group visited"]
) -> Float[np.ndarray, " visited"]:
    """Distance between groups over distance within groups, as in `ParameterTypes`.

    Two draws of total variance s^2 are s sqrt(2) apart; so are, in the mean square over pairs,
    two of n points with variance s^2 (n - 1) / n.
    """
    count = len(means)
    between = means.var(axis=0).sum(axis=-1) * count / (count - 1)
    # Equal states of groups of unequal size differ by the round-off of their means.
    between[between <= 1e-24 * np.sum(means**2, axis=-1).max(axis=0)] = 0.0
    within = variances.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.where(between > 0, between / within, 0.0))


def bias_slowness(
    layers: Mapping[str, Mapping[str, str]], rates: Mapping[str, Float[np.ndarray, " visited"]]
) -> Float[np.ndarray, " visited"]:
    """Mean learning rate of biases over that of weights, at each step."""
    both = [kinds for kinds in layers.values() if {WEIGHT, BIAS} <= set(kinds)]
    if not both:
        return np.full(len(next(iter(rates.values()))), np.nan)
    weight, bias = (np.mean([rates[kinds[kind]] for kinds in both], axis=0)
                    for kind in (WEIGHT, BIAS))  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        return bias / weight


def depth_correlation(
    layers: Mapping[str, Mapping[str, str]], rates: Mapping[str, Float[np.ndarray, " visited"]]
) -> dict[str, float]:
    """Rank correlation of depth and mean learning rate, for each kind that two layers have."""
    kinds = dict.fromkeys(kind for own in layers.values() for kind in own)
    found = {}
    for kind in kinds:
        along = np.array([rates[own[kind]].mean() for own in layers.values() if kind in own])
        if len(along) > 1:
            found[kind] = rank_correlation(np.arange(len(along)), along)
    return found


def log_histograms(
    magnitudes: list[Float[np.ndarray, " _"]],
) -> tuple[Float[np.ndarray, " edge"], Float[np.ndarray, "group bin"]]:
    """Densities of log10 of magnitudes on common edges, above the least 0.5 % of every group.

    Zeros count in a density's total, so that its integral is the share of the others.
    """
    logs = [np.log10(size[size > 0]) for size in magnitudes]
    seen = [log for log in logs if log.size]
    low = min((float(np.quantile(log, 0.005)) for log in seen), default=-1.0)
    high = max((float(log.max()) for log in seen), default=0.0)
    edges = np.linspace(low, max(high, low + 1e-3), BINS + 1)
    counts = [np.histogram(log, edges)[0] for log in logs]
    total = np.array([size.size for size in magnitudes])[:, None] * np.diff(edges)
    return edges, np.array(counts) / total


def _ratio(first: float, second: float) -> float:
    if second > 0:
        return first / second
    return float("inf") if first > 0 else float("nan")


def _rates_at(
    optimizer: AbstractOptimizer, states: Float[np.ndarray, "group visited state"]
) -> Float[np.ndarray, "group visited"]:
    flat = states.reshape(-1, states.shape[-1])
    return rate_table(at_parameter(optimizer, 0.0), flat).reshape(states.shape[:2])


@eqx.filter_jit
def _measure(optimizer, task, key, spans, counts):
    problems, steps, batch = counts
    problem_key, parameter_key = jr.split(key)
    drawn = sample_problems(task, problem_key, problems)
    places = [slice(span.start, span.stop, span.step) for span in spans]
    counts = [min(SAMPLED, len(span)) for span in spans]
    held = at_parameter(optimizer, 0.0)
    ends = np.cumsum(counts).tolist()
    starts = [end - count for end, count in zip(ends, counts, strict=True)]

    def one(inputs):
        problem, key = inputs
        keys = jr.split(key, len(spans))
        chosen = jnp.concatenate(
            [choose(k, span, SAMPLED) for k, span in zip(keys, spans, strict=True)]
        )

        def summary(states):
            means = jnp.stack([states[:, place].mean(axis=1) for place in places])
            # Around the mean, because a difference of squares would be round-off near the end.
            variances = [
                jnp.sum((states[:, place] - mean[:, None]) ** 2, axis=0).mean()
                for place, mean in zip(places, means, strict=True)
            ]
            sample = states[:, chosen].T
            rates = jax.vmap(lambda state: effective_learning_rate(held, state))(sample)
            each = [rates[first:last].mean() for first, last in zip(starts, ends, strict=True)]
            few = [sample[first:last][:PROJECTED] for first, last in zip(starts, ends, strict=True)]
            return means, jnp.stack(variances), jnp.stack(each), jnp.concatenate(few)

        kept, last = follow(optimizer, task, problem, steps, lambda states, _: summary(states))
        along = jax.tree.map(
            lambda each, end: jnp.concatenate([each, end[None]]), kept, summary(last)
        )
        start = problem.initial_parameters
        return *along, jax.grad(task.loss, argnums=1)(problem, start, 0)

    return over_problems(one, (drawn, jr.split(parameter_key, problems)), batch)


def type_facts(record: ParameterTypes) -> Facts:
    """Differences between groups of parameters, as pairs of a name and a sentence."""
    depth = ", ".join(f"{kind} {number(r)}" for kind, r in record.depth_correlation.items())
    first = ", ".join(f"{layer} {number(r)}" for layer, r in record.bias_gradients.items())
    return [
        ("States of parameter types", f"means of groups are {number(record.separation.max())} "
         "times as far apart, at most, as parameters of one group, "
         f"{number(record.separation[-1])} times at the end"),
        ("Learning rate of biases over that of weights",
         f"{number(float(np.median(record.bias_slowness)))} (median over steps)"),
        ("Learning rate and depth, rank correlation", depth or "not available"),
        ("First gradients of biases over those of weights, medians", first or "not available"),
    ]  # fmt: skip
