"""The interactive page: its numbers against the analyses that they are made of, the file, and the
page in a browser.
"""

import html
import html.parser
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from browser import Page, find_chromium, opened
from jaxtyping import Array, Float
from tables import OPTIMIZERS, NoisyQuadratic, Quadratic, QuadraticProblem, mostly_long

import lrevopt as lo
from lrevopt.__main__ import main
from lrevopt.analysis.run_moments import (
    MOST_MODES,
    RunMoments,
    measure_run_moments,
    selected_steps,
)
from lrevopt.plots.explore.page import ExplorePage, warnings
from lrevopt.plots.explore.panels import rate_beyond
from lrevopt.tasks import AbstractTask

KEY = jr.key(3)

PANELS = ("loss", "rates", "updates", "modes", "density")


class Grouped(AbstractTask):
    """A quadratic whose parameters have two groups; the third parameter has no gradient."""

    curvature: Float[Array, " dim"] = eqx.field(
        default_factory=lambda: jnp.array([1.0, 0.5, 0.0, 0.1, 0.02, 0.004])
    )

    @property
    def parameter_groups(self):
        return {"layer.weight": slice(0, 4), "layer.bias": slice(4, 6)}

    def sample(self, key):
        return QuadraticProblem(self.curvature, jr.normal(key, (6,)))

    def loss(self, problem, parameters, step):
        return 0.5 * jnp.sum(problem.curvature * parameters**2)


def problem_of(task: AbstractTask) -> object:
    return task.sample(jr.split(KEY)[0])


# The numbers


CASES = {name: OPTIMIZERS[name] for name in ("clipped", "adam", "gru", "modes")} | {
    "optax": lambda rate: lo.from_optax(optax.adam(rate)),
    "with x": lambda rate: lo.from_optax(optax.adamw, learning_rate=rate, weight_decay=0.5),
}
"""A knee, roots at 0, a trained start, complex modes, step counters, and decay of x."""


@pytest.mark.parametrize("name", mostly_long(CASES, "adam", "with x"))
def test_numbers_are_those_of_the_separate_analyses(name):
    """States, gradients and losses of `unroll`; updates that `unroll` makes; rates and modes."""
    optimizer = CASES[name](0.1)
    task = NoisyQuadratic(jnp.array([[1.0, -1.0], [-1.0, 0.5], [0.0, 2.0]]))
    found = measure_run_moments(optimizer, task, key=KEY, steps=9, moments=6)
    run = lo.unroll(optimizer, task, problem_of(task), 10)
    steps = found.steps
    assert found.parameters == ("x[0]", "x[1]")
    # Another program computes the same: round-off over ten updates.
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(found.losses, run.losses[:10], **near)
    np.testing.assert_allclose(found.states, run.states[steps], **near)
    np.testing.assert_allclose(found.gradients, run.gradients[steps], **near)
    moved = np.diff(run.parameters, axis=0)[steps]
    np.testing.assert_allclose(found.met_updates, moved, **near)
    taker = optimizer
    for moment, parameter in ((0, 0), (2, 1), (-1, 0)):
        state = found.states[moment, parameter]
        optimizer = lo.at_parameter(taker, float(run.parameters[steps[moment], parameter]))
        grid = found.ranges[moment] * np.linspace(-1, 1, found.updates.shape[-1])
        expected = lo.update_function(optimizer, state, grid)
        np.testing.assert_allclose(found.updates[moment, parameter], expected, **near)
        whole = found.whole_range * np.linspace(-1, 1, found.updates.shape[-1])
        expected = lo.update_function(optimizer, state, whole)
        np.testing.assert_allclose(found.whole_updates[moment, parameter], expected, **near)
        rate = float(lo.effective_learning_rate(optimizer, state))
        np.testing.assert_allclose(found.rates[moment, parameter], rate, rtol=1e-12)
        eigenvalues = np.linalg.eigvals(lo.linearize(optimizer, state).recurrent)
        sizes = np.sort(np.abs(eigenvalues))[::-1]
        np.testing.assert_allclose(
            np.abs(found.eigenvalues[moment, parameter]), sizes, rtol=1e-6, atol=1e-9
        )
        # Learning rates of modes sum to the effective one, wherever modes exist.
        rates = found.mode_rates[moment, parameter]
        if np.isfinite(rates).all():
            np.testing.assert_allclose(rates.sum(), rate, rtol=1e-6, atol=1e-9)


