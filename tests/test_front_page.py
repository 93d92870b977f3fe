"""The front page is one self-contained page with everything in it, whatever there is so far."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import (
    BASELINES,
    evaluation,
    gallery,
    mechanisms,
    meta_dynamics,
    momentum_mimic,
    scorecard,
)
from test_report import PNG, Page
from test_scripts import call

from lrevopt import storage
from lrevopt.paper.claims import Row
from lrevopt.paper.claims.saved_runs import claims_of_all
from lrevopt.paper.figures.registry import FIGURES
from lrevopt.paper.figures.specs import FigureText
from lrevopt.paper.front_page import front_page_of, shipped_runs
from lrevopt.paper.front_page_content import render_front_page
from lrevopt.runs.contents import Run
from lrevopt.runs.pages import Picture

PAPER = "https://arxiv.org/abs/2011.02159"
NUMBERED = [spec for spec in FIGURES if isinstance(spec.number, int)]
SHAPES = FigureText("gallery", "Shapes of updates", "Bent lines clip.")
AWAY = FigureText("transfer", "Performance on other tasks", "Orange is worse.")
LARGEST = 10e6
"""Bytes that the page may have."""


def row(claim, task, outcome, **others) -> Row:
    known = {
        "says": f"The sentence of {claim}.",
        "where": "Figure 3a",
        "statistic": f"statistic of {claim}",
        "threshold": f"threshold of {claim}",
        "value": "",
        "seeds": "",
        "remark": "",
    }
    return Row(claim=claim, task=task, outcome=outcome, **(known | others))


ROWS = [
    row("converge", "rosenbrock", "reproduced", value="0.012 [0.01, 0.02]", seeds="3 of 3"),
    row(
        "converge",
        "mnist",
        "differs",
        says="The sentence of converge. (Not here, says the paper.)",
        value="0.437",
        seeds="1 of 5",
        remark="Noise keeps <b>states</b> & runs apart.",
    ),
    row("clipping", "all", "cannot tell", remark="Too few tasks."),
    row(
        "modes",
        "rosenbrock",
        "reproduced",
        value="0.94",
        remark="Two modes were enough (`x<3.npz`).",
    ),
]


def software(jax: str) -> dict[str, Any]:
    return {"versions": {"jax": jax, "python": "3.11.7"}}


CONTENT: dict[str, Any] = {
    "title": "All <runs> & figures",
    "documents": [("commands", "README.md")],
    "notes": ("MNIST: there is no run.",),
    "claims": ROWS,
    "figures": [Picture(spec, PNG, [f"figures/{spec.name}.npz"]) for spec in NUMBERED],
    "gallery": gallery(),
    "microscope": [Picture(SHAPES, PNG, ["gallery/gallery.csv"]), Picture(AWAY, PNG)],
}


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {
        "rosenbrock": Run.of(
            "rosenbrock",
            settings=software("0.11.0"),
            evaluation=evaluation(diverged=True),
            report=Path("rosenbrock/report.html"),
            mechanisms=mechanisms(3),
            scorecard=scorecard(reason="updates are <signs>"),
        ),
        "linear_regression": Run.of(
            "linear_regression",
            settings=software("0.10.2"),
            evaluation=evaluation(),
            scorecard=scorecard(0.5),
            momentum_mimic=momentum_mimic(),
            meta_dynamics=meta_dynamics(),
        ),
    }


@pytest.fixture(scope="module")
def source(runs) -> str:
    return render_front_page(runs, **CONTENT)


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def words(page: Page) -> str:
    return " ".join(page.text.split())


def links(page: Page) -> list[str]:
    return [link["href"] or "" for link in page.all("a")]


def test_page_is_well_formed_and_fetches_nothing(source, page):
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object")]
    assert page.all("script") == [{}]
    pictures = [image["src"] or "" for image in page.all("img")]
    assert all(picture.startswith("data:image/webp;base64,") for picture in pictures)
    assert [link for link in links(page) if ":" in link] == [PAPER]
    assert re.findall(r"https?://[^\"<\s]+", source) == [PAPER]
    assert "url(" not in source
    assert "@import" not in source


def test_links_within_the_page_lead_somewhere(page):
    anchors = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(set(anchors)) == len(anchors)
    inside = [link.removeprefix("#") for link in links(page) if link.startswith("#")]
    assert inside
    assert set(inside) <= set(anchors)
    assert {spec.name for spec in NUMBERED} <= set(inside)


def test_each_figure_is_there_once_in_order_with_caption_and_alternative_text(page):
    shown = [*NUMBERED, SHAPES, AWAY]
    assert [figure["id"] for figure in page.all("figure")] == [spec.name for spec in shown]
    for spec in shown:
        assert words(page).count(" ".join(spec.caption.split())) >= 1
        assert f"{spec.label}: {spec.title}. How to read it" in words(page)
    texts = [image["alt"] or "" for image in page.all("img")]
    assert texts == [f"{spec.title}. {spec.caption}" for spec in shown]
    assert all(image["width"] and image["height"] for image in page.all("img"))
    assert f"figures/{NUMBERED[0].name}.npz" in links(page)


def test_headline_has_every_task_in_the_papers_order(runs, page):
    evaluated = runs["linear_regression"].evaluation
    means = dict(zip(evaluated.names, evaluated.meta_objectives().mean(axis=1), strict=True))
    best = min(BASELINES, key=lambda name: means[name])
    comparison = evaluated.compare("learned", best)
    shown = [*means.values(), comparison.ratio_of_means]
    text = words(page)
    start, end = (
        text.index("learned optimizer and of each baseline"),
        text.index("Reports, with training"),
    )
    table = text[start:end]
    assert table.index("Linear regression") < table.index("Rosenbrock")
    assert all(f"{value:.3g}" in table for value in shown)
    assert f"{comparison.low:.3g} to".replace("-", "\N{MINUS SIGN}") in table
    assert "2 of 6 diverged" in table
    # Who wins where: all of the interval below 0.
    each = [run.evaluation for run in runs.values()]
    wins = sum(found.compare("learned", best_of(found)).high < 0 for found in each)
    assert f"On {wins} of 2 tasks" in text


def best_of(evaluated):
    scores = dict(zip(evaluated.names, evaluated.meta_objectives().mean(axis=1), strict=True))
    return min(BASELINES, key=lambda name: scores[name])


def test_every_claim_is_shown_with_its_verdict_on_each_task(page):
    text = words(page)
    table = text[text.index("The paper's claim Rosen") : text.index("Where it differs")]
    assert "4 measurements of 3 claims: 2 reproduced, 1 different, 1 undecided" in text
    for claim in ("converge", "clipping", "modes"):
        assert table.count(f"The sentence of {claim}.") == 1
        assert f"statistic of {claim}; threshold of {claim}" in table
    first = table[table.index("The sentence of converge") : table.index("The sentence of clipping")]
    # Columns are Rosenbrock and MNIST, in this order.
    expected = ["✓ reproduced", "0.012 [0.01, 0.02]", "seeds: 3 of 3", "≠ differs", "0.437",
                "seeds: 1 of 5",
                "(Not here, says the paper.)"]  # fmt: skip
    assert all(part in first for part in expected)
    assert [first.index(part) for part in expected] == sorted(map(first.index, expected))
    assert "all tasks together? cannot tell" in table.replace(" ?", "?")
    last = table[table.index("The sentence of modes") :]
    assert last.rstrip().endswith("–"), "the paper does not say it of MNIST"
    across = [cell for cell in page.all("td") if "colspan" in cell]
    assert [cell["colspan"] for cell in across] == ["2"]


def test_remarks_are_escaped_and_those_that_differ_are_open(source, page):
    assert "<b>states</b>" not in source
    assert "Noise keeps <b>states</b> & runs apart." in words(page)
    assert "Two modes were enough (<code>x&lt;3.npz</code>)." in source
    groups = [tag for tag in page.all("details") if tag.get("class") == "remarks"]
    assert ["open" in group for group in groups] == [True, False, False]
    assert page.text.count("All <runs> & figures") == 2  # title and heading


def test_tables_have_headers_and_captions_and_scroll_in_their_own_box(source, page):
    assert len(page.all("table")) == len(page.all("caption")) == 7
    assert all("scope" in header for header in page.all("th"))
    boxes = re.findall(r'<div class="scroll"[^>]*>\s*<table', source)
    assert len(boxes) == len(page.all("table"))


def test_what_appendices_and_versions_say(runs, page):
    mimic, text = runs["linear_regression"].momentum_mimic, words(page)
    assert f"after {mimic.step} meta-steps" in text
    assert f"learning rate {mimic.dominant_learning_rate:.3g}" in text
    assert "0.10.2 (Linear regression); 0.11.0 (Rosenbrock)" in text
    assert text.count("3.11.7") == 1
    energy = runs["rosenbrock"].mechanisms.momentum.energy
    assert f"the best mode explains {100 * energy[0]:.0f} %" in text


def test_scorecards_stand_beside_each_other_and_say_what_is_missing(source, page):
    text = words(page)
    table = text[text.index("Numbers of each learned optimizer") : text.index("Shapes of updates")]
    assert table.index("Linear regression") < table.index("Rosenbrock")
    first = table[table.index("momentum timescale") : table.index("momentum learning rate")]
    assert first.replace(" ", "") == "momentumtimescale0.5updates1updates"
    for label in ("learning rate at rest", "steady-state learning rate"):
        row = table[table.index(label) :]
        assert row.index("x / gradient") < row.index("not availableupdates are <signs>")
    assert "<signs>" not in source
    assert text.count("updates are <signs>") == 2


def test_the_gallery_is_a_table_below_its_figure(page):
    text = words(page)
    table = text[text.index("The gallery in numbers") :]
    order = [
        "Shapes of updates. How to read it",
        "The gallery in numbers",
        "Performance on other tasks. How",
    ]
    assert sorted(order, key=text.index) == order
    row = "momentum0.01yes\N{INFINITY}0.151of60.9(0.1)9.491.210%shifts"
    assert row in table.replace(" ", "")
    assert "Rosenbrock: learning rates tuned on 6 problems" in table
    assert "gallery/gallery.csv" in links(page)


def test_a_page_of_nothing_stands():
    page = Page(render_front_page({}))
    assert page.open == []
    assert "No optimizer has been compared with baselines yet." in words(page)
    assert "No figures were drawn." in words(page)
    assert not page.all("table")


def test_bad_inputs_are_refused(tmp_path):
    foreign = dataclasses.replace(evaluation(), names=("gru", "momentum", "rmsprop", "adam"))
    with pytest.raises(ValueError, match=r"`evaluation` of own must be of 'learned' too, got gru"):
        render_front_page({"own": Run.of("own", evaluation=foreign)})
    with pytest.raises(ValueError, match="`figures` must be PNG"):
        render_front_page({}, figures=[Picture(FIGURES[1], b"GIF89a")])


@pytest.fixture
def results(tmp_path) -> Path:
    """Rosenbrock, all there; MNIST, trained only; two figures."""
    for task, kind in (("rosenbrock", "Rosenbrock"), ("mnist", "MNIST")):
        content = {"task": {"kind": kind}, "versions": {"numpy": np.__version__}}
        storage.save_json(tmp_path / task / storage.SETTINGS, content)
    run = tmp_path / "rosenbrock"
    storage.save_record(run / "evaluation.npz", evaluation())
    (run / "report.html").write_text("a report")
    (tmp_path / "figures").mkdir()
    for name in ("figure_01.png", "figure_16.png"):
        (tmp_path / "figures" / name).write_bytes(PNG)
    (tmp_path / "figures" / "figure_01.npz").write_bytes(b"numbers")
    storage.save_record(run / "scorecard" / "scorecard.npz", scorecard())
    storage.save_record(tmp_path / "gallery" / "gallery.npz", gallery())
    for name in ("gallery/gallery.png", "transfer/figure_sweeps.png"):
        storage.write_atomically(tmp_path / name, PNG)
    return tmp_path


@pytest.mark.long
def test_front_page_of_a_folder_has_what_is_there_and_says_what_is_not(
    results, monkeypatch, capsys
):
    assert call(monkeypatch, "front_page.py", results) == 0
    path = results / "index.html"
    assert capsys.readouterr().out.strip() == str(path)
    assert path.stat().st_size < LARGEST
    page = Page(path.read_text(encoding="utf-8"))
    assert [figure["id"] for figure in page.all("figure")] == [
        "figure_01", "figure_16", "figure_gallery", "figure_sweeps",
    ]  # fmt: skip
    assert "momentum timescale 1 updates" in words(page)
    for sentence in (
        "Linear regression: there is no run.",
        "Rosenbrock: an optimizer is there, not taken apart.",
        "MNIST: an optimizer is there, not compared with tuned baselines and not taken apart.",
        "Figures not drawn: 2, 3, 4,",
    ):
        assert sentence in words(page)
    outside = [link for link in links(page) if not link.startswith("#") and link != PAPER]
    assert set(outside) == {
        "rosenbrock/report.html", "figures/figure_01.npz", "gallery/gallery.npz",
    }  # fmt: skip
    assert all((results / link).is_file() for link in outside)
    written = path.read_bytes()
    front_page_of(results, claims_of_all(results))
    assert path.read_bytes() == written, "the same records give the same page"
    front_page_of(results, ROWS)
    assert "The sentence of converge." in path.read_text(encoding="utf-8")
    assert [run.name for run in shipped_runs(results)] == ["rosenbrock", "mnist"]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`results` must be a folder with a run in .* or mnist"):
        front_page_of(tmp_path)
    assert not list(tmp_path.iterdir())
