"""One HTML page per run: what was trained, how well it does, what is inside.

The page is a single file: figures are embedded, nothing is fetched from elsewhere.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt.analysis.manifolds import Manifold, manifold_facts
from lrevopt.analysis.mechanisms import Mechanisms, mechanism_facts
from lrevopt.analysis.mode_shifts import ModeShifts, mode_facts
from lrevopt.analysis.parameter_types import ParameterTypes, type_facts
from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.meta_training import History
from lrevopt.paper.claims import Row
from lrevopt.paper.figures.registry import FigureSpec
from lrevopt.plots.style import looks
from lrevopt.runs.pages import difference_words, embedded_figure, render_page
from lrevopt.storage import write_atomically
from lrevopt.studies.gradient_replay import GradientReplay, gradient_replay_facts
from lrevopt.studies.interventions import Interventions
from lrevopt.studies.interventions.costs import intervention_facts
from lrevopt.studies.scorecard import Scorecard, scorecard_facts
from lrevopt.text import Facts, number
from lrevopt.tuning.random_search import TuningResult

SYMBOLS = {
    "learning_rate": "learning rate α",
    "momentum": "momentum β",
    "decay": "decay γ",
    "b1": "decay β₁",
    "b2": "decay β₂",
}
"""Hyperparameters as the figures call them."""


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows. What a run does not have may be left out."""

    title: str
    """Heading of the page."""
    settings: Mapping[str, Any]
    """Settings of the run in full, as they could stand in a JSON file."""
    evaluation: Evaluation
    """Runs of the learned optimizer and the baselines on the test problems."""
    history: History | None = None
    """Record of meta-training."""
    tuning: Mapping[str, TuningResult] = dataclasses.field(default_factory=dict)
    """Random search of each baseline, by its name in `evaluation`."""
    mechanisms: Mechanisms | None = None
    """Analysis of the learned optimizer."""
    parameter_types: ParameterTypes | None = None
    manifold: Manifold | None = None
    mode_shifts: ModeShifts | None = None
    """More of it, for tasks whose parameters have groups."""
    interventions: Interventions | None = None
    replay: GradientReplay | None = None
    """What happens when a mechanism is taken away, or gradients are exchanged."""
    scorecard: Scorecard | None = None
    """The learned optimizer on its own task, in one page of numbers."""
    claims: Sequence[Row] = ()
    """The paper's sentences, measured on it."""
    figures: Sequence[tuple[FigureSpec, bytes | Path]] = ()
    """Figures in reading order, each with its PNG or the path of it."""
    learned: str = "learned"
    """Name of the learned optimizer in `evaluation`."""
    analytic_momentum: Mapping[str, float] | None = None
    """Hyperparameters of momentum that are optimal in theory, and their score, by name."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Software, by name."""
    key: str = ""
    """Seed or key of the run."""
    seconds: float | None = None
    """Wall time of the whole run."""
    notes: Sequence[str] = ()
    """Paragraphs under the heading."""


def write_report(inputs: ReportInputs, path: Path | str) -> Path:
    """Write the report at once or not at all; its path.

    Raises `ValueError` for a folder that cannot be written, and as `render_report` does.
    """
    write_atomically(path, render_report(inputs))
    return Path(path)


def render_report(inputs: ReportInputs) -> str:
    """The report as one self-contained HTML page.

    Raises `ValueError` if the evaluation lacks the learned optimizer, or a figure is not a PNG.
    """
    evaluation = inputs.evaluation
    if inputs.learned not in evaluation.names:
        raise ValueError(
            f"`learned` must be one of {', '.join(evaluation.names)}, got {inputs.learned!r}."
        )
    settings = dict(inputs.settings)
    return render_page(
        "report.html",
        title=inputs.title,
        notes=inputs.notes,
        verdict=_verdict(inputs),
        learned=looks(evaluation.names)[inputs.learned].label,
        steps=evaluation.losses.shape[2] - 1,
        problems=evaluation.losses.shape[1],
        comparison=_comparison(inputs),
        training=_training(inputs),
        tuning=_tuning(inputs),
        remarks=_remarks(inputs),
        metrics=[name.replace("_", " ").capitalize() for name in evaluation.metrics],
        mechanisms=_findings(inputs),
        interventions=None
        if inputs.interventions is None
        else intervention_facts(inputs.interventions),
        scorecard=_scorecard(inputs.scorecard),
        claims=inputs.claims,
        figures=[embedded_figure(spec, png) for spec, png in inputs.figures],
        settings=list(_flat(settings)),
        settings_json=json.dumps(settings, indent=2, sort_keys=True, default=str),
        versions=sorted(inputs.versions.items()),
    )