def test_momentum_in_closed_form():
    """One mode: its eigenvalue is the momentum, its rate the learning rate, always."""
    task = Quadratic(jnp.array([1.0, 0.2]), jnp.array([1.0, -2.0]))
    found = measure_run_moments(lo.Momentum(0.25, 0.5), task, key=KEY, steps=20)
    np.testing.assert_allclose(found.eigenvalues, 0.5, rtol=1e-12)
    np.testing.assert_allclose(found.mode_rates, 0.25, rtol=1e-12)
    np.testing.assert_allclose(found.rates, 0.25, rtol=1e-12)
    velocities = found.states[..., 0]
    gradients = found.ranges[:, None, None] * np.linspace(-1, 1, found.updates.shape[-1])
    np.testing.assert_allclose(
        found.updates, -0.25 * (0.5 * velocities[..., None] + gradients), atol=1e-15
    )
    assert found.diverged_at is None


def test_gradients_are_counted_over_all_parameters():
    """Histograms against NumPy's on the gradients of the same run, group by group."""
    task, optimizer = Grouped(), lo.Momentum(0.3, 0.5)
    found = measure_run_moments(optimizer, task, key=KEY, steps=30, parameters=4)
    gradients = np.abs(lo.unroll(optimizer, task, problem_of(task), 31).gradients[found.steps])
    assert found.group_names == ("layer.weight", "layer.bias")
    assert found.group_sizes == (4, 2)
    assert found.groups == (0, 0, 1, 1)
    assert [name.partition("[")[0] for name in found.parameters] == [
        "layer.weight", "layer.weight", "layer.bias", "layer.bias",
    ]  # fmt: skip
    np.testing.assert_array_equal(found.total_zeros, 1)
    np.testing.assert_array_equal(found.zeros, np.array([1, 0])[None].repeat(len(found.steps), 0))
    np.testing.assert_array_equal(found.counts.sum(axis=1), found.total_counts)
    for moment, sizes in enumerate(gradients):
        logs = np.log10(sizes[sizes > 0])
        counts, _ = np.histogram(logs, found.log10_edges)
        np.testing.assert_array_equal(found.total_counts[moment], counts)
        assert counts.sum() == 5
    # Sampled parameters are those that their names say.
    places = [int(name.rstrip("]").rpartition("[")[2]) for name in found.parameters]
    columns = [place + 4 * group for place, group in zip(places, found.groups, strict=True)]
    np.testing.assert_allclose(np.abs(found.gradients), gradients[:, columns], rtol=1e-12)


def test_a_near_defective_jacobian_has_eigenvalues_without_rates():
    block = lo.LinearOptimizer(
        fixed_point=jnp.zeros(2), recurrent=jnp.array([[0.5, 1.0], [0.0, 0.5]]),
        inputs=jnp.array([0.0, 1.0]), readout=-0.1 * jnp.array([1.0, 0.0]), start=jnp.zeros(2),
    )  # fmt: skip
    found = measure_run_moments(block, Grouped(), key=KEY, steps=3)
    np.testing.assert_allclose(found.eigenvalues, 0.5, rtol=1e-7)
    assert np.isnan(found.mode_rates).all()
    assert f"In {found.rates.size} of {found.rates.size} states the Jacobian" in "".join(
        warnings(found)
    )


def test_a_run_that_diverges_ends_where_it_does_and_the_page_says_so():
    """The loss is a power of the growth: it overflows at a step that can be computed."""
    task = Quadratic(jnp.array([1e3]), jnp.array([1.0]))
    found = measure_run_moments(lo.GradientDescent(1.0), task, key=KEY, steps=100, moments=10)
    log_losses = np.log10(500) + 2 * np.log10(999) * np.arange(101)
    first = int(np.argmax(log_losses > np.log10(np.finfo(float).max)))
    assert 0 < first < 100
    assert found.diverged_at == first
    assert found.steps[-1] == first - 1
    assert len(found.losses) == first
    assert all(np.isfinite(np.asarray(part)).all() for part in (found.losses, found.updates))
    said = f"This run diverged: after {first} of 100 updates"
    assert said in ExplorePage(found, "diverging").html


