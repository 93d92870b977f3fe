"""One HTML page per run: what was trained, how well it does, what is inside.

The page is a single file: figures are embedded, nothing is fetched from elsewhere.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.plots.style import looks
from lrevopt.runs.contents import CONTENTS, Run
from lrevopt.runs.experiment import LEARNED
from lrevopt.runs.pages import Picture, Section, difference_words, embedded_figure
from lrevopt.runs.summary import summary
from lrevopt.templates import render_page
from lrevopt.text import Facts, counted, number
from lrevopt.tuning.random_search import TuningResult

SYMBOLS = {
    "learning_rate": "learning rate α",
    "momentum": "momentum β",
    "decay": "decay γ",
    "b1": "decay β₁",
    "b2": "decay β₂",
}
"""Hyperparameters as the figures call them."""


def render_report(
    run: Run,
    *,
    figures: Sequence[Picture] = (),
    sections: Sequence[Section] = (),
    analytic_momentum: Mapping[str, float] | None = None,
    analytic_score: float | None = None,
    seconds: float | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The report of a run as one self-contained HTML page. What the run lacks is left out.

    - `figures`: in reading order.
    - `sections`: what else the page shows, after the interventions.
    - `analytic_momentum`: hyperparameters of momentum that are optimal in theory, by name.
    - `analytic_score`: their mean meta-objective on the test problems.
    - `seconds`: wall time of the whole run.
    - `notes`: paragraphs under the heading.

    Raises `ValueError` for a run without evaluation, an evaluation without the learned optimizer,
    or a figure that is not a PNG.
    """
    evaluation = _evaluation(run)
    settings = {name: value for name, value in run.settings.items() if name != "versions"}
    settings |= run.stages()
    return render_page(
        "report.html",
        title=f"{run.title}: a learned optimizer",
        notes=notes,
        verdict=_verdict(evaluation),
        learned=looks(evaluation.names)[LEARNED].label,
        steps=evaluation.losses.shape[2] - 1,
        problems=evaluation.losses.shape[1],
        summary=summary([(run.title, "", evaluation)]),
        comparison=_comparison(evaluation),
        horizons=run.facts("horizons"),
        training=_training(run, seconds),
        tuning=_tuning(run.tuning, analytic_momentum, analytic_score),
        remarks=_remarks(run.tuning),
        metrics=[name.replace("_", " ").capitalize() for name in evaluation.metrics],
        mechanisms=run.facts(*(name for name in CONTENTS if name not in APART)),
        interventions=run.facts("interventions"),
        scorecard=run.facts("scorecard"),
        sections=sections,
        figures=[embedded_figure(picture) for picture in figures],
        settings=list(_flat(settings)),
        settings_json=json.dumps(settings, indent=2, sort_keys=True, default=str),
        versions=sorted(run.settings.get("versions", {}).items()),
    )


APART = ("horizons", "interventions", "scorecard")
"""Parts with a section of the page for themselves; facts of all others stand together."""


def _evaluation(run: Run) -> Evaluation:
    """The evaluation, of which a report cannot do without."""
    if run.evaluation is None:
        raise ValueError(f"`{run.path}` has no evaluation to report: evaluate it first.")
    if LEARNED not in run.evaluation.names:
        names = ", ".join(run.evaluation.names)
        raise ValueError(f"`evaluation` must include the optimizer {LEARNED!r}, got {names}.")
    return run.evaluation


def _symbol(parameter: str) -> str:
    return SYMBOLS.get(parameter, parameter.replace("_", " "))


def _verdict(evaluation: Evaluation) -> str:
    """One sentence: how the learned optimizer compares with the best baseline."""
    names = looks(evaluation.names)
    own = number(evaluation.mean_scores()[LEARNED])
    baseline = evaluation.best_beside(LEARNED)
    if baseline is None:
        return f"The learned optimizer reaches a mean meta-objective of {own}."
    comparison = evaluation.compare(LEARNED, baseline)
    other = number(evaluation.mean_scores()[baseline])
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


def _comparison(evaluation: Evaluation) -> list[dict[str, Any]]:
    best = evaluation.best_beside(LEARNED)
    rows = []
    scores = evaluation.meta_objectives()
    named = looks(evaluation.names).items()
    for place, ((name, look), row) in enumerate(zip(named, scores, strict=True)):
        finite = row[np.isfinite(row)]
        error = finite.std(ddof=1) / math.sqrt(finite.size) if finite.size > 1 else math.nan
        mean = f"{number(float(finite.mean()) if finite.size else math.inf)} ± {number(error)}"
        diverged = row.size - finite.size
        itself = name == LEARNED
        comparison = None if itself else evaluation.compare(LEARNED, name)
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


