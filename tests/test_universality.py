"""Universality: distances between maps, the plane, shares of seeds, and the whole study, tiny."""

import dataclasses
import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float
from scipy import stats
from tables import awake, mostly_long

import lrevopt as lo
from lrevopt import storage
from lrevopt.__main__ import main
from lrevopt.analysis.spacing import evenly_spaced
from lrevopt.inner_loop import sizes
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.paper import commands, experiments
from lrevopt.paper import universality as universality_module
from lrevopt.paper.population_members import (
    Entrants,
    Measuring,
    asked_claims,
    measure_member,
)
from lrevopt.plots.style import render
from lrevopt.plots.universality import CLOSE, _places_of_names, figure_map, figure_shares
from lrevopt.runs.command_line import parse_by_task
from lrevopt.runs.tune import tune_baselines
from lrevopt.studies.universality import (
    CELLS,
    Share,
    Universality,
    plane_map,
    response_distances,
)
from lrevopt.studies.universality.cells import TanhCell, factory_of
from lrevopt.studies.universality.record import TEXTBOOK, conclusion, wilson_interval
from lrevopt.studies.universality.tables import (
    kind_distances,
    members_table,
    shares_table,
    universality_markdown,
    verdicts_table,
)
from lrevopt.tuning.settings import Tuning

GRADIENTS = np.random.default_rng(0).normal(size=(5, 43)) * 10.0 ** -np.arange(5)[:, None]


class Changed(AbstractOptimizer):
    """The same optimizer in other coordinates, `s = T h`."""

    optimizer: AbstractOptimizer
    matrix: Float[Array, "state state"]

    @property
    def readout(self) -> Float[Array, " state"]:
        return jnp.linalg.solve(self.matrix.T, self.optimizer.readout)

    def initial_state(self) -> Float[Array, " state"]:
        return self.matrix @ self.optimizer.initial_state()

    def transition(
        self, state: Float[Array, " state"], gradient: Float[Array, ""]
    ) -> Float[Array, " state"]:
        own = jnp.linalg.solve(self.matrix, state)
        return self.matrix @ self.optimizer.transition(own, gradient)


def recurrent(cell: str, seed: int = 0) -> lo.RecurrentOptimizer:
    return awake(CELLS[cell](3, key=jr.key(seed), input_scale=0.5, output_scale=0.1), 0.1)