def test_many_modes_are_cut_to_the_slowest():
    count = MOST_MODES + 8
    optimizer = lo.LinearOptimizer(
        fixed_point=jnp.zeros(count), recurrent=jnp.diag(jnp.linspace(0.1, 0.9, count)),
        inputs=jnp.ones(count), readout=jnp.full(count, -0.01), start=jnp.zeros(count),
    )  # fmt: skip
    found = measure_run_moments(optimizer, Grouped(), key=KEY, steps=2, parameters=2)
    np.testing.assert_allclose(
        found.eigenvalues[0, 0], np.linspace(0.1, 0.9, count)[::-1][:MOST_MODES], rtol=1e-6
    )
    assert found.state_size == count


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (1, 48), (7, 48), (200, 48), (10_000, 60)])
def test_moments_are_few_ordered_and_have_both_ends(steps, count):
    at = selected_steps(steps, count)
    assert at[0] == 0
    assert at[-1] == steps
    assert (np.diff(at) > 0).all()
    assert len(at) <= max(count, 2) + 1
    if steps < count // 2:
        np.testing.assert_array_equal(at, np.arange(steps + 1))


def test_bad_arguments_are_refused(as_user):
    arguments: dict[str, Any] = {"key": KEY, "steps": 2}
    with pytest.raises(ValueError, match="`parameters` must be at most 12, got 13."):
        lo.explore(lo.Adam(0.1), Grouped(), **arguments, parameters=13)
    with pytest.raises(ValueError, match="`moments` must be an integer of at least 1, got 0."):
        lo.explore(lo.Adam(0.1), Grouped(), **arguments, moments=0)
    broken = Grouped(jnp.full(6, jnp.nan))
    with pytest.raises(ValueError, match="`task` must have a finite loss and gradient at"):
        lo.explore(lo.Adam(0.1), broken, **arguments)


# The file


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[RunMoments, Path]:
    """Adam on a task with groups: two parameters of each."""
    made = lo.explore(
        lo.Adam(0.1), Grouped(), key=KEY, steps=30, moments=12, parameters=4, title="<Adam> & co"
    )
    folder = tmp_path_factory.mktemp("explore")
    return made.numbers, made.save(folder / "page.html")