def _training(run: Run, seconds: float | None) -> Facts:
    facts: Facts = []
    settings = run.settings
    if (history := run.history) is not None:
        chosen = int(history.selected)
        facts = [
            (
                "Meta-steps",
                f"{int(history.steps)} of {len(history.objectives)} ({history.outcome})",
            ),
            ("Skipped updates", f"{int(history.skipped)} ({_skipped(settings)})"),
            ("Rollbacks", f"{int(history.rollbacks)} (to the best snapshot, at half the rate)"),
            ("Meta-gradient", _estimator(settings)),
            ("Snapshot kept", f"meta-step {int(history.snapshot_steps[chosen])}"),
            (
                "Its selection score",
                number(float(history.selection_scores[chosen])) + _scales(settings),
            ),
            ("Time in training", _duration(history.seconds)),
        ]
    for place, stage in enumerate(settings.get("stages", ()), 1):
        facts.append((f"Earlier stage {place}", _stage(stage)))
    if seconds is not None:
        facts.append(("Time in all", _duration(seconds)))
    if "seed" in settings:
        facts.append(("Key", f"seed {settings['seed']}"))
    return facts


ESTIMATORS = {
    "exact": "exact: backpropagation through every update, as in the paper",
    "clipped": "backpropagation, with what comes through Hessians held to {cotangent_clip} times "
    "the rest of each cotangent",
    "first_order": "first-order: gradients that the optimizer met count as given",
    "es": "evolution strategies, antithetic pairs of deviation {es_deviation}",
    "cma": "a search without gradients (CMA-ES), first candidates of deviation {cma_deviation}",
    "pes": "persistent evolution strategies, windows of {es_window} updates",
}
"""What trained an optimizer, by `MetaTraining.estimator`. The paper's is the exact one."""


def _estimator(settings: Mapping[str, Any]) -> str:
    training = settings.get("training", {})
    return ESTIMATORS[training.get("estimator", "exact")].format(**training)


def _skipped(settings: Mapping[str, Any]) -> str:
    """Why a meta-step of this estimator counts as skipped."""
    by_ranks = settings.get("training", {}).get("estimator") == "cma"
    return "every candidate diverged" if by_ranks else "meta-gradient not finite"


def _stage(stage: Mapping[str, Any]) -> str:
    """A run that training went on from."""
    task, training = stage["task"], stage["training"]
    side = f" {task['side']} x {task['side']}" if "side" in task else ""
    problems = counted(training["problems"], "problem")
    return (
        f"{task['kind']}{side}, {training['steps']} meta-steps planned, unrolls of "
        f"{training['unroll']}, {problems} a step{_scales(stage)}"
    )


def _scales(run: Mapping[str, Any]) -> str:
    """What a search of the scales multiplied them by, after training; nothing if there was none."""
    if "scales" not in run:
        return ""
    inputs, outputs = run["scales"]["chosen"]
    pairs = counted(len(run["scales"]["scores"]), "pair")
    problems = counted(run["scales"]["problems"], "problem")
    return (
        f"; then input scale times {number(inputs)} and output scale times {number(outputs)}, the "
        f"best of {pairs} on {problems}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _tuning(
    tuning: Mapping[str, TuningResult],
    analytic_momentum: Mapping[str, float] | None,
    analytic_score: float | None,
) -> list[dict[str, Any]]:
    """Rows of searches, and of a setting that none found: its score is not of tuning problems."""
    rows = []
    for name, result in tuning.items():
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
    if analytic_momentum is not None:
        tested = []
        if analytic_score is not None:
            tested = [f"meta-objective on the test problems: {number(analytic_score)}"]
        rows.append(
            {
                "label": "Momentum, analytic optimum",
                "best": [
                    f"{_symbol(key)} = {number(value, 4)}"
                    for key, value in analytic_momentum.items()
                ],
                "ranges": ["not searched", *tested],
                "score": "",
                "fresh": "",
                "diverged": "",
            }
        )
    return rows


def _remarks(tuning: Mapping[str, TuningResult]) -> list[str]:
    """How the searches went, and what they say about their ranges."""
    rules = dict.fromkeys(result.rule for result in tuning.values() if result.rule)
    remarks = []
    for name, result in tuning.items():
        label = looks([name])[name].label
        remarks += [
            f"{label}: {sentence}"
            for sentence in (*result.widened, *result.at_limit, *result.decisions)
        ]
    unwidened = ["No range had to be widened: no best setting lay at the end of one."]
    return [*rules, *(remarks or unwidened)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, value)."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