@pytest.mark.parametrize("cell", mostly_long(CELLS, "gru"))
def test_distances_do_not_depend_on_coordinates_of_the_state(cell):
    one = recurrent(cell)
    size = one.start.size
    matrix = jnp.eye(size) + 0.3 * jr.normal(jr.key(1), (size, size))
    found = response_distances(
        {"a": one, "changed": Changed(one, matrix), "b": lo.Momentum(0.1, 0.9)}, GRADIENTS
    )
    # Round-off of 43 updates with matrices of condition below 100.
    np.testing.assert_allclose(found[0, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(found[0, 2], found[1, 2], rtol=1e-10)
    assert found[0, 2] > 0.1


def test_distances_are_a_metric_without_a_unit():
    each: dict[str, AbstractOptimizer] = {cell: recurrent(cell) for cell in CELLS}
    each |= {"momentum": lo.Momentum(0.1, 0.9), "adam": lo.Adam(0.1), "far": lo.Momentum(1e4, 0.9)}
    found = response_distances(each, GRADIENTS)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diagonal(found), 0.0)
    assert (found[~np.eye(len(each), dtype=bool)] > 0).all()
    assert (found <= np.sqrt(2) + 1e-12).all()
    for a, b, c in itertools.permutations(range(len(each)), 3):
        assert found[a, c] <= found[a, b] + found[b, c] + 1e-12
    # Twice the gradients and half the updates for each: the same picture.
    linear = {"a": lo.Momentum(0.1, 0.9), "b": lo.Momentum(0.1, 0.5)}
    np.testing.assert_allclose(
        response_distances(linear, GRADIENTS), response_distances(linear, 1e6 * GRADIENTS),
        rtol=1e-12,
    )  # fmt: skip


class Growing(AbstractOptimizer):
    """Updates that grow by a factor with every step, without end: at last to infinity."""

    factor: float

    @property
    def readout(self) -> Float[Array, "1"]:
        return jnp.array([-1.0])

    def initial_state(self) -> Float[Array, "1"]:
        return jnp.ones(1)

    def transition(self, state: Float[Array, "1"], gradient: Float[Array, ""]) -> Float[Array, "1"]:
        return self.factor * state + gradient


@pytest.mark.parametrize("window", [None, 10])
@pytest.mark.parametrize(
    ("third", "finite"),
    [(Growing(1e4), True), (Growing(1e10), False), (lo.Momentum(1e-200, 0.9), True)],
)
def test_distances_of_two_do_not_depend_on_a_third(third, finite, window):
    """However large its updates are, up to 1e172 and beyond the largest number, or small."""
    pair = {"a": lo.Momentum(0.1, 0.9), "b": lo.Momentum(0.2, 0.9), "c": lo.Adam(0.1)}
    alone = response_distances(pair, GRADIENTS, window=window)
    beside = response_distances(pair | {"third": third}, GRADIENTS, window=window)
    np.testing.assert_array_equal(beside[:3, :3], alone)
    np.testing.assert_allclose(alone[0, 1], 1 / np.sqrt(5), rtol=1e-12)
    assert np.isfinite(beside[3]).tolist() == [finite] * 4
    if finite and window is None:
        np.testing.assert_allclose(beside[3], [1, 1, 1, 0], atol=1e-12)


@pytest.mark.parametrize("power", [-160, 0, 160])
def test_squares_of_updates_need_not_be_numbers(power):
    """Of twice the updates, whatever their size; in double precision 1e160^2 is infinite."""
    pair = {"a": lo.GradientDescent(1.0), "b": lo.GradientDescent(2.0)}
    found = response_distances(pair, GRADIENTS[:2] * 10.0**power)
    np.testing.assert_allclose(found[0, 1], 1 / np.sqrt(5), rtol=1e-12)


@pytest.mark.usefixtures("as_user")
def test_tables_of_what_is_not_finite_are_refused_by_their_value():
    pair = {"a": lo.GradientDescent(1.0)}
    with pytest.raises(ValueError, match="^`gradients` must be finite, got nan among 400 num"):
        response_distances(pair, np.full((4, 100), np.nan))
    with pytest.raises(
        ValueError,
        match=r"^`distances` must be a square table with at least one row, got shape \(0, 0\).$",
    ):
        plane_map(np.zeros((0, 0)))
    with pytest.raises(ValueError, match="^`distances` must be finite, got "):
        plane_map(np.full((2, 2), np.nan))


@pytest.mark.parametrize(
    ("table", "got"),
    [
        ([[0.0, 1.0], [2.0, 0.0]], r"1 at \[0, 1\] and 2 at \[1, 0\]"),
        ([[0.0, -1.0], [-1.0, 0.0]], r"-1 at \[0, 1\] and -1 at \[1, 0\]"),
        ([[0.0, 1.0], [1.0, 0.5]], r"0.5 at \[1, 1\]"),
    ],
)
def test_tables_of_what_cannot_be_distances_are_refused(table, got):
    words = "^`distances` must be symmetric and at least 0, with 0 on the diagonal, got "
    with pytest.raises(ValueError, match=words + got + r"\.$"):
        plane_map(np.array(table))


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 10.0])
def test_distance_of_two_learning_rates_is_a_closed_form(factor):
    pair = {"a": lo.Momentum(0.1, 0.9), "b": lo.Momentum(factor * 0.1, 0.9)}
    wanted = abs(1 - factor) / np.sqrt(1 + factor**2)
    found = response_distances(pair, GRADIENTS)[0, 1]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_distance_grows_with_the_difference_of_momenta():
    betas = (0.9, 0.88, 0.8, 0.5, 0.0)
    found = response_distances({str(b): lo.Momentum(0.1, b) for b in betas}, GRADIENTS)
    assert (np.diff(found[0]) > 0).all()