def _symbol(parameter: str) -> str:
    return SYMBOLS.get(parameter, parameter.replace("_", " "))


def _verdict(inputs: ReportInputs) -> str:
    """One sentence: how the learned optimizer compares with the best baseline."""
    names = looks(inputs.evaluation.names)
    own = number(inputs.evaluation.mean_scores()[inputs.learned])
    baseline = inputs.evaluation.best_beside(inputs.learned)
    if baseline is None:
        return f"The learned optimizer reaches a mean meta-objective of {own}."
    comparison = inputs.evaluation.compare(inputs.learned, baseline)
    other = number(inputs.evaluation.mean_scores()[baseline])
    if comparison.high < 0:
        outcome = "lower than"
    elif comparison.low > 0:
        outcome = "higher than"
    else:
        outcome = "not clearly different from"
    return (
        f"The learned optimizer reaches a mean meta-objective of {own}, {outcome} the {other} of "
        f"{names[baseline].label}, the best tuned baseline: a ratio of "
        f"{number(comparison.ratio_of_means)}, and a paired difference of "
        f"{difference_words(comparison)} on the same problems. Lower is better."
    )


def _comparison(inputs: ReportInputs) -> list[dict[str, Any]]:
    evaluation = inputs.evaluation
    best = evaluation.best_beside(inputs.learned)
    rows = []
    scores = evaluation.meta_objectives()
    named = looks(evaluation.names).items()
    for place, ((name, look), row) in enumerate(zip(named, scores, strict=True)):
        finite = row[np.isfinite(row)]
        error = finite.std(ddof=1) / math.sqrt(finite.size) if finite.size > 1 else math.nan
        mean = f"{number(float(finite.mean()) if finite.size else math.inf)} ± {number(error)}"
        diverged = row.size - finite.size
        itself = name == inputs.learned
        comparison = None if itself else evaluation.compare(inputs.learned, name)
        rows.append(
            {
                "label": look.label,
                "learned": itself,
                "best_baseline": name == best,
                "mean": mean + (" (of the runs that did not diverge)" if diverged else ""),
                "diverged": f"{diverged} of {row.size}",
                "metrics": [
                    number(float(values[place].mean())) for values in evaluation.metrics.values()
                ],
                "difference": "" if comparison is None else difference_words(comparison),
                "ratio": "" if comparison is None else number(comparison.ratio_of_means),
            }
        )
    return rows


def _training(inputs: ReportInputs) -> Facts:
    facts: Facts = []
    if (history := inputs.history) is not None:
        chosen = int(history.selected)
        facts = [
            (
                "Meta-steps",
                f"{int(history.steps)} of {len(history.objectives)} ({history.outcome})",
            ),
            ("Skipped updates", f"{int(history.skipped)} (meta-gradient not finite)"),
            ("Rollbacks", f"{int(history.rollbacks)} (to the best snapshot, at half the rate)"),
            ("Meta-gradient", _estimator(inputs.settings)),
            ("Snapshot kept", f"meta-step {int(history.snapshot_steps[chosen])}"),
            (
                "Its selection score",
                number(float(history.selection_scores[chosen])) + _scales(inputs.settings),
            ),
            ("Time in training", _duration(history.seconds)),
        ]
    for place, stage in enumerate(inputs.settings.get("stages", ()), 1):
        facts.append((f"Earlier stage {place}", _stage(stage)))
    if inputs.seconds is not None:
        facts.append(("Time in all", _duration(inputs.seconds)))
    if inputs.key:
        facts.append(("Key", inputs.key))
    return facts


