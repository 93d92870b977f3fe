"""What reports and the front page share: the chart at their head, tables that sort and become
cards on a telephone, figures that open large.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, find_chromium, opened
from synthetic_records import BASELINES, evaluation
from test_front_page import CONTENT, runs
from test_report import FIGURES_SHOWN, made_run, rendered

from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.paper.front_page_content import render_front_page
from lrevopt.runs.summary import relative_scores, summary

needs_browser = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium or Chrome on this machine (Debian: chromium)"
)

__all__ = ["runs"]  # a fixture


def scored(**rows: list[float]) -> Evaluation:
    """Optimizers whose meta-objective on each problem is given."""
    losses = np.array([[[1.0, 2 * score - 1] for score in row] for row in rows.values()])
    return Evaluation(tuple(rows), losses)


# The chart


def test_scores_are_relative_to_the_best_baseline():
    """Closed form: constant differences have an interval of no width."""
    found = scored(learned=[0.3, 0.5], momentum=[0.4, 0.6], adam=[0.8, 1.0])
    ((name, *learned), (other, *adam)) = relative_scores(found)
    assert (name, other) == ("learned", "adam")
    np.testing.assert_allclose(learned, -20.0, rtol=1e-12)
    np.testing.assert_allclose(adam, 80.0, rtol=1e-12)
    assert relative_scores(scored(learned=[0.3, 0.5])) == []


def test_scores_are_those_of_the_paired_comparison():
    found = evaluation()
    best = found.best_beside("learned")
    assert best is not None
    mean = found.mean_scores()[best]
    for name, middle, low, high in relative_scores(found):
        compared = found.compare(name, best)
        np.testing.assert_allclose(
            np.array([middle, low, high]) / 100,
            np.array([compared.difference, compared.low, compared.high]) / mean,
        )
        assert low <= middle <= high
        np.testing.assert_allclose(compared.ratio_of_means, 1 + middle / 100)


def test_marks_stand_where_their_numbers_are():
    """Places along the strip are an affine map of percent, the same for all tasks."""
    first = scored(learned=[0.3, 0.5], momentum=[0.4, 0.6], adam=[0.6, 0.8])
    second = scored(learned=[0.5, 0.5], momentum=[0.5, 0.5], adam=[5.0, 5.0])
    drawn = summary([("One", "one.html", first), ("Two", "", second)])
    assert drawn is not None
    rows = [row for group in drawn["groups"] for row in group["rows"]]
    assert [row["words"].partition(" (")[0] for row in rows] == [
        "\N{MINUS SIGN}20 %", "+40 %", "0", "+900 %",
    ]  # fmt: skip
    places = np.array([row["place"] for row in rows[:3]])
    slope = (places[1] - places[0]) / 60
    np.testing.assert_allclose(places[2], places[0] + 20 * slope, atol=0.02)
    np.testing.assert_allclose(drawn["zero"], places[2], atol=0.02)
    assert [row["beyond"] for row in rows] == [False, False, False, True]
    assert drawn["cut"]
    for place, label in drawn["ticks"]:
        percent = float(label.removesuffix(" %").replace("\N{MINUS SIGN}", "-"))
        np.testing.assert_allclose(place, drawn["zero"] + percent * slope, atol=0.02)
    assert any(label == "0" for _, label in drawn["ticks"])


def test_what_diverged_says_so():
    drawn = summary([("One", "", scored(learned=[0.3, np.inf], momentum=[0.4, 0.6]))])
    assert drawn is not None
    assert drawn["groups"][0]["rows"][0]["words"] == "diverged"
    # Without a baseline that stayed finite there is nothing to compare with.
    assert summary([("One", "", scored(learned=[0.3, 0.5], momentum=[0.4, np.inf]))]) is None


# In a browser


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    path.write_text(rendered(made_run(), figures=FIGURES_SHOWN[:2]))
    with opened(path) as page:
        page.wait_for("document.readyState === 'complete'")
        yield page


def rows_of(page: Page, selector: str) -> list[list[str]]:
    return page.evaluate(
        f"[...document.querySelectorAll('{selector} tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )


@needs_browser
def test_a_click_on_a_head_sorts_up_down_and_back(report):
    before = rows_of(report, "#comparison")
    values = [float(row[1].partition(" ")[0]) for row in before]
    assert len(set(values)) == len(BASELINES) + 1
    head = "#comparison thead th:nth-child(2)"
    state = f"document.querySelector('{head}').getAttribute('aria-sort')"
    for expected, order in (("ascending", 1), ("descending", -1)):
        report.click(f"{head} button")
        assert report.evaluate(state) == expected
        now = [float(row[1].partition(" ")[0]) for row in rows_of(report, "#comparison")]
        assert now == sorted(values)[::order]
    report.click(f"{head} button")
    assert report.evaluate(state) is None
    assert rows_of(report, "#comparison") == before
    # Words by their letters; what is missing comes last, both ways.
    report.click("#comparison thead th:first-child button")
    names = [row[0] for row in rows_of(report, "#comparison")]
    assert names == sorted(names)
    for _ in range(2):
        report.click("#comparison thead th:last-child button")
        assert rows_of(report, "#comparison")[-1][-1] == ""
    report.click("#comparison thead th:last-child button")
    assert report.errors == []


@needs_browser
def test_a_figure_opens_large_and_closes_by_key(report):
    picture = "document.querySelector('dialog.large img')"
    width = "document.querySelector('#figures img').getBoundingClientRect().width"
    source = report.evaluate("document.querySelectorAll('#figures img')[1].src")
    report.evaluate("document.querySelectorAll('#figures .enlarge')[1].id = 'second'")
    report.click("#second")
    assert report.evaluate("document.querySelector('dialog.large').open")
    assert report.evaluate(f"{picture}.src") == source
    assert report.evaluate(f"{picture}.getBoundingClientRect().width >= {width}")
    report.key("Escape", 27)
    assert not report.evaluate("document.querySelector('dialog.large').open")
    # A click on the picture does the same, and the button closes it.
    report.click("#figures img")
    assert report.evaluate("document.querySelector('dialog.large').open")
    report.click("dialog.large button")
    assert not report.evaluate("document.querySelector('dialog.large').open")


def outside(page: Page, selector: str) -> list[str]:
    """Cells, by their text, that are not drawn between the edges of the window."""
    return page.evaluate(
        f"[...document.querySelectorAll('{selector}')].filter(e => {{"
        "const b = e.getBoundingClientRect(); const empty = e.textContent.trim() === '';"
        "return !empty && (b.width === 0 || b.left < 0 || b.right > innerWidth); })"
        ".map(e => e.textContent)"
    )


@needs_browser
def test_a_telephone_shows_every_cell_with_its_head(report):
    report.resize(390, 800)
    report.settle()
    assert report.evaluate("document.documentElement.scrollWidth") == 390
    assert report.evaluate("document.querySelectorAll('table').length") > 3
    report.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert outside(report, "tbody td, tbody th, .summary .value, .summary .name") == []
    label = "getComputedStyle(document.querySelector('#comparison tbody td'), '::before').content"
    assert report.evaluate(label).strip('"').startswith("Mean")
    # Sorting stays within reach.
    values = [row[1] for row in rows_of(report, "#comparison")]
    report.evaluate(
        "(() => { const s = document.querySelector('#comparison .sorter select');"
        "s.value = '1 descending'; s.dispatchEvent(new Event('change')); })()"
    )
    assert report.evaluate(
        "document.querySelector('#comparison .sorter').getBoundingClientRect().width > 0"
    )
    assert [row[1] for row in rows_of(report, "#comparison")] == sorted(
        values, key=lambda text: -float(text.partition(" ")[0])
    )
    report.resize(1280, 900)


@pytest.mark.long
@needs_browser
def test_the_front_page_on_a_telephone(runs, tmp_path: Path):
    path = tmp_path / "index.html"
    path.write_text(render_front_page(runs, **CONTENT))
    with opened(path, 390, 800) as page:
        page.wait_for("document.readyState === 'complete'")
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        page.settle()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert outside(page, "tbody td, tbody th, .summary .value, .summary .name") == []
        shown = page.evaluate("document.querySelector('#summary').innerText")
        assert all(title in shown for title in ("Rosenbrock", "Linear regression"))
        assert page.errors == []
        assert all(request.startswith(("file:", "data:")) for request in page.requests)
