"""Records print as tables whose numbers are the record's own; tables become CSV."""

import csv
import html.parser
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic_records import evaluation, interventions, scorecard

import lrevopt as lo
from lrevopt.analysis.linearization import dominant_mode
from lrevopt.studies.scorecard import ENTRIES
from lrevopt.text import Printed, Table, csv_text, in_words, percent, signed_complex


def cells(record: Printed) -> list[list[str]]:
    """Cells of the printed table, split where its rule of dashes is interrupted."""
    lines = repr(record).splitlines()
    place = next(index for index, line in enumerate(lines) if line.startswith("--"))
    starts = [0, *(i + 2 for i in range(len(lines[place])) if lines[place][i : i + 2] == "  ")]
    end = lines.index("", place)
    return [
        [line[start:stop].strip() for start, stop in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines[place + 1 : end]
    ]


class Cells(html.parser.HTMLParser):
    """Text of all table cells."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "td"
        if self.inside:
            self.found.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1] += data


SHARES = [
    (0.0, "0 %"), (0.0123, "1.2 %"), (0.5, "50 %"), (0.994, "99 %"), (0.996, "100 %"),
    (1.0, "100 %"), (12.344, "1234 %"), (-1.5, "\N{MINUS SIGN}150 %"), (1e5, "1e+07 %"),
    (np.inf, "\N{INFINITY} %"), (np.nan, "not available"),
]  # fmt: skip


@pytest.mark.parametrize(("share", "said"), SHARES)
def test_all_of_something_is_a_hundred_percent_with_two_digits(share, said):
    """Two significant digits of 100 are 1e+02."""
    assert percent(share, 2) == said


def test_columns_of_numbers_are_aligned_on_the_right():
    rows = [("plain", "1.5", "2 %"), ("minus", "\N{MINUS SIGN}20", "\N{INFINITY}")]
    text = str(Table("Title", ("name", "x", "y"), rows, ["A note."]))
    assert text.splitlines() == [
        "Title", "", "name     x  y", "-----  ---  ---", "plain  1.5  2 %", "minus  -20  inf", "",
        "A note.",
    ]  # fmt: skip


def test_html_holds_every_cell_and_escapes_it():
    table = Table("<Title>", ("name", "x < y"), [("<script>", "1"), ("a & b", "2")])
    page = table.html()
    assert Cells(page).found == ["<script>", "1", "a & b", "2"]
    assert "<script>" not in page
    assert "<Title>" not in page


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.25 + 0j, "0.25"),
        (0.5 - 0.125j, "0.5 \N{MINUS SIGN} 0.125 i"),
        (complex(np.nan, 1), "not available"),
    ],
)
def test_complex_numbers_have_their_sign(value, said):
    assert signed_complex(value) == said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("LinearRegression", "Linear regression"),
        ("MNIST", "MNIST"),
        ("Rosenbrock", "Rosenbrock"),
        ("MyMLPTask2", "My MLP task2"),
        ("", ""),
    ],
)
def test_names_of_classes_become_titles(kind, said):
    assert in_words(kind) == said


def test_csv_is_what_a_reader_gets_back():
    rows = [["a,b", 0.1, np.float64(1e-300)], ['say "x"', np.inf, 3]]
    text = csv_text(["name", "first", "second"], rows)
    heads, *found = csv.reader(io.StringIO(text))
    assert heads == ["name", "first", "second"]
    assert [[row[0], *map(float, row[1:])] for row in found] == rows
    assert "\r" not in text


MOMENTA = lo.AggregatedMomentum([0.1, 0.02, 0.3], [0.5, 0.95, -0.25])


def test_modes_print_all_their_values_and_mark_the_dominant_one():
    modes = lo.eigenmodes(lo.linearize(MOMENTA, MOMENTA.initial_state()))
    rows = cells(modes)
    assert [row[0] for row in rows] == ["0", "1", "2"]
    np.testing.assert_allclose([float(row[1]) for row in rows], [0.95, 0.5, -0.25])
    np.testing.assert_allclose([float(row[5]) for row in rows], [0.02, 0.1, 0.3])
    # Timescales to four digits.
    expected = -1 / np.log([0.95, 0.5, 0.25])
    np.testing.assert_allclose([float(row[4]) for row in rows], expected, rtol=1e-3)
    # Steady gains 0.02 / 0.05, 0.1 / 0.5 and 0.3 / 1.25.
    assert modes.dominant == dominant_mode(modes) == 0
    assert [row[6] for row in rows] == ["dominant", "", ""]
    assert [row[3] for row in rows] == ["1"] * 3
    assert "sum to 0.42, the effective learning rate" in " ".join(str(modes).split())
    assert "(1 - eigenvalue) to 0.84, the steady-state gain" in " ".join(str(modes).split())


def test_both_modes_of_a_dominant_pair_are_marked():
    turning = jnp.array([[0.9, -0.2, 0.0], [0.2, 0.9, 0.0], [0.0, 0.0, 0.1]])
    optimizer = lo.LinearOptimizer(
        jnp.zeros(3), turning, jnp.array([1.0, 0.0, 1.0]), -jnp.array([1.0, 0.0, 0.1])
    )
    modes = lo.eigenmodes(lo.linearize(optimizer, jnp.zeros(3)))
    marks = {row[1]: row[6] for row in cells(modes)}
    assert marks == {"0.9 + 0.2 i": "dominant", "0.9 - 0.2 i": "dominant", "0.1": ""}


def test_of_many_modes_the_slow_ones_are_printed_and_the_dominant_one_always():
    """Thirty momenta, of which the fastest has nearly all of the gain."""
    momenta = np.linspace(0.95, 0.1, 30)
    rates = np.where(np.arange(30) == 29, 100.0, 1e-3)
    optimizer = lo.AggregatedMomentum(rates, momenta)
    modes = lo.eigenmodes(lo.linearize(optimizer, optimizer.initial_state()))
    rows = cells(modes)
    assert [int(row[0]) for row in rows] == [*range(16), 29]
    assert rows[-1][6] == "dominant"
    assert "13 faster modes are not printed" in " ".join(str(modes).split())


def test_linearizations_print_what_they_add_up_to():
    model = lo.linearize(lo.Momentum(0.1, 0.9), jnp.zeros(1))
    values = {row[0]: row[1] for row in cells(model)}
    assert float(values["spectral radius of J"]) == 0.9
    assert float(values["effective learning rate, -w . B"]) == 0.1
    assert float(values["steady-state gain, -w . (I - J)^-1 B"]) == 1
    drift = lo.linearize(lo.Momentum(0.1, 1.0), jnp.zeros(1))
    assert "not available" in str(drift), "there is no steady state"


class Bistable(lo.AbstractOptimizer):
    """Two stable points at -1 and 1, and a saddle at 0: h' = h + (h - h^3) / 4 + g."""

    readout: jax.Array

    def initial_state(self):
        return jnp.zeros(1)

    def transition(self, state, gradient):
        return state + (state - state**3) / 4 + gradient


def test_fixed_points_print_a_row_each():
    found = lo.find_fixed_points(
        Bistable(jnp.ones(1)), jnp.array([[1.0], [1.2], [0.9], [0.0], [-1.0], [-1.1]])
    )
    rows = cells(found)
    assert [int(row[1]) for row in rows] == [3, 2, 1]
    assert [row[5] for row in rows] == ["(1)", "(-1)", "(0)"]
    assert [row[4] for row in rows] == ["yes", "yes", "no"]
    np.testing.assert_allclose([float(row[3]) for row in rows], [0.5, 0.5, 1.25], rtol=1e-5)
    assert str(found).startswith("Fixed points at gradient 0: 3 distinct, from 6 of 6 starts\n")


class Drifting(Bistable):
    """Moves on for ever."""

    def transition(self, state, gradient):
        return state + 1 + gradient


def test_searches_that_reach_nothing_say_so():
    found = lo.find_fixed_points(Drifting(jnp.ones(1)), jnp.zeros((2, 1)))
    assert "0 distinct, from 0 of 2 starts" in str(found)
    assert "2 starts reached no fixed point, but points with speeds from 0.5 to 0.5." in str(found)


def test_comparisons_and_evaluations_print_their_numbers():
    record = evaluation(diverged=True)
    pair = record.compare("learned", "momentum")
    values = {row[2]: row[1] for row in cells(pair)}
    for name in ("difference", "low", "high", "ratio_of_means", "problems", "diverged"):
        # Four digits.
        np.testing.assert_allclose(float(values[f".{name}"]), getattr(pair, name), rtol=1e-3)
    rows = {row[0]: row[1:] for row in cells(record)}
    assert list(rows) == list(record.names)
    means = record.mean_scores()
    np.testing.assert_allclose([float(row[0]) for row in rows.values()],
                               list(means.values()), rtol=1e-3)  # fmt: skip
    assert rows["adam"][0] == "inf"
    assert [row[2] for row in rows.values()] == ["0", "0", "0", "2"]


def test_scorecards_print_every_number_and_why_some_are_missing():
    card = scorecard(reason="nothing rests")
    rows = {row[2]: row[1] for row in cells(card)}
    assert list(rows) == [*(f".{name}" for name in ENTRIES), ".momentum_fit()", ".fixed_points"]
    assert rows[".timescale"] == "1 updates"
    assert rows[".energy_of_one"] == "500 %"
    assert rows[".rate"] == rows[".gain"] == "not available [1]"
    assert str(card).endswith("\n[1] nothing rests.")


def test_interventions_print_costs_and_what_is_left_out():
    record = interventions()
    rows = cells(record)
    assert [row[0] for row in rows] == ["original", *record.names]
    np.testing.assert_allclose([float(row[5]) for row in rows[1:]], np.exp(record.log_ratios),
                               rtol=0.01)  # fmt: skip
    assert [int(row[-1]) for row in rows[1:]] == record.diverged.tolist()
    assert str(record).endswith(f"Left out, {record.omitted[0]}")


RECORDS: dict[str, Printed] = {
    "modes": lo.eigenmodes(lo.linearize(MOMENTA, MOMENTA.initial_state())),
    "linearization": lo.linearize(MOMENTA, MOMENTA.initial_state()),
    "fixed points": lo.find_fixed_points(MOMENTA, MOMENTA.initial_state()[None]),
    "evaluation": evaluation(),
    "comparison": evaluation().compare("learned", "adam"),
    "scorecard": scorecard(),
    "interventions": interventions(),
}


@pytest.mark.parametrize("name", RECORDS)
def test_notebooks_show_what_consoles_print(name):
    record = RECORDS[name]
    assert repr(record) == str(record)
    assert repr(record).isascii()
    page = record._repr_html_()
    assert page is not None
    assert Cells(page).found == [cell for row in record.table().rows for cell in row]


def test_a_record_that_was_mapped_prints_its_fields():
    shapes = jax.tree.map(np.shape, RECORDS["modes"])
    assert repr(shapes).startswith("Modes(")
    assert shapes._repr_html_() is None