ESTIMATORS = {
    "exact": "exact: backpropagation through every update, as in the paper",
    "clipped": "backpropagation, with what comes through Hessians held to {cotangent_clip} times "
    "the rest of each cotangent",
    "first_order": "first-order: gradients that the optimizer met count as given",
    "es": "evolution strategies, antithetic pairs of deviation {es_deviation}",
    "pes": "persistent evolution strategies, windows of {es_window} updates",
}
"""What trained an optimizer, by `MetaTraining.estimator`. The paper's is the exact one."""


def _estimator(settings: Mapping[str, Any]) -> str:
    training = settings.get("training", {})
    return ESTIMATORS[training.get("estimator", "exact")].format(**training)


def _stage(stage: Mapping[str, Any]) -> str:
    """A run that training went on from."""
    task, training = stage["task"], stage["training"]
    side = f" {task['side']} x {task['side']}" if "side" in task else ""
    return (
        f"{task['kind']}{side}, {training['steps']} meta-steps planned, unrolls of "
        f"{training['unroll']}, {training['problems']} problems a step{_scales(stage)}"
    )


def _scales(run: Mapping[str, Any]) -> str:
    """What a search of the scales multiplied them by, after training; nothing if there was none."""
    if "scales" not in run:
        return ""
    inputs, outputs = run["scales"]["chosen"]
    return (
        f"; then input scale times {number(inputs)} and output scale times {number(outputs)}, the "
        f"best of {len(run['scales']['scores'])} pairs on {run['scales']['problems']} problems"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _tuning(inputs: ReportInputs) -> list[dict[str, Any]]:
    rows = []
    for name, result in inputs.tuning.items():
        diverged, tried = int((result.diverged > 0).sum()), result.scores.size
        rows.append(
            {
                "label": looks([name])[name].label,
                "best": [
                    f"{_symbol(key)} = {number(value, 4)}" for key, value in result.best.items()
                ],
                "ranges": [
                    f"{_symbol(key)} in {number(low, 4)} to {number(high, 4)}"
                    for key, (low, high) in result.ranges.items()
                ],
                "score": number(result.best_score),
                "fresh": number(result.fresh_score),
                "diverged": f"{diverged} of {tried}",
            }
        )
    if inputs.analytic_momentum is not None:
        rows.append(
            {
                "label": "Momentum, analytic optimum",
                "best": [
                    f"{_symbol(key)} = {number(value, 4)}"
                    for key, value in inputs.analytic_momentum.items()
                ],
                "ranges": ["not searched"],
                "score": "",
                "fresh": "",
                "diverged": "",
            }
        )
    return rows


def _remarks(inputs: ReportInputs) -> list[str]:
    """How the searches went, and what they say about their ranges."""
    rules = dict.fromkeys(result.rule for result in inputs.tuning.values() if result.rule)
    remarks = []
    for name, result in inputs.tuning.items():
        label = looks([name])[name].label
        remarks += [f"{label}: {sentence}" for sentence in (*result.widened, *result.at_limit)]
    unwidened = ["No range had to be widened: no best setting lay at the end of one."]
    return [*rules, *(remarks or unwidened)]


def _findings(inputs: ReportInputs) -> Facts:
    """Facts of every record of the analysis that there is."""
    facts: Facts = []
    if inputs.mechanisms is not None:
        facts += mechanism_facts(inputs.mechanisms)
    if inputs.parameter_types is not None:
        facts += type_facts(inputs.parameter_types)
    if inputs.manifold is not None:
        facts += manifold_facts(inputs.manifold)
    if inputs.mode_shifts is not None and inputs.mechanisms is not None:
        facts += mode_facts(inputs.mode_shifts, inputs.mechanisms)
    if inputs.replay is not None:
        facts += gradient_replay_facts(inputs.replay)
    return facts


def _scorecard(card: Scorecard | None) -> Facts:
    """Numbers with their units, or with the reason why they are missing."""
    if card is None:
        return []
    return [
        (label, f"{said}: {reason}" if reason else said)
        for label, said, reason in scorecard_facts(card)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, value)."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