def test_windows_weigh_the_same_and_skipped_updates_do_not_count():
    """Of two windows, in one of which updates are equal, the distance is that of the other."""

    class Late(AbstractOptimizer):
        """Gradient descent whose updates are turned round from its tenth on."""

        @property
        def readout(self) -> Float[Array, "2"]:
            return jnp.array([-1.0, 0.0])

        def initial_state(self) -> Float[Array, "2"]:
            return jnp.zeros(2)

        def transition(
            self, state: Float[Array, "2"], gradient: Float[Array, ""]
        ) -> Float[Array, "2"]:
            sign = jnp.where(state[1] < 10, 1.0, -1.0)
            return jnp.stack([sign * gradient, state[1] + 1])

    pair = {"a": lo.GradientDescent(1.0), "b": Late()}
    given = GRADIENTS[:, :20] * 10.0 ** -np.arange(20)
    found = response_distances(pair, given, window=10)[0, 1]
    np.testing.assert_allclose(found, np.sqrt(2 / 2), rtol=1e-12)
    skipped = response_distances(pair, given, window=10, skip=10)[0, 1]
    np.testing.assert_allclose(skipped, np.sqrt(2), rtol=1e-12)


def test_a_map_of_points_in_a_plane_is_these_points():
    points = np.random.default_rng(1).normal(size=(7, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    found = plane_map(distances)
    again = np.linalg.norm(found.points[:, None] - found.points[None], axis=-1)
    np.testing.assert_allclose(again, distances, atol=1e-12)
    assert found.shown == pytest.approx(1.0)
    assert found.stress < 1e-12


def test_a_map_of_a_simplex_shows_two_of_its_axes():
    """n points with equal distances have n - 1 equal eigenvalues."""
    found = plane_map(1.0 - np.eye(6))
    assert found.shown == pytest.approx(2 / 5)
    assert found.stress > 0.1


def test_a_map_of_one_or_two_points():
    assert plane_map(np.zeros((1, 1))).stress == 0.0
    np.testing.assert_allclose(
        np.abs(plane_map(np.array([[0.0, 2.0], [2.0, 0.0]])).points[:, 0]), 1.0
    )


@pytest.mark.parametrize(("count", "total"), [(0, 5), (1, 20), (19, 20), (20, 20), (33, 50)])
def test_intervals_end_where_a_share_is_two_deviations_off(count, total):
    """Its ends p solve (share - p)^2 = z^2 p (1 - p) / n; of none or all, one end is 0 or 1."""
    low, high = wilson_interval(count, total)
    for end in (low, high):
        off, variance = count / total - end, end * (1 - end) / total
        np.testing.assert_allclose(off**2, stats.norm.ppf(0.975) ** 2 * variance, atol=1e-12)
    assert (low == 0, high == 1) == (count == 0, count == total)


def test_the_tanh_cell_is_its_equation():
    cell = TanhCell(4, key=jr.key(0))
    hidden = jnp.array([0.1, -0.2, 0.3, 0.0])
    wanted = np.tanh(cell.recurrent @ hidden + 0.7 * cell.inputs + cell.bias)
    np.testing.assert_allclose(cell(jnp.array([0.7]), hidden), wanted, atol=1e-15)


def test_cells_have_the_states_of_their_architectures():
    sizes = {name: make(3, key=jr.key(0)).start.size for name, make in CELLS.items()}
    assert sizes == {"gru": 3, "equinox_gru": 3, "vanilla": 3, "lstm": 6}
    assert factory_of("lstm") == "lrevopt.studies.universality.cells:lstm"
    assert factory_of("my:cell") == "my:cell"


def planted_record() -> Universality:
    """Two cells of three seeds on two tasks; one statement of each kind."""
    kinds = [TEXTBOOK] * 2 + ["gru"] * 3 + ["lstm"] * 3
    verdicts = np.array([[-2, -2, -2]] * 2 + [[1, 1, 1], [1, 0, 1], [1, -1, 1]] + [[1, -1, -1]] * 3)
    points = np.random.default_rng(2).normal(size=(8, 2))
    own = np.linalg.norm(points[:, None] - points[None], axis=-1)
    distances = np.full((16, 16), np.nan)
    distances[:8, :8] = distances[8:, 8:] = own
    return Universality(
        tasks=("linear_regression",) * 8 + ("rosenbrock",) * 8,
        kinds=tuple(kinds * 2),
        names=tuple(["momentum", "adam", *(f"{k:03d}" for k in (0, 1, 2, 0, 1, 2))] * 2),
        seeds=np.array([-1, -1, 0, 1, 2, 0, 1, 2] * 2),
        objectives=np.linspace(0.1, 0.5, 16)[:, None] * np.ones((16, 4)),
        distances=distances,
        statements=("always", "never", "gated"),
        says=("It is always there.", "It is there.", "It is there with gates."),
        task_names=("linear_regression", "rosenbrock"),
        expected=np.array([[1, 1, 1], [1, 0, -1]]),
        statistics=np.tile(np.where(verdicts == -2, np.nan, 0.5), (2, 1)),
        verdicts=np.tile(verdicts, (2, 1)),
    )  # fmt: skip


def test_shares_count_seeds():
    record = planted_record()
    shares = {(one.task, one.statement, one.cell): one for one in record.shares()}
    assert len(shares) == 3 * 2 + 2 * 2  # the third statement says nothing of Rosenbrock
    one = shares["linear_regression", "never", "gru"]
    assert (one.holds, one.undecided, one.not_so, one.seeds) == (1, 1, 1, 3)
    assert (one.low, one.high) == wilson_interval(1, 3)
    assert not shares["rosenbrock", "never", "gru"].expected
    said = record.conclusions()
    assert said["linear_regression", "always"] == "universal"
    assert said["linear_regression", "gated"] == "depends on the cell"
    assert said["linear_regression", "never"] == "mixed"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([(16, 4, 0), (20, 0, 0)], "universal"),
        ([(15, 0, 5), (20, 0, 0)], "mixed"),
        ([(0, 4, 16), (4, 0, 16)], "nowhere"),
        ([(16, 0, 4), (0, 4, 16)], "depends on the cell"),
        ([(0, 20, 0), (9, 11, 0)], "not shown"),
        ([(10, 10, 0), (0, 20, 0)], "mixed"),
        ([(0, 5, 15), (0, 5, 15)], "mixed"),
        ([(16, 4, 0)], "in most seeds"),
        ([(0, 4, 16)], "not so in most seeds"),
        ([(15, 5, 0)], "mixed"),
        ([(0, 20, 0)], "not shown"),
    ],
)
def test_conclusions_follow_the_rule(counts, said):
    """Of (holds, cannot tell, not so) in each cell of 20 seeds."""
    planted = [
        Share(
            task="t", statement="s", expected=True, cell=str(cell), seeds=20, holds=holds,
            not_so=not_so, undecided=undecided, share=holds / 20, low=0.0, high=1.0,
            median=0.0, least=0.0, largest=0.0,
        )
        for cell, (holds, undecided, not_so) in enumerate(counts)
    ]  # fmt: skip
    assert conclusion(planted) == said


