"""The report is one well-formed, self-contained page that holds what it should."""

import dataclasses
import html.parser
from typing import Any

import numpy as np
import pytest
from synthetic_records import (
    BASELINES,
    evaluation,
    history,
    interventions,
    mechanisms,
    replay,
    scorecard,
    tuning,
)

import lrevopt as lo
from lrevopt import storage
from lrevopt.paper.claims import measure_claims
from lrevopt.paper.figures.registry import FIGURES
from lrevopt.paper.figures.schematic import figure_16
from lrevopt.paper.report_sections import claims_section
from lrevopt.plots.style import render
from lrevopt.runs import report
from lrevopt.runs.contents import Run
from lrevopt.runs.pages import Picture
from lrevopt.runs.report import report_run
from lrevopt.runs.report_page import render_report
from lrevopt.studies.interventions.costs import intervention_facts
from lrevopt.studies.transfer import Sweep
from lrevopt.text import number

PNG = render(figure_16(), "png")
VOID = {"meta", "img", "br"}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, texts, and whether every element is closed in order."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


FIGURES_SHOWN = [Picture(spec, PNG) for spec in FIGURES]


def made_run(**records: Any) -> Run:
    """A run of records in memory that has everything but what is given here as `None`."""
    known = {
        "settings": {
            "title": "A run <with> marks & signs",
            "task": {"kind": "LinearRegression"},
            "training": {"steps": 80, "note": "<script>"},
            "seed": 17,
            "versions": {"numpy": np.__version__},
        },
        "evaluation": evaluation(),
        "history": history(),
        "tuning": {name: tuning(name) for name in BASELINES},
        "mechanisms": mechanisms(3),
        "interventions": interventions(),
        "gradient_replay": replay(),
        "scorecard": scorecard(reason="updates are signs"),
    }
    return Run.of("linear_regression", **(known | records))


def rendered(run: Run, **more: Any) -> str:
    known: dict[str, Any] = {
        "figures": FIGURES_SHOWN,
        "analytic_momentum": {"learning_rate": 3.7585, "momentum": 0.88114},
        "seconds": 3725.0,
        "notes": ("Made for a test.",),
    }
    return render_report(run, **(known | more))


@pytest.fixture(scope="module")
def run() -> Run:
    return made_run()


@pytest.fixture(scope="module")
def source(run) -> str:
    return rendered(run)


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_page_is_well_formed_and_fetches_nothing(source, page):
    assert page.open == []
    assert "http://" not in source
    assert "https://" not in source
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object")]
    # The only script is the package's own, inside the page.
    assert page.all("script") == [{}]
    assert all(
        (image["src"] or "").startswith("data:image/webp;base64,") for image in page.all("img")
    )


def test_each_figure_is_there_once_with_number_caption_and_alternative_text(page):
    identifiers = [figure["id"] for figure in page.all("figure")]
    assert identifiers == [spec.name for spec in FIGURES]
    texts = " ".join(page.text.split())
    for spec in FIGURES:
        assert texts.count(f"{spec.label}: {spec.title}. {' '.join(spec.caption.split())}") == 1
    assert all(len(image["alt"] or "") > 100 for image in page.all("img"))


def test_settings_are_escaped_and_complete(source, page):
    assert source.count("<script>") == 1
    assert "&lt;script&gt;" in source
    assert (
        page.text.count("A run <with> marks & signs: a learned optimizer") == 2
    )  # title and heading
    assert "training.steps" in page.text
    assert '"steps": 80' in page.text


def test_numbers_of_the_run_are_shown(run, page):
    means = run.evaluation.meta_objectives().mean(axis=1)
    assert all(f"{mean:.3g}" in page.text for mean in means)
    comparison = run.evaluation.compare("learned", "momentum")
    assert f"{comparison.ratio_of_means:.3g}" in page.text
    for text in ("60 of 80 (finished)", "1 (meta-gradient not finite)", "meta-step 40", "3.759",
                 "0.8811", "1 h 2 min", "upper end from 0.5 to 0.99"):  # fmt: skip
        assert text in page.text
    diverged = int((run.tuning["adam"].diverged > 0).sum())
    assert f"{diverged} of 30" in page.text


