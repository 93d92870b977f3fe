"""The report is one well-formed, self-contained page that holds what it should."""

import dataclasses
import html.parser

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

from lrevopt.paper.claims import RunNumbers, measure_claims
from lrevopt.paper.figures.registry import FIGURES
from lrevopt.paper.figures.schematic import figure_16
from lrevopt.plots.style import render
from lrevopt.runs.report_page import ReportInputs, render_report, write_report
from lrevopt.studies.interventions.costs import intervention_facts
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
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return ReportInputs(
        title="A run <with> marks & signs",
        settings={"task": "linear_regression", "training": {"steps": 80, "note": "<script>"}},
        evaluation=evaluation(),
        history=history(),
        tuning={name: tuning(name) for name in BASELINES},
        mechanisms=mechanisms(3),
        interventions=interventions(),
        replay=replay(),
        scorecard=scorecard(reason="updates are signs"),
        figures=[(spec, PNG) for spec in FIGURES],
        analytic_momentum={"learning_rate": 3.7585, "momentum": 0.88114},
        versions={"numpy": np.__version__},
        key="17",
        seconds=3725.0,
        notes=("Made for a test.",),
    )


@pytest.fixture(scope="module")
def page(inputs) -> Page:
    return Page(render_report(inputs))


def test_page_is_well_formed_and_fetches_nothing(inputs, page):
    assert page.open == []
    assert "http://" not in render_report(inputs)
    assert "https://" not in render_report(inputs)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
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


def test_settings_are_escaped_and_complete(inputs, page):
    source = render_report(inputs)
    assert "<script>" not in source
    assert "&lt;script&gt;" in source
    assert page.text.count("A run <with> marks & signs") == 2  # title and heading
    assert "training.steps" in page.text
    assert '"steps": 80' in page.text


def test_numbers_of_the_run_are_shown(inputs, page):
    means = inputs.evaluation.meta_objectives().mean(axis=1)
    assert all(f"{mean:.3g}" in page.text for mean in means)
    comparison = inputs.evaluation.compare("learned", "momentum")
    assert f"{comparison.ratio_of_means:.3g}" in page.text
    for text in ("60 of 80 (finished)", "1 (meta-gradient not finite)", "meta-step 40", "3.759",
                 "0.8811", "1 h 2 min", "upper end from 0.5 to 0.99"):  # fmt: skip
        assert text in page.text
    diverged = int((inputs.tuning["adam"].diverged > 0).sum())
    assert f"{diverged} of 30" in page.text


def test_the_scorecard_is_shown_with_units_and_reasons(page):
    text = " ".join(page.text.split())
    assert "momentum timescale1 updates" in text
    assert "learning rate at restnot available: updates are signs" in text
    assert "adaptation, rest / held13 times, held at 2.5" in text


def test_removals_are_shown_with_what_they_cost(inputs, page):
    record = inputs.interventions
    for removed, ratio in zip(record.removed, np.exp(record.log_ratios), strict=True):
        assert f"Without {removed}" in page.text
        assert f"meta-objective times {number(float(ratio))}" in page.text
    assert "where it does not diverge, as it does on 1 of 6" in page.text
    assert "Gradients of one sign" not in page.text, "names are those of the record"
    assert "Gradients one sign" in page.text


def test_a_removal_that_always_diverges_has_no_ratio():
    record = interventions()
    lost = dataclasses.replace(record, diverged=np.full(len(record.names), record.problems))
    assert {said for _, said in intervention_facts(lost)} == {"diverges on every problem"}


def test_what_trained_it_and_how_others_were_tuned_is_said(inputs):
    """The estimator, earlier stages, the rule of a search, and metrics beside the losses."""
    searches = {
        name: dataclasses.replace(result, rule="2500 settings run 10 updates.")
        for name, result in inputs.tuning.items()
    }
    stage = {
        "task": {"kind": "MNIST", "side": 14},
        "training": {"steps": 150, "unroll": 60, "problems": 2},
    }
    runs = dataclasses.replace(inputs.evaluation, metrics={"test_accuracy": np.full((4, 6), 0.875)})
    settings = dict(inputs.settings) | {
        "training": {"estimator": "clipped", "cotangent_clip": 0.5}, "stages": [stage],
    }  # fmt: skip
    text = Page(
        render_report(
            dataclasses.replace(inputs, settings=settings, tuning=searches, evaluation=runs)
        )
    ).text
    assert "held to 0.5 times the rest of each cotangent" in text
    assert "MNIST 14 x 14, 150 meta-steps planned, unrolls of 60, 2 problems a step" in text
    assert text.count("2500 settings run 10 updates.") == 1
    assert "Test accuracy" in text
    assert text.count("0.875") == 4
    # A run of before there was a choice was trained by the exact one.
    assert "exact: backpropagation through every update" in Page(render_report(inputs)).text


def test_claims_are_shown_and_what_differs_is_explained(inputs):
    numbers = RunNumbers(evaluation=evaluation(), mechanisms=mechanisms(3))
    rows = measure_claims({"rosenbrock": numbers})
    assert len({row.outcome for row in rows}) > 1
    text = Page(render_report(dataclasses.replace(inputs, claims=rows))).text
    for row in rows:
        assert {row.says, row.statistic, row.threshold, row.value} <= set(found_in(text, row))
        assert (f"{row.claim}: {row.outcome}." in text) == (row.outcome != "reproduced")
    assert "The paper's sentences" not in Page(render_report(inputs)).text


def found_in(text, row):
    return [part for part in dataclasses.astuple(row) if part in text]


def test_tables_have_headers_and_captions(page):
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in header for header in page.all("th"))


def test_diverged_runs_are_counted_and_a_minimal_report_stands():
    minimal = ReportInputs(title="Minimal", settings={}, evaluation=evaluation(diverged=True))
    page = Page(render_report(minimal))
    assert "2 of 6" in page.text
    assert "of the runs that did not diverge" in page.text
    assert "No figures were drawn." in page.text
    assert "nan" not in page.text.lower().split()


def test_report_is_written_whole_and_from_files(tmp_path, inputs):
    (tmp_path / "figure.png").write_bytes(PNG)
    some = dataclasses.replace(inputs, figures=[(FIGURES[0], tmp_path / "figure.png")])
    path = write_report(some, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == render_report(some)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["figure.png", "report.html"]


def test_bad_inputs_are_refused(inputs):
    with pytest.raises(ValueError, match=r"`learned` must be one of .* got 'gru'"):
        render_report(dataclasses.replace(inputs, learned="gru"))
    with pytest.raises(ValueError, match="`figures` must be PNG"):
        render_report(dataclasses.replace(inputs, figures=[(FIGURES[0], b"GIF89a")]))