def test_tables_say_what_the_record_holds(tmp_path):
    record = planted_record()
    storage.save_record(tmp_path / "record.npz", record)
    again = storage.load_record(Universality, tmp_path / "record.npz")
    for field in dataclasses.fields(record):
        np.testing.assert_array_equal(getattr(record, field.name), getattr(again, field.name))
    assert shares_table(record).count("\n") == 1 + 10
    assert members_table(record).count("\n") == 1 + 16
    assert verdicts_table(record).count("\n") == 1 + 6 * 3 + 6 * 2
    text = universality_markdown(record, {})
    assert "| always | 3 of 3 [0.44, 1] | 3 of 3 [0.44, 1] | universal |" in text
    assert "never (absent)" in text
    names, means = kind_distances(record, "rosenbrock")
    assert names == (TEXTBOOK, "gru", "lstm")
    np.testing.assert_allclose(means[0, 0], record.distances[8, 9])
    np.testing.assert_allclose(means[1, 2], record.distances[10:13, 13:].mean())
    assert "universal" in str(record)


def test_figures_show_every_optimizer_and_every_share():
    record = planted_record()
    maps, shares = figure_map(record), figure_shares(record)
    assert [len(ax.texts) for ax in maps.axes] == [3, 3]  # two textbook ones, and the stress
    assert sum(len(np.asarray(line.get_xdata())) for line in maps.axes[0].lines) == 8
    labels = [[label.get_text() for label in ax.get_yticklabels()] for ax in shares.axes]
    assert labels == [["always", "never", "gated"], ["always", "no never", ""]]