def test_the_scorecard_is_shown_with_units_and_reasons(page):
    text = " ".join(page.text.split())
    assert "momentum timescale1 updates" in text
    assert "learning rate at restnot available: updates are signs" in text
    assert "adaptation, rest / held13 times, held at 2.5" in text


def test_removals_are_shown_with_what_they_cost(run, page):
    record = run.interventions
    for removed, ratio in zip(record.removed, np.exp(record.log_ratios), strict=True):
        assert f"Without {removed}" in page.text
        assert f"meta-objective times {number(float(ratio))}" in page.text
    assert "where it does not diverge, as it does on 1 of 6" in page.text
    assert "Gradients of one sign" not in page.text, "names are those of the record"
    assert "Gradients one sign" in page.text


def test_longer_runs_have_a_section_of_their_own(page):
    """Only where they were measured, with the exact paired difference of equal differences."""
    assert "Longer runs" not in page.text
    objectives = np.array([[[0.25, 0.5], [0.125, 0.25]], [[0.5, 0.75], [np.inf, 0.75]]])
    longer = Sweep(("learned", "adam"), np.array([200.0, 2000.0]), objectives)
    text = " ".join(Page(rendered(made_run(horizons=longer))).text.split())
    assert "learned has 0.375 and diverges on 0 of 2 problems; adam 0.625, difference" in text
    assert f"{number(-0.25)} [{number(-0.25)}, {number(-0.25)}]" in text
    assert "After 2,000 updates" in text
    assert "adam ∞, diverges on 1, difference" in text


def test_a_removal_that_always_diverges_has_no_ratio():
    record = interventions()
    lost = dataclasses.replace(record, diverged=np.full(len(record.names), record.problems))
    assert {said for _, said in intervention_facts(lost)} == {"diverges on every problem"}


def test_the_score_of_the_analytic_optimum_is_said_to_be_of_test_problems(
    tmp_path, monkeypatch, page
):
    """It is no hyperparameter, and stands in no column of scores on tuning problems."""
    text = " ".join(Page(rendered(made_run(), analytic_score=0.044761)).text.split())
    assert "not searchedmeta-objective on the test problems: 0.0448" in text
    assert "meta-objective on the test problems" not in page.text
    told: dict[str, Any] = {}
    monkeypatch.setattr(report, "render_report", lambda run, **more: told.update(more) or "")
    settings = {"task": {"kind": "LinearRegression"}, "seed": 17,
                "evaluation": {"problems": 4, "steps": 5, "seed": 0}}  # fmt: skip
    monkeypatch.setattr(Run, "stages", lambda self: settings)
    monkeypatch.setattr(Run, "task", lo.LinearRegression())
    monkeypatch.setattr(report, "evaluate", lambda *args, **options: evaluation())
    storage.save_json(tmp_path / storage.SETTINGS, settings)
    report_run(Run(tmp_path))
    assert set(told["analytic_momentum"]) == {"learning_rate", "momentum"}
    assert told["analytic_score"] == evaluation().meta_objectives()[0].mean()


def test_what_diverges_as_a_whole_is_not_blamed_on_a_removal():
    record = interventions()
    count, most = len(record.names), record.problems
    own = dataclasses.replace(record, original_diverged=4, diverged=np.full(count, 4))
    for _, said in intervention_facts(own):
        assert said.endswith("neither diverges; it does on 4 of 6 (the whole optimizer on 4)")
    healed = dataclasses.replace(own, diverged=np.zeros(count, int))
    assert "on 0 of 6 (the whole optimizer on 4)" in intervention_facts(healed)[0][1]
    lost = dataclasses.replace(own, diverged=np.full(count, most))
    ends = "diverges on every problem (the whole optimizer on 4)"
    assert intervention_facts(lost)[0][1] == ends
    apart = dataclasses.replace(own, diverged=np.full(count, 2), log_ratios=np.full(count, np.nan))
    assert intervention_facts(apart)[0][1].startswith("diverges on 2 of 6 (the whole optimizer on")
    assert "nan" not in intervention_facts(apart)[0][1]
    labels = [lo.plot.interventions(each).axes[0].get_xlabel() for each in (record, own)]
    assert labels[0] == "meta-objective over original"
    assert labels[1] == f"{labels[0]}\noriginal diverged on 4 of 6"


