"""Small made-up records in the shapes of real ones, for tests of figures and reports."""

import dataclasses
from typing import Any

import numpy as np

from lrevopt.analysis import (
    Adaptation,
    Clipping,
    Convergence,
    Dynamics,
    Manifold,
    Mechanisms,
    ModeShifts,
    MomentumModes,
    ParameterTypes,
    ProjectedStates,
    Schedule,
    textbook_update_functions,
)
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.meta_training import History
from lrevopt.paper.appendices.meta_dynamics import MetaDynamics
from lrevopt.paper.appendices.momentum_mimic import MomentumMimic
from lrevopt.runs.contents import Run
from lrevopt.studies.gallery import Gallery
from lrevopt.studies.gradient_replay import CHANGES, EXCHANGED_HALFWAY, GradientReplay
from lrevopt.studies.interventions import INTERVENTIONS, Interventions
from lrevopt.studies.scorecard import ENTRIES, Scorecard
from lrevopt.tasks.pictures import TaskPicture
from lrevopt.tuning.random_search import TuningResult

BASELINES = {
    "momentum": ("learning_rate", "momentum"),
    "rmsprop": ("learning_rate", "decay"),
    "adam": ("learning_rate", "b1", "b2"),
}


def evaluation(*, diverged: bool = False) -> Evaluation:
    """Four optimizers on 6 problems; if asked, Adam leaves two of them, one at once."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.02, 0.2, (4, 6, 1))
    losses = 100 * np.exp(-rates * np.arange(21)) * rng.uniform(0.5, 2, (1, 6, 1))
    if diverged:
        losses[3, 0, 10:], losses[3, 1, 4:] = np.inf, np.nan
    return Evaluation(names=("learned", *BASELINES), losses=losses)


def mechanisms(states: int = 3, *, converged: bool = True) -> Mechanisms:
    """An optimizer with this many state coordinates and, where there is room, complex modes."""
    rng = np.random.default_rng(states)
    used = (np.arange(3) < states).astype(float)
    decay = 0.9 ** np.arange(21)
    paths = rng.normal(size=(4, 1, 3)) * decay[:, None] * used
    gradients, wide = np.linspace(-1, 1, 11), np.linspace(-5, 5, 21)
    pairs = [0.9, 0.5 + 0.3j, 0.5 - 0.3j][:states] if states != 2 else [0.9, -0.2]
    rates = [0.1, 0.02 + 0.01j, 0.02 - 0.01j][:states]
    if states > 3:  # a mode that is a line of fixed points, and more momentum
        pairs, rates = [1.0, 0.97, 0.95, *pairs], [0.01, 0.05, 0.07, *rates]
    held = np.concatenate([-np.geomspace(0.01, 1, 4)[::-1], [0.0], np.geomspace(0.01, 1, 4)])
    shifts = np.linspace(-1, 1, 5)
    density, edges = np.histogram(rng.normal(size=200), 10, range=(-5, 5), density=True)
    return Mechanisms(
        states=ProjectedStates(
            explained_variance=used / used.sum(),
            paths=paths,
            variance=decay**2,
            typical_update=0.1,
        ),
        fixed_points=Convergence(
            fixed_point=np.zeros(3),
            speed=0.0,
            spectral_radius=0.9,
            distinct=1,
            converged_share=1.0,
            slow_points=rng.normal(size=(5, 3)) * used,
            slow_speeds=np.full(5, 1e-4),
        ),
        momentum=MomentumModes(
            eigenvalues=np.array(pairs, complex),
            learning_rates=np.array(rates, complex),
            dominant_mode=0,
            energy=np.ones(len(pairs)),
            linear_error=0.1,
            shifts=shifts,
            shifted_points=shifts[:, None] * used,
            gradients=gradients,
            updates=-shifts[:, None] - 0.1 * gradients,
        ),
        clipping=Clipping(
            gradients=wide,
            updates=-np.tanh(wide) + np.array([[0.0], [0.1], [-0.1]]),
            edges=edges,
            density=density,
            knees=np.array([2.0, 2.0, np.inf]),
            beyond_knee=0.1,
            saturation=0.5,
            affine_fit=0.9,
        ),
        schedule=Schedule(
            path=decay[:, None] * np.array([1.0, 0.5 * used[1]]),
            slow_points=rng.normal(size=(5, 2)) * used[:2],
            fixed_point=np.zeros(2),
            rates=0.1 + 0.05 * decay,
            updates=np.zeros(20),
            readout_angle=90.0,
        ),
        adaptation=Adaptation(
            gradients=held,
            points=np.stack([held, held**3, held], axis=1) * used,
            speeds=np.zeros(9),
            converged=np.full(9, True) if converged else held < 0.05,
            spectral_radius=np.full(9, 0.9),
            rates=0.1 / (1 + held**2),
            distinct=np.ones(9, int),
            half_steps=np.ones(9),
            arm=np.arange(4, 9),
            axis=gradients,
            arm_updates=-np.tanh(gradients) / np.arange(1, 6)[:, None],
        ),
    )


def changed(record: Mechanisms, **fields: Any) -> Mechanisms:
    """`record` with fields replaced: `momentum__energy=...` is that of `record.momentum`."""
    for name, value in fields.items():
        part, _, field = name.partition("__")
        inner = dataclasses.replace(getattr(record, part), **{field: value})
        record = dataclasses.replace(record, **{part: inner})
    return record


LAYERS = ("conv1", "conv2", "dense")


def parameter_types(steps: int = 20) -> ParameterTypes:
    """Three layers whose biases are slower and have larger gradients, the more so the later."""
    rng = np.random.default_rng(3)
    groups = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))
    time = 1 - 0.8 ** np.arange(steps + 1)
    ends = rng.normal(size=(6, 1, 3))
    slowness = np.where(np.arange(6) % 2, 0.1, 1.0)[:, None] * np.linspace(0.5, 1, 6)[:, None]
    sizes = rng.normal(size=(6, 400)) + np.where(np.arange(6) % 2, -1, -3)[:, None]
    edges = np.linspace(-6, 2, 31)
    return ParameterTypes(
        groups=groups,
        sizes=np.array([144, 16, 2304, 16, 6000, 10]),
        problems=4,
        states=ends * time[:, None],
        spreads=np.full((6, steps + 1), 0.1) * time,
        paths=ends * time[:, None],
        explained_variance=np.array([0.6, 0.2, 0.1]),
        rates=slowness * (0.1 + time),
        mean_rates=slowness * (0.12 + time),
        log10_edges=edges,
        histograms=np.array([np.histogram(row, edges, density=True)[0] for row in sizes]),
        medians=10 ** np.median(sizes, axis=1),
        zeros=np.zeros(6),
        separation=10 * time,
        bias_slowness=np.full(steps + 1, 0.1),
        depth_correlation={"weight": 1.0, "bias": 1.0},
        bias_gradients=dict.fromkeys(LAYERS, 100.0),
    )


def manifold(*, found: bool = True) -> Manifold:
    """A curved line along which the learning rate triples; or a search that found nothing."""
    place = np.linspace(-1, 1, 40 if found else 0)
    gradients = np.linspace(-1, 1, 11)
    rates = 0.2 + 0.1 * place
    chosen = np.arange(0, len(place), 13)
    return Manifold(
        share=float(found),
        initial=np.array([1.2, -0.5, 0.0]),
        explained_variance=np.array([0.7, 0.2, 0.1]),
        visited=np.random.default_rng(1).normal(size=(30, 3)),
        points=np.stack([place, place**2, 0 * place], axis=1),
        speeds=np.full(len(place), 1e-9),
        rates=rates,
        nearest=np.full(len(place), 0.999 + 0j),
        positions=place,
        chosen=chosen,
        gradients=gradients,
        updates=-rates[chosen, None] * np.tanh(gradients),
        participation_ratio=1.2 if found else 0.0,
        extent=0.5 if found else np.nan,
        persistence=0.9 if found else np.nan,
        rate_ratio=3.0 if found else np.nan,
    )


def dynamics(attractors: int = 1) -> Dynamics:
    """Momentum (0.3, 0.9) at each attractor; its learning rate falls under large gradients."""
    held = np.concatenate([-np.geomspace(0.01, 1, 4)[::-1], [0.0], np.geomspace(0.01, 1, 4)])
    axis = np.geomspace(1e-4, 1, 9)
    both = np.stack([-axis, axis])
    change = 1 / (1 + held**2)
    every = np.ones(attractors)
    return Dynamics(
        count=attractors,
        marginal=0,
        shares=every / max(attractors, 1),
        unsettled=0.0 if attractors else 1.0,
        spectral_radius=0.9 * every,
        hankel=every[:, None] * np.array([1.0, 0.05, 0.01]),
        one_rate=0.3 * every,
        one_momentum=0.9 * every,
        one_residual=0.05 * every,
        two_rates=every[:, None] * np.array([0.3, 0.1], complex),
        two_momenta=every[:, None] * np.array([0.9, 0.5], complex),
        two_residual=0.01 * every,
        linear_error=0.05 if attractors else np.nan,
        linear_share=1.0 if attractors else 0.0,
        gradients=axis,
        initial_updates=-np.tanh(both),
        zero_updates=np.zeros(2),
        steady_updates=-10 * np.tanh(both),
        held=held,
        held_attractors=np.full(9, min(attractors, 1)),
        held_settled=np.full(9, attractors > 0),
        rate_change=change,
        rate_half_steps=np.where(np.abs(change - 1) >= 0.1, 4.0, np.nan),
    )


def mode_shifts(states: int = 3) -> ModeShifts:
    """The first of the modes of `mechanisms(states)` tilts the update function, others lift it."""
    shown = np.arange(max(1, states - 2))  # of a conjugate pair, one
    shifts = np.linspace(-1, 1, 5)
    gradients = np.linspace(-1, 1, 11)
    tilts = np.array([-(1 + 0.5 * shifts[:, None]) * gradients] * len(shown))
    tilts[1:] = shifts[:, None] - gradients
    return ModeShifts(
        modes=shown,
        shifts=np.array([shifts] * len(shown)),
        gradients=gradients,
        updates=tilts,
        rates=-tilts[:, :, 6] / 0.2,
        offsets=tilts[:, :, 5],
        tilt=np.where(shown == 0, 0.5, 0.0),
        lift=np.where(shown == 0, 0.0, 0.5),
    )


OPTIMUM = {"learning_rate": 3.76, "momentum": 0.881}


def momentum_mimic() -> MomentumMimic:
    """A mode near the optimum among many that are fast and move little; analytic diverged."""
    rng = np.random.default_rng(4)
    decay = 0.9 ** np.arange(21)
    paths = rng.normal(size=(5, 1, 1)) * np.stack([decay, 0.1 * decay**2, 0 * decay], axis=1)
    gradients, shifts = np.linspace(-2, 2, 11), np.linspace(-3, 3, 5)
    bulk = 0.5 * rng.uniform(size=5) * np.exp(1j * rng.uniform(0, np.pi, 5))
    losses = 300 * np.exp(-np.array([[0.8], [0.79], [0.75], [0.85]]) * np.arange(21))
    losses = losses[:, None] * rng.uniform(0.5, 2, (1, 6, 1))
    losses[3, 2, 9:] = np.inf
    return MomentumMimic(
        step=75,
        explained_variance=np.array([0.97, 0.02, 0.01]),
        paths=paths,
        fixed_point=np.zeros(3),
        gradients=gradients,
        shifts=shifts,
        shift_updates=-shifts[:, None] - 3.6 * gradients,
        eigenvalues=np.array([0.87, *bulk, *bulk.conj()]),
        learning_rates=np.array([3.6, *(0.2 * bulk), *(0.2 * bulk.conj())]),
        dominant_mode=0,
        optimum=OPTIMUM,
        tuned={"learning_rate": 3.55, "momentum": 0.874},
        names=("learned", "one_mode", "momentum", "analytic"),
        losses=losses,
    )


def meta_dynamics() -> MetaDynamics:
    """Three modes over six snapshots; the first moves nothing yet, the second does not rest."""
    steps = np.array([0, 10, 25, 50, 75, 100])
    rates = np.outer(steps / 100, [4.0, -0.3, 0.2j])
    eigenvalues = np.linspace([0.5, 0.4, 0.2j], [0.88, -0.3, 0.1j], 6)
    return MetaDynamics(
        steps=steps,
        scores=np.geomspace(1.0, 0.045, 6),
        eigenvalues=eigenvalues,
        learning_rates=rates,
        dominant_learning_rates=np.abs(rates[:, 0]),
        dominant_momenta=np.abs(eigenvalues[:, 0]),
        converged=np.arange(6) != 1,
        optimum=OPTIMUM,
    )


def tuning(name: str, *, diverged: bool = True) -> TuningResult:
    """A search of 30 settings; if asked, those with the largest learning rates diverge."""
    rng = np.random.default_rng(len(name))
    parameters = BASELINES[name]
    values = {parameter: rng.uniform(0.01, 0.99, 30) for parameter in parameters}
    scores = 0.05 + np.abs(np.log(values["learning_rate"] / 0.3))
    lost = (values["learning_rate"] > 0.8) & diverged
    scores = np.where(lost, np.inf, scores)
    best = int(np.argmin(scores))
    return TuningResult(
        name=name,
        parameter_names=parameters,
        values=values,
        scores=scores,
        diverged=np.where(lost, 3, 0),
        ranges={parameter: np.array([0.01, 0.99]) for parameter in parameters},
        best={parameter: float(values[parameter][best]) for parameter in parameters},
        best_score=float(scores[best]),
        fresh_score=0.06,
        widened=("learning rate: upper end from 0.5 to 0.99",) if diverged else (),
        at_limit=(),
    )


def history(*, logarithmic: bool = False) -> History:
    """60 of 80 meta-steps, one of them skipped."""
    objectives = np.exp(-np.arange(80.0) / 20)
    objectives[60:] = np.nan
    norms = np.where(np.arange(80) < 60, 0.1, np.nan)
    objectives[7], norms[7] = np.inf, np.nan
    return History(
        objectives=np.log(objectives) if logarithmic else objectives,
        gradient_norms=norms,
        skipped=1,
        rollbacks=0,
        snapshot_steps=np.array([0, 20, 40, 60]),
        selection_scores=np.array([0.9, 0.5, 0.2, 0.3]),
        selected=2,
        steps=60,
        seconds=75.0,
        outcome="finished",
    )


def interventions(problems: int = 6) -> Interventions:
    """Removals that cost more and more; one costs beyond any axis, the last diverged somewhere."""
    names = tuple(INTERVENTIONS)
    costs = np.linspace(-0.05, 1.0, len(names))
    costs[-2] = 12.0
    original = np.linspace(0.1, 0.2, problems)
    objectives = original * np.exp(costs)[:, None]
    diverged = np.zeros(len(names), int)
    objectives[-1, 0], diverged[-1] = np.inf, 1
    differences = (objectives - original).mean(axis=1)
    return Interventions(
        names=names,
        removed=tuple(one.removes for one in INTERVENTIONS.values()),
        mechanisms=tuple(one.mechanism for one in INTERVENTIONS.values()),
        original=original,
        objectives=objectives,
        original_diverged=0,
        diverged=diverged,
        differences=differences,
        difference_lows=0.9 * differences,
        difference_highs=1.1 * differences,
        log_ratios=costs,
        log_ratio_lows=costs - 0.1,
        log_ratio_highs=costs + 0.1,
        omitted=("one_mode: the Jacobian is near-defective.",),
    )


def replay(steps: int = 20) -> GradientReplay:
    """Rates that differ by layer because gradients do, and follow them at once."""
    groups = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))
    left = np.linspace(1, 0.2, len(CHANGES))
    rates = np.linspace(0.1, 0.4, len(groups))[:, None] * (1 + np.arange(steps + 1) / steps)
    halfway = np.where(np.arange(steps + 1) > steps // 2, 1.0, 0.0)
    return GradientReplay(
        groups=groups,
        names=tuple(CHANGES),
        rates=left[:, None, None] * rates,
        separations=left[:, None] * np.ones(4),
        remaining=left,
        remaining_lows=left - 0.05,
        remaining_highs=left + 0.05,
        followed={"exchanged": np.ones(steps + 1), EXCHANGED_HALFWAY: halfway},
    )


def scorecard(scale: float = 1.0, reason: str = "") -> Scorecard:
    """Numbers 1, 2, ... times `scale`; with a reason, none of the rates has one."""
    values = dict(zip(ENTRIES, scale * np.arange(1.0, len(ENTRIES) + 1), strict=True))
    missing = ("rate", "gain") if reason else ()
    line = np.linspace(-1.0, 1.0, 5)
    return Scorecard(
        **values | dict.fromkeys(missing, np.nan),
        reasons=dict.fromkeys(missing, reason),
        adaptation_at=2.5,
        angle_of="visited states",
        fixed_points=1,
        converged_share=0.75,
        eigenvalues=np.array([0.9 + 0j]),
        learning_rates=np.array([0.1 + 0j]),
        leading=np.array([0]),
        gradients=line,
        initial_update=-line,
        later_updates=np.tile(-line, (2, 1)),
        edges=line,
        density=np.full(4, 0.5),
        schedule_rates=np.full(6, 0.1),
        held_gradients=line,
        held_rates=np.full(5, 0.1),
        held_converged=np.full(5, True),
        curvatures=line + 2,
        radii=np.full(5, 0.9),
    )


def gallery() -> Gallery:
    """Momentum and gradient descent, as they would be."""
    line = np.linspace(-1.0, 1.0, 5)
    both = {"sgd": 0.0, "momentum": 0.9}
    return Gallery(
        task="Rosenbrock",
        names=tuple(both),
        problems=6,
        steps=20,
        learning_rates=np.array([0.1, 0.01]),
        on_edge=np.array([False, True]),
        scores=np.array([0.25, np.inf]),
        median_scores=np.array([0.2, 0.15]),
        diverged=np.array([0, 1]),
        shown=np.array([0, 10]),
        gradients=np.tile(line, (2, 1)),
        updates=np.tile(-line, (2, 2, 1)),
        states={name: np.zeros(2) for name in both},
        last_gradients=np.array([0.5, 0.5]),
        eigenvalues={name: np.array([value, 0.0], complex) for name, value in both.items()},
        mode_rates={name: np.array([0.1, 0.0], complex) for name in both},
        inseparable=("", ""),
        shifts=np.array([0.0, 1.2]),
        tilts=np.ones(2),
        losses=np.zeros(2),
    )


PICTURES = {
    "linear_regression": TaskPicture(
        "condition_numbers", {"condition_numbers": np.geomspace(2, 500, 40)}
    ),
    "rosenbrock": TaskPicture(
        "surface",
        {
            "x": np.linspace(-2, 2, 9),
            "y": np.linspace(-1, 3, 9),
            "surface": 1 + np.linspace(0, 9, 81).reshape(9, 9) ** 2,
            "minimum": np.ones(2),
        },
    ),
    "two_moons": TaskPicture(
        "scatter",
        {
            "x": np.random.default_rng(5).normal(size=60),
            "y": np.random.default_rng(6).normal(size=60),
            "label": np.arange(60) % 2,
        },
    ),
    "mnist": TaskPicture(
        "images", {"images": np.random.default_rng(7).integers(0, 256, (30, 7, 7), np.uint8)}
    ),
}


def runs(*tasks: str, title: str = "") -> dict[str, Run]:
    """Runs with all records for these tasks; the first has diverged runs and few states.

    `momentum_mimic` and `meta_dynamics` are those of the first.
    """
    once = {"momentum_mimic": momentum_mimic(), "meta_dynamics": meta_dynamics()}
    return {
        task: Run.of(
            task,
            settings={"task": {"kind": "MNIST" if task == "mnist" else "", "title": title}},
            evaluation=evaluation(diverged=place == 0),
            task_picture=PICTURES.get(task),
            mechanisms=mechanisms(6 if place else 1, converged=place > 0),
            tuning={name: tuning(name) for name in BASELINES},
            textbook=textbook_update_functions(),
            history=history(),
            seeds={seed: Run.of(task, history=history()) for seed in (1, 2)},
            dynamics=dynamics(2 if place else 1),
            parameter_types=parameter_types(),
            manifold=manifold(),
            mode_shifts=mode_shifts(6 if place else 1),
            interventions=interventions(),
            gradient_replay=replay(),
            **({} if place else once),
        )
        for place, task in enumerate(tasks)
    }