def test_a_task_without_distances_is_said_to_have_none():
    record = planted_record()
    distances = record.distances.copy()
    distances[8:, 8:] = np.nan
    record = dataclasses.replace(record, distances=distances)
    figure = figure_map(record)
    assert render(figure, "png")
    assert [text.get_text() for text in figure.axes[1].texts] == [
        "no distances:\nno updates are finite"
    ]
    text = universality_markdown(record, {})
    assert text.count("The plane of the map shows") == 1
    assert text.count("No updates are finite, so that there are no distances to map.") == 1


@pytest.mark.long
def test_verdicts_on_momentum_are_those_of_momentum():
    """One fixed point, linear, one mode, no clipping, no schedule: judged as a trained member."""
    task, momentum = lo.LinearRegression(), lo.Momentum(3.0, 0.88)
    measuring = Measuring(jr.key(0), jr.key(1), test_problems=4, problems=2, steps=100)
    tuning = {"momentum": lo.tune(task, lo.Momentum, TINY, key=jr.key(2))}
    books = {"momentum": momentum, "slow": lo.GradientDescent(0.1)}
    entrants = Entrants("linear_regression", task, books, tuning, {"cell": (momentum,)}, 0)
    claims = asked_claims(("linear_regression", "rosenbrock"))
    found = measure_member(entrants, momentum, claims, measuring.scored(books, task), measuring)
    said = {claim.name: int(code) for claim, code in zip(claims, found.verdicts, strict=True)}
    value = {claim.name: float(v) for claim, v in zip(claims, found.statistics, strict=True)}
    for name in ("one-fixed-point", "linear-near-fixed-point", "dominant-mode", "momentum-offset",
                 "saturation", "affine-centre"):  # fmt: skip
        assert said[name] == 1, name
    assert said["schedule"] == -1
    assert said["threshold-constant"] == -2  # says nothing of linear regression
    assert value["saturation"] == pytest.approx(1.0)
    assert value["performance"] == 0.0  # against itself
    np.testing.assert_array_equal(
        found.gradients, evenly_spaced(measuring.sampled(momentum, task).gradients, 4)
    )


def test_a_member_that_does_not_fit_into_memory_is_refused_and_one_that_diverges_is_judged(
    monkeypatch,
):
    task, adam = lo.Rosenbrock(), lo.Adam(1e-3)
    measuring = Measuring(jr.key(0), jr.key(1), test_problems=2, problems=2, steps=10)
    books = {"adam": adam}
    entrants = Entrants("rosenbrock", task, books, {}, {"cell": (adam,)}, 0)
    claims, rivals = asked_claims(("rosenbrock",)), measuring.scored(books, task)
    diverges = measure_member(entrants, lo.GradientDescent(10.0), claims, rivals, measuring)
    assert np.isinf(diverges.objectives).all()
    assert (diverges.verdicts == 0).all()
    assert diverges.gradients.shape == (0, 10)
    need = sizes_of_runs(measuring, adam)
    monkeypatch.setattr(sizes, "available_bytes", lambda: 0.9 * need)
    for refused in (lambda: measuring.check(adam, task),
                    lambda: measure_member(entrants, adam, claims, rivals, measuring)):  # fmt: skip
        with pytest.raises(ValueError, match="would take .* GiB of memory"):
            refused()