class Elements(html.parser.HTMLParser):
    """Elements of a page with their attributes, and the text of those with an id."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or ""

    def handle_data(self, data):
        self.texts[self._inside] = self.texts.get(self._inside, "") + data


def test_the_file_is_self_contained_and_holds_the_numbers(page):
    numbers, path = page
    text = path.read_text()
    elements = Elements(text)
    assert path.stat().st_size < 3e6
    for _, attributes in elements.found:
        assert not attributes.keys() & {"src", "href", "srcset", "data", "action"}
    assert not re.search(r"@import|url\(", text[: text.index("</style>")])
    assert text.count("</script>") == sum(tag == "script" for tag, _ in elements.found) == 4
    assert "<h1>&lt;Adam&gt; &amp; co</h1>" in text
    (slider,) = (a for tag, a in elements.found if tag == "input")
    assert (slider["type"], slider["min"], slider["max"]) == (
        "range", "0", str(len(numbers.steps) - 1),
    )  # fmt: skip
    held = json.loads(elements.texts["numbers"])
    assert held["parameters"] == list(numbers.parameters)
    assert held["steps"] == numbers.steps.tolist()
    # Five significant digits.
    for name in ("gradients", "rates", "updates", "whole_updates", "met_updates", "ranges"):
        np.testing.assert_allclose(held[name], getattr(numbers, name), rtol=5e-5)
    modes = np.array(held["modes"], float)
    np.testing.assert_allclose(modes[..., 0], numbers.eigenvalues.real, rtol=5e-5)
    np.testing.assert_allclose(modes[..., 3], numbers.mode_rates.imag, rtol=5e-5)
    np.testing.assert_array_equal(held["total_counts"], numbers.total_counts)


def test_the_command_goes_through_as_many_steps_as_are_asked_for(tmp_path, capsys):
    output = tmp_path / "own.html"
    words = ["optax:sgd", "--kwargs", "learning_rate=0.001", "--task", "rosenbrock",
             "--steps", "20", "--output", str(output)]  # fmt: skip
    assert main(["explore", *words, "--moments", "5"]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    held = json.loads(Elements(output.read_text()).texts["numbers"])
    assert held["steps"] == selected_steps(20, 5).tolist()
    assert len(held["steps"]) < len(selected_steps(20, 48))


def test_a_notebook_shows_the_same_page(page):
    numbers, path = page
    frame = ExplorePage(numbers, "<Adam> & co")._repr_html_()
    found = re.search(r'srcdoc="([^"]*)"', frame)
    assert found is not None
    assert html.unescape(found[1]) == path.read_text()


def test_a_learning_rate_off_the_axis_is_told():
    """At its start Adam divides by epsilon alone: learning rate 0.1 / 1e-8."""
    task = Quadratic(jnp.array([1.0, 0.2]), jnp.array([1.0, -2.0]))
    adam = measure_run_moments(lo.Adam(0.1), task, key=KEY, steps=9)
    beyond = rate_beyond(adam)
    assert beyond is not None
    np.testing.assert_allclose(beyond, 1e7, rtol=1e-6)
    assert "up to 1e+07, lie beyond" in ExplorePage(adam, "Adam").html
    assert rate_beyond(measure_run_moments(lo.Momentum(0.1, 0.5), task, key=KEY, steps=3)) is None


def test_every_panel_compiles(page):
    """Vega-Lite's compiler takes each panel, and each has the data that the script fills."""
    import vl_convert

    panels = json.loads(Elements(page[1].read_text()).texts["specifications"])
    assert panels.keys() == set(PANELS)
    for specification in panels.values():
        compiled = vl_convert.vegalite_to_vega(specification)
        assert "points" in {data["name"] for data in compiled["data"]}
        signals = {signal["name"] for signal in compiled["signals"]}
        assert {param["name"] for param in specification.get("params", [])} <= signals


def test_the_package_imports_without_the_plotting_libraries():
    command = "import sys, lrevopt; print({'altair', 'vl_convert', 'seaborn'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# In a browser

needs_browser = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium or Chrome on this machine (Debian: chromium)"
)


@pytest.fixture(scope="module")
def browser(page) -> Iterator[Page]:
    with opened(page[1]) as shown:
        shown.wait_for("document.body?.dataset.ready === 'true'")
        yield shown


def shown_values(browser: Page) -> list[list[str]]:
    """Rows of the table of values."""
    rows = "[...document.querySelectorAll('#values tbody tr')]"
    return browser.evaluate(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent))")


def as_number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def marks(browser: Page, panel: str) -> list[str]:
    """Shapes of everything drawn in a panel."""
    return browser.evaluate(
        f"[...document.querySelectorAll('#{panel} path')].map(p => "
        "[p.getAttribute('transform'), p.getAttribute('d')].join(' '))"
    )


@needs_browser
def test_the_slider_moves_every_panel(page, browser):
    numbers, _ = page
    browser.evaluate("document.getElementById('moment').focus()")
    browser.key("Home", 36)
    before = {
        name: marks(browser, name) for name in ("loss", "rates", "updates", "modes", "density")
    }
    for expected in range(1, 4):
        browser.key("ArrowRight", 39)
        assert browser.evaluate("Number(document.getElementById('moment').value)") == expected
    said = browser.evaluate("document.getElementById('where').textContent")
    step = int(numbers.steps[3])
    assert f"After {step} of 30 updates" in said
    assert as_number(said.rpartition(" ")[2]) == pytest.approx(numbers.losses[step], rel=1e-3)
    after = {name: marks(browser, name) for name in before}
    assert all(before[name] != after[name] for name in before)
    for row, name, gradient, update, rate, eigenvalue in zip(
        shown_values(browser), numbers.parameters, numbers.gradients[3], numbers.met_updates[3],
        numbers.rates[3], numbers.eigenvalues[3, :, 0], strict=True,
    ):  # fmt: skip
        assert row[0] == name
        values = [as_number(text) for text in row[1:5]]
        np.testing.assert_allclose(values, [gradient, update, rate, eigenvalue.real], rtol=1e-3)
    browser.key("End", 35)
    assert "After 30 of 30 updates" in browser.evaluate(
        "document.getElementById('where').textContent"
    )
    # Nothing was asked for but the file itself, and nothing went wrong.
    assert len(browser.requests) == 1
    assert browser.requests[0].startswith("file:")
    assert browser.errors == []