def test_what_trained_it_and_how_others_were_tuned_is_said(run, page):
    """The estimator, earlier stages, the rule of a search, and metrics beside the losses."""
    searches = {
        name: dataclasses.replace(result, rule="2500 settings run 10 updates.")
        for name, result in run.tuning.items()
    }
    stage = {
        "task": {"kind": "MNIST", "side": 14},
        "training": {"steps": 150, "unroll": 60, "problems": 2},
    }
    runs = dataclasses.replace(run.evaluation, metrics={"test_accuracy": np.full((4, 6), 0.875)})
    settings = run.settings | {
        "training": {"estimator": "clipped", "cotangent_clip": 0.5}, "stages": [stage],
    }  # fmt: skip
    text = Page(
        rendered(made_run(settings=settings, tuning=searches, evaluation=runs), figures=[])
    ).text
    assert "held to 0.5 times the rest of each cotangent" in text
    assert "MNIST 14 x 14, 150 meta-steps planned, unrolls of 60, 2 problems a step" in text
    assert text.count("2500 settings run 10 updates.") == 1
    assert "Test accuracy" in text
    assert text.count("0.875") == 4
    # A run of before there was a choice was trained by the exact one.
    assert "exact: backpropagation through every update" in page.text


def test_claims_are_shown_and_what_differs_is_explained(run, page):
    measured = Run.of("rosenbrock", evaluation=evaluation(), mechanisms=mechanisms(3))
    rows = measure_claims({"rosenbrock": measured})
    assert len({row.outcome for row in rows}) > 1
    with_claims = Page(rendered(run, figures=[], sections=claims_section(rows)))
    assert with_claims.open == []
    assert "#claims" in [link["href"] for link in with_claims.all("a")]
    text = with_claims.text
    for row in rows:
        assert {row.says, row.statistic, row.threshold, row.value} <= set(found_in(text, row))
        assert (f"{row.claim}: {row.outcome}." in text) == (row.outcome != "reproduced")
    assert claims_section([]) == []
    assert "The paper's claims" not in page.text


def found_in(text, row):
    return [part for part in dataclasses.astuple(row) if part in text]


def test_tables_have_headers_and_captions(page):
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in header for header in page.all("th"))


def test_diverged_runs_are_counted_and_a_minimal_report_stands():
    page = Page(render_report(Run.of("own", evaluation=evaluation(diverged=True))))
    assert "2 of 6" in page.text
    assert "of the runs that did not diverge" in page.text
    assert "No figures were drawn." in page.text
    assert "nan" not in page.text.lower().split()


def test_a_report_is_written_from_the_files_of_a_run(tmp_path):
    storage.save_json(tmp_path / "settings.json", {"task": storage.describe(lo.Rosenbrock())})
    with pytest.raises(ValueError, match="has no evaluation to report"):
        report_run(Run(tmp_path))
    storage.save_record(tmp_path / "evaluation.npz", evaluation())
    (tmp_path / "figure.png").write_bytes(PNG)
    figures = [Picture(FIGURES[0], tmp_path / "figure.png")]
    path = report_run(Run(tmp_path), figures=figures)
    known = Run.of(
        "rosenbrock",
        evaluation=evaluation(),
        settings={"task": storage.describe(lo.Rosenbrock())},
    )
    assert path.read_text(encoding="utf-8") == render_report(known, figures=figures)
    assert Run(tmp_path).report == path


def test_bad_inputs_are_refused(run):
    foreign = dataclasses.replace(evaluation(), names=("gru", "momentum", "rmsprop", "adam"))
    with pytest.raises(
        ValueError, match=r"`evaluation` must include the optimizer 'learned', got gru, mom"
    ):
        render_report(made_run(evaluation=foreign))
    with pytest.raises(ValueError, match="`figures` must be PNG"):
        rendered(run, figures=[Picture(FIGURES[0], b"GIF89a")])