def sizes_of_runs(measuring: Measuring, optimizer: AbstractOptimizer) -> float:
    """Bytes of the states and gradients that are kept, without the problems."""
    paths = 2 * 20 * (optimizer.initial_state().size + 1)
    return measuring.problems * 2 * paths * (measuring.steps + 1) * 8


@pytest.mark.long
def test_members_on_networks_are_measured():
    """Evaluations have metrics there, and the learned optimizer stands beside tuned ones alone."""
    task, adam = lo.TwoMoons(), lo.Adam(0.01)
    measuring = Measuring(jr.key(0), jr.key(1), test_problems=1, problems=1, steps=4)
    tuning = {"adam": lo.tune(task, lo.Adam, dataclasses.replace(TINY, steps=4), key=jr.key(2))}
    books = {"adam": adam, "clipped": lo.ClippedGradientDescent(0.1, 1.0)}
    entrants = Entrants("two_moons", task, books, tuning, {"cell": (adam,)}, 0)
    rivals = measuring.scored(books, task)
    found = measure_member(entrants, adam, asked_claims(("two_moons",)), rivals, measuring)
    assert found.objectives.shape == (1,)
    assert found.objectives[0] == rivals.only(["adam"]).meta_objectives()[0, 0]
    assert (found.verdicts[[claim.name == "performance" for claim in asked_claims(("two_moons",))]]
            != -2).all()  # fmt: skip


TINY = Tuning(settings=6, problems=2, steps=20, grid=5, finalists=1, fresh_problems=2)

SHORT = ["--training.steps", "2", "--training.unroll", "5", "--training.problems", "2",
         "--training.selection-problems", "2", "--training.snapshot-every", "2",
         "--clipping.settings", "6", "--clipping.problems", "2", "--clipping.finalists", "1",
         "--clipping.fresh-problems", "2", "--clipping.steps", "20"]  # fmt: skip


@pytest.mark.long
def test_the_study_from_the_command_line(tmp_path: Path, monkeypatch, capsys):
    """Two members of one cell; a second call with other figures to draw measures nothing again."""
    monkeypatch.chdir(tmp_path)
    baselines = {"momentum": lo.Momentum}
    tune_baselines(lo.Rosenbrock(), TINY, tmp_path / "tuned", baselines=baselines,
                   say=lambda _: None)  # fmt: skip
    words = ["universality", "--tasks", "rosenbrock", "--cells", "lstm", "--seeds", "2", "--units",
             "2", "--baselines", "tuned", "--problems", "2", "--test-problems", "3", "--steps",
             "20", "--output", "out", *SHORT]  # fmt: skip
    assert main(words) == 0
    path = tmp_path / "out" / "universality.npz"
    record = storage.load_record(Universality, path)
    assert record.names == ("momentum", "clipped_descent", "000", "001")
    assert record.kinds == (TEXTBOOK, TEXTBOOK, "lstm", "lstm")
    assert np.isfinite(record.distances).all()
    assert record.objectives.shape == (4, 3)
    asked = record.asked_of("rosenbrock")
    assert (record.verdicts[:2] == -2).all()
    assert np.isin(record.verdicts[2:][:, asked], (-1, 0, 1)).all()
    member = lo.load(tmp_path / "out" / "rosenbrock_lstm" / "member_001")
    assert member.initial_state().shape == (4,)
    for name in ("universality.md", "universality_members.csv", "universality_map.png",
                 "universality_shares.svg", "universality_verdicts.csv"):  # fmt: skip
        assert (tmp_path / "out" / name).is_file()
    before = path.stat().st_mtime_ns
    assert main(words) == 0
    assert "measured before" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(universality_module, "asked_claims", lambda tasks: asked_claims(tasks)[1:])
    assert main(words) == 0  # by other claims: members are trained, but measured anew
    assert "measured before" not in capsys.readouterr().out
    assert len(storage.load_record(Universality, path).statements) == len(record.statements) - 1