@needs_browser
def test_a_dot_tells_its_values_and_a_click_follows_its_parameter(page, browser):
    numbers, _ = page
    dots = "#updates .mark-symbol:last-of-type path"
    browser.evaluate(f"[...document.querySelectorAll({dots!r})].at(-1).id = 'dot'")
    where = browser.middle_of("#dot")
    browser.pointer(*where)
    browser.wait_for("document.querySelector('.vg-tooltip.visible') !== null")
    tip = browser.evaluate("document.querySelector('.vg-tooltip').textContent")
    named = next(name for name in numbers.parameters if name in tip)
    assert "gradient" in tip
    assert "update" in tip
    browser.pointer(*where, click=True)
    pressed = "[...document.querySelectorAll('#chips [aria-pressed=true]')].map(b => b.textContent)"
    assert browser.evaluate(pressed) == [named]
    for panel, faint in (("rates", "0.12"), ("updates", "0.12"), ("modes", "0.08")):
        drawn = browser.evaluate(
            f"[...document.querySelectorAll('#{panel} path')].map(p => p.getAttribute('opacity'))"
        )
        assert faint in drawn
    faint_rows = browser.evaluate("document.querySelectorAll('#values tr.faint').length")
    assert faint_rows == len(numbers.parameters) - 1
    # The same name again shows all.
    browser.pointer(*where, click=True)
    assert browser.evaluate(pressed) == []


@needs_browser
def test_a_group_is_followed_with_its_own_histogram(page, browser):
    numbers, _ = page
    outlined = "document.querySelectorAll('#density path[fill-opacity=\"0.35\"]').length"
    button = "[...document.querySelectorAll('#chips button')].find(b => b.textContent === {!r})"
    browser.evaluate(button.format("all of layer.bias") + ".id = 'bias'")
    browser.click("#bias")
    moment = browser.evaluate("Number(document.getElementById('moment').value)")
    assert browser.evaluate(outlined) == np.count_nonzero(numbers.counts[moment, 1])
    faint = browser.evaluate("document.querySelectorAll('#values tr.faint').length")
    assert faint == numbers.groups.count(0)
    browser.click("#bias")


@needs_browser
def test_a_click_on_the_loss_goes_there(page, browser):
    numbers, _ = page
    left, top, right = browser.evaluate(
        "(() => { const b = document.querySelector('#loss .background').getBoundingClientRect();"
        "return [b.left, b.top + 5, b.right]; })()"
    )
    browser.pointer(left + 0.5 * (right - left), top, click=True)
    nearest = int(np.argmin(np.abs(numbers.steps - 15)))
    assert browser.evaluate("Number(document.getElementById('moment').value)") == nearest


@needs_browser
def test_nothing_is_cut_off_at_the_width_of_a_telephone(page, browser):
    browser.resize(390, 800)
    browser.settle()
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    edges = browser.evaluate(
        "[...document.querySelectorAll('.chart svg, #values, .controls, #chips button')].map(e => {"
        "const b = e.getBoundingClientRect(); return [b.left, b.right]; })"
    )
    assert all(left >= 0 and right <= 390 for left, right in edges)
    # One axis unit is as long up as across: the unit circle stays a circle.
    box = browser.evaluate(
        "(() => { const b = document.querySelector('#modes .mark-line path').getBBox();"
        "return [b.width, b.height]; })()"
    )
    assert box[0] == pytest.approx(box[1], rel=0.01)
    browser.resize(1280, 900)