CELL = "lrevopt.studies.universality.cells:lstm"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cells", "nomod:foo"],
         "`cells`: nomod cannot be imported: ModuleNotFoundError: No module named 'nomod'."),
        (["--time-limit", "-3"], "`time_limit` must be a finite number above 0, got -3.0."),
        (["--cells", "lstm", CELL],
         "`cells` must differ in their names without a module, none of them 'textbook', since "
         f"folders are named by them, got lstm, {CELL}."),
        (["--cells", "gru", "nomod:textbook"],
         "`cells` must differ in their names without a module, none of them 'textbook', since "
         "folders are named by them, got nomod:textbook."),
        ([],
         "`none` has no tuned baselines: tune them first, by `lrevopt tune TASK --output none`."),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_first(words, said, tmp_path, monkeypatch, capsys):
    """Before baselines are looked for, and with nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    command = ["universality", "--tasks", "rosenbrock", "--baselines", "none", "--output", "new"]
    with pytest.raises(SystemExit) as stop:
        main([*command, *words])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not (tmp_path / "new").exists()


def test_without_the_records_of_a_clone_baselines_must_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["universality", "--tasks", "rosenbrock", "--output", "new"])
    assert stop.value.code == 2
    said = (
        "must be a folder for each of the 1 tasks, as `lrevopt tune TASK --output FOLDER` makes it"
    )
    assert f"`baselines` {said} (default: those in `results`), got 0." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_tasks_bring_settings_that_suit_them():
    """Networks are trained as by `train`; what is said stands, and the rest follows the tasks."""
    read = parse_by_task(commands.Universality, words=["--tasks", "two_moons", "--seeds", "3"])
    assert (read.tasks, read.seeds, read.test_problems) == (("two_moons",), 3, 32)
    suits = experiments.suggested("two_moons", "quick").training
    kept = ("estimator", "objective", "problems", "unroll", "selection_unroll")
    assert all(getattr(read.training, name) == getattr(suits, name) for name in kept)
    more = ["--tasks", "two_moons", "--training.unroll", "30", "--problems", "5"]
    said = parse_by_task(commands.Universality, words=more)
    assert said.training == dataclasses.replace(read.training, unroll=30)
    assert (said.problems, said.clipping) == (5, read.clipping)
    # A search on a network takes as long as a few of its runs, one on two numbers many.
    assert read.clipping.inner_steps() < 0.01 * experiments.CLIPPING_TUNING.inner_steps()
    others = parse_by_task(commands.Universality, words=["--tasks", "rosenbrock"])
    assert others == commands.Universality(("rosenbrock",))
    crossed = parse_by_task(commands.Factorial, words=["--tasks", "two_moons", "--widths", "4"])
    assert (crossed.widths, crossed.training) == ((4,), read.training)


def test_names_on_a_map_do_not_meet():
    """Four textbook optimizers, three of them at almost one place."""
    points = np.array([[0.0, 0.0], [1.0, 1.1], [0.5, 0.90], [0.48, 0.91], [0.52, 0.9], [0.6, 0.2]])
    books = [2, 3, 4, 5]
    places = _places_of_names(points, books)
    gaps = np.diff(np.sort(places[:, 1]))
    assert np.all(gaps >= CLOSE * (1 - 1e-12))
    assert places[:, 1].mean() == pytest.approx(points[books, 1].mean())
    inwards = np.sign(places[:, 0] - points[books, 0])
    assert inwards.tolist() == [1, 1, -1, -1]
    lower = points - [0.0, 0.2] * (points > 0.95)
    top = lower[:, 1].max() + CLOSE / 3 * np.ptp(lower[:, 1])
    assert _places_of_names(lower, books)[:, 1].max() == pytest.approx(top)


def test_records_keep_six_digits_in_the_whole_range():
    values = np.array([0.0, 1.0, -0.3, 1e-300, 1.7e300, np.pi, np.inf, np.nan])
    found = storage.shortened(values)
    np.testing.assert_allclose(found, values, rtol=1e-6)
    assert found[5] != np.pi
    np.testing.assert_array_equal(storage.shortened(found), found)
    paired = storage.shortened(values[:6] + 1j * values[5::-1])
    np.testing.assert_array_equal(paired.real, found[:6])
    np.testing.assert_array_equal(paired.imag, found[5::-1])
