"""The scripts as a user meets them: whole runs, kills, and refusals with exit code 2."""

import contextlib
import dataclasses
import io
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.meta_training import History
from lrevopt.optimizers import saved
from lrevopt.runs.contents import CONTENTS, Run
from lrevopt.runs.experiment import Experiment, Learned
from lrevopt.runs.train import train
from lrevopt.runs.tune import baseline_settings, load_tuning, tune_baselines
from lrevopt.runs.writing import stale

SCRIPTS = Path(__file__).parent.parent / "scripts"


def call(monkeypatch, script, *arguments) -> int:
    """Exit code of a script run in this process."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    monkeypatch.syspath_prepend(str(SCRIPTS))
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def listing(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture
def foreign(tmp_path):
    """A folder with one file of somebody else's in it, as the working folder."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("irreplaceable")
    return tmp_path


DIGITS = ["meta_train.py", "mnist", "--images.source", "digits"]
TRAIN = ["meta_train.py", "rosenbrock", "--output", "run"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["meta_train.py", "quantum"],
            "`task` must be one of linear_regression, rosenbrock,",
        ),
        ([*TRAIN, "--training.steps", "0"], "`steps` must be an integer of at least 1, got 0"),
        ([*TRAIN, "--training.unroll", "-5"], "`unroll` must be an integer of at least 1, got -5"),
        ([*TRAIN, "--training.problems", "0"], "`problems` must be"),
        ([*TRAIN, "--training.problems", "many"], "many"),
        ([*TRAIN, "--training.micro-batch", "5"], "`micro_batch` must divide"),
        ([*TRAIN, "--optimizer.units", "0"], "`units` must be an integer of at least 1, got 0"),
        ([*TRAIN, "--training.learning-rate", "nan"], "`learning_rate` must be a finite number"),
        ([*TRAIN, "--optimizer.input-scale", "-1"], "`input_scale` must be a finite number above"),
        ([*TRAIN, "--time-limit", "0"], "`time_limit` must be a finite number above 0, got 0.0"),
        ([*TRAIN, "--resume"], "`run` holds no run to resume"),
        ([*TRAIN[:-1], "notes"], "`notes` holds files that are no run"),
        ([*TRAIN[:-1], "notes/thesis.tex/run"], "must be a folder that can be written"),
        ([*TRAIN, "--memory-limit", "1e-9"], "`memory_limit` must be at least"),
        ([*TRAIN, "--start", "nowhere"], "`nowhere` is not a run directory"),
        ([*TRAIN, "--training.estimator", "magic"], "invalid choice 'magic'"),
        ([*TRAIN, "--training.cotangent-clip", "-1"], "`cotangent_clip` must be a finite number"),
        (["meta_train.py", "mnist", "--images.data-dir", "notes"], "`data_dir` must"),
        (
            ["meta_train.py", "mnist", "--images.source", "cifar"],
            "`source` must be one of",
        ),
        ([*DIGITS, "--images.side", "9"], "`side` must be one of"),
        (["tune.py", "quantum"], "mnist, or module:factory, got 'quantum'"),
        (["tune.py", "rosenbrock", "--tuning.rungs", "4", "3000"], "`rungs` must be pairs of"),
        (["tune.py", "rosenbrock", "--tuning.settings", "0"], "`settings` must be"),
        (["tune.py", "rosenbrock", "--tuning.steps", "-1"], "`steps` must be"),
        (["evaluate.py", "nowhere"], "`nowhere` is not a run directory"),
        (["evaluate.py", "notes"], "`notes` is not a run directory"),
        (["analyze.py", "nowhere"], "`nowhere` is not a run directory"),
        (["make_figures.py", "nowhere", "--output", "out"], "`nowhere` is not a run directory"),
        (["reproduce.py", "rosenbrock", "--test-problems", "0"], "`test_problems` must be"),
        (["reproduce.py", "rosenbrock", "--output", "notes"], "`notes` holds files that are no"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    monkeypatch, capsys, as_user, foreign, arguments, said
):
    monkeypatch.chdir(foreign)
    before = listing(foreign)
    assert call(monkeypatch, *arguments) == 2
    output = capsys.readouterr()
    # tyro draws its messages in a box and wraps them.
    message = " ".join(output.err.replace("│", " ").split())
    assert said in message
    assert "Traceback" not in output.err
    assert listing(foreign) == before
    assert (foreign / "notes" / "thesis.tex").read_text() == "irreplaceable"


@pytest.mark.parametrize("script", [path.name for path in sorted(SCRIPTS.glob("*.py"))])
def test_help_and_length(monkeypatch, capsys, script):
    assert call(monkeypatch, script, "--help") == 0
    text = capsys.readouterr().out
    assert "usage:" in text
    assert "--output" in text or "run" in text
    assert len((SCRIPTS / script).read_text().splitlines()) < 60


@pytest.mark.parametrize(
    ("arguments", "default"),
    [
        (["rosenbrock", "--preset=paper"], "updates of the optimizer's weights. (default: 5000)"),
        (["--output", "linear_regression", "rosenbrock"], "the cell sees it. (default: 0.1)"),
        (["--output", "paper", "linear_regression"], "the cell sees it. (default: 1.0)"),
    ],
)
def test_defaults_follow_task_and_preset(monkeypatch, capsys, arguments, default):
    assert call(monkeypatch, "meta_train.py", *arguments, "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert default in text


def test_baselines_of_another_task_are_refused(as_user, tmp_path):
    record = {"task": storage.describe(lo.LinearRegression())}
    storage.save_json(storage.writable_directory(tmp_path / "tuning") / "settings.json", record)
    with pytest.raises(ValueError, match="belongs to the task LinearRegression, not to this Rosen"):
        load_tuning(tmp_path, lo.Rosenbrock())
    with pytest.raises(ValueError, match="not to this LinearRegression, which differs in dim"):
        load_tuning(tmp_path, lo.LinearRegression(dim=3))
    storage.save_json(tmp_path / "settings.json", record)
    with pytest.raises(ValueError, match="belongs to the task LinearRegression, not to this Rosen"):
        tune_baselines(lo.Rosenbrock(), lo.Tuning(), tmp_path)
    with pytest.raises(ValueError, match="`ranges` must name any of .* got 'foo'"):
        baseline_settings(lo.Tuning(ranges={"foo": (0.1, 0.2)}))
    each = baseline_settings(lo.Tuning(ranges={"momentum": (0.1, 0.9)}))
    assert {name: list(settings.ranges) for name, settings in each.items()} == {
        "momentum": ["momentum"],
        "rmsprop": [],
        "adam": [],
    }


def test_the_next_stage_goes_on_from_the_last(tmp_path):
    """With the optimizer that the first stage chose; the second lists the first, also resumed."""
    training = lo.MetaTraining(steps=2, unroll=3, problems=2, selection_problems=2)
    first = Experiment("linear_regression", Learned(2), training)
    train(first, tmp_path / "first")
    longer = Experiment("rosenbrock", Learned(2), dataclasses.replace(training, unroll=5))
    options: dict[str, Any] = {"start": tmp_path / "first"}
    train(longer, tmp_path / "second", time_limit=1e-9, **options)
    whole = train(longer, tmp_path / "second", resume=True)
    assert whole.history.steps == 2
    begun = saved.load_weights(tmp_path / "first")
    start = jax.tree.map(lambda leaf: leaf[0], whole.snapshots)
    for name, array in storage.tree_to_arrays(start).items():
        np.testing.assert_array_equal(array, begun[name])
    settings = storage.load_json(tmp_path / "second" / "settings.json")
    (stage,) = settings["stages"]
    assert stage["task"]["kind"] == "LinearRegression"
    assert stage["training"]["unroll"] == 3
    assert stage["drawn"]["units"] == 2
    assert stage["drawn"]["input_deviation"] == pytest.approx(2**-0.5)
    assert "drawn" not in settings, "its weights are those of the first stage"


@pytest.mark.parametrize(
    ("learned", "deviation"),
    [
        (Learned(4), 0.5),
        (Learned(4, input_deviation=1.0), 1.0),
        (Learned(4, cell="equinox_gru"), None),
    ],
)
def test_settings_say_how_input_weights_are_drawn(learned, deviation):
    assert learned.drawn()["input_deviation"] == deviation
    assert Learned(**learned.drawn()) == dataclasses.replace(learned, input_deviation=deviation)


@pytest.mark.slow
def test_digits_go_through_everything_without_data_and_network(monkeypatch, capsys, tmp_path):
    """MNIST's files are nowhere, and to look for them on the network would be an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LREVOPT_DATA", raising=False)
    monkeypatch.setattr("socket.socket.connect", None)
    arguments = [
        "mnist", "--images.source", "digits", "--images.side", 7, "--optimizer.units", 2,
        "--training.steps", 2, "--training.unroll", 4, "--training.problems", 1,
        "--training.selection-problems", 2, "--training.selection-unroll", 6,
        "--tuning.settings", 8, "--tuning.rungs", 2, 3, "--tuning.finalists", 2,
        "--tuning.fresh-problems", 1, "--test-problems", 4,
    ]  # fmt: skip
    assert call(monkeypatch, "reproduce.py", *arguments) == 0
    output = capsys.readouterr().out
    assert "done" in output
    assert "test_accuracy" in output
    run = tmp_path / "runs" / "mnist"
    figures = {path.stem for path in (run / "figures").glob("*.png")}
    assert {f"figure_{n:02d}" for n in (1, 7, 9, 10, 11, 13, 17, 21)} <= figures
    page = (run / "report.html").read_text()
    assert "Test accuracy" in page
    assert "held to 1.0 times the rest of each cotangent" in page
    # Figures need the numbers alone, not the images.
    monkeypatch.setattr("lrevopt.tasks.named.make_task", None)
    assert call(monkeypatch, "make_figures.py", run, "--figure", 7, "--output", "seven") == 0


SMALL = [
    "--optimizer.units", 4, "--training.steps", 3, "--training.unroll", 12,
    "--training.problems", 4, "--training.selection-problems", 8,
]  # fmt: skip


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a small run that went through every stage, and what that printed."""
    folder = tmp_path_factory.mktemp("reproduction")
    arguments = [
        "rosenbrock", *SMALL, "--tuning.settings", 30, "--tuning.problems", 8,
        "--tuning.fresh-problems", 8, "--tuning.finalists", 3, "--test-problems", 8,
    ]  # fmt: skip
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        assert call(patch, "reproduce.py", *arguments) == 0
    return folder / "runs" / "rosenbrock", printed.getvalue()


@pytest.mark.long
def test_a_whole_reproduction_in_small(monkeypatch, tmp_path, reproduction):
    """Every stage runs, and leaves what the next one and a reader need."""
    monkeypatch.chdir(tmp_path)
    run, printed = reproduction
    assert "done" in printed
    figures = {path.stem for path in (run / "figures").glob("*.png")}
    assert {f"figure_{n:02d}" for n in (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 17, 19)} <= figures
    page = (run / "report.html").read_text()
    assert page.count("<img") == len(figures)
    assert lo.load(run).initial_state().shape == (4,)
    assert call(monkeypatch, "make_figures.py", run, "--figure", 6, "--output", "six") == 0
    assert sorted(os.listdir("six")) == [
        f"figure_06.{kind}" for kind in ("npz", "png", "svg", "txt")
    ]
    assert call(monkeypatch, "make_figures.py", run, "--figure", 18, "--output", "no") == 2


ELSEWHERE = {
    "parameter_types", "manifold", "mode_shifts", "gradient_replay", "seeds",
    "unfinished", "momentum_mimic", "mimic_by_curves", "meta_dynamics", "horizons",
}  # fmt: skip
"""Parts that a whole run on Rosenbrock does not have: of networks, other seeds, longer runs,
appendix B."""


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def files_by_part(run: Path) -> dict[str, list[Path]]:
    """What the table knows in a run's folder, by part; parts that have no file are left out."""
    found = {}
    for name, part in CONTENTS.items():
        files = [file for path in part.files(run) for file in (files_of(path) or [path])]
        if files:
            found[name] = files
    return found


@pytest.mark.long
def test_what_a_pipeline_writes_is_what_is_loaded_and_what_is_deleted(
    monkeypatch, tmp_path, reproduction
):
    """Files written = files of the table = parts that load = parts deleted or made by training."""
    run = tmp_path / "run"
    shutil.copytree(reproduction[0], run)
    known = files_by_part(run)
    assert sorted(file for files in known.values() for file in files) == files_of(run)
    assert known.keys() == CONTENTS.keys() - ELSEWHERE
    # Nothing that loads is missing from the disk, and nothing on the disk fails to load.
    assert {name for name in CONTENTS if Run(run).has(name)} == known.keys()
    again = ["meta_train.py", "rosenbrock", *SMALL, "--output", run]
    weights = saved.load_weights(run)
    # Resumed, nothing is left to train, and everything stays.
    assert call(monkeypatch, *again, "--resume") == 0
    resumed = files_by_part(run)
    assert resumed.keys() == known.keys()
    kept = saved.load_weights(run)
    assert all(np.array_equal(kept[name], weights[name]) for name in weights)
    # Another seed: of what is there, all but what training writes speaks of the old optimizer.
    before = {name: [file.read_bytes() for file in files] for name, files in resumed.items()}
    assert call(monkeypatch, *again, "--seed", 1, "--overwrite") == 0
    left = files_by_part(run)
    trained = {name for name, part in CONTENTS.items() if part.stage == "train"} - ELSEWHERE
    assert left.keys() == trained
    assert known.keys() - left.keys() == set(stale("settings", "optimizer")) - ELSEWHERE
    assert sorted(file for files in left.values() for file in files) == files_of(run)
    after = {name: [file.read_bytes() for file in files] for name, files in left.items()}
    assert all(after[name] != before[name] for name in trained)
    assert {name for name in CONTENTS if Run(run).has(name)} == trained


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(tmp_path):
    """SIGKILL at three random moments, resume, and compare with an undisturbed run."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [
        sys.executable, SCRIPTS / "meta_train.py", "linear_regression", "--optimizer.units", "3",
        "--training.steps", "1500", "--training.unroll", "4", "--training.problems", "2",
        "--training.selection-problems", "4", "--save-every", "0.5", "--output",
    ]  # fmt: skip

    def start(name: str, *more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*map(str, command), str(tmp_path / name), *more],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("whole").wait(timeout=200) == 0
    moments = random.Random(11)
    kills = 0
    for attempt in range(3):
        process = start("killed", *["--resume"] * (attempt > 0))
        kept = set((tmp_path / "killed" / "checkpoints").glob("step_*"))
        while process.poll() is None:
            if set((tmp_path / "killed" / "checkpoints").glob("step_*")) - kept:
                time.sleep(moments.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        kills += process.wait(timeout=200) == -signal.SIGKILL
    assert kills == 3
    assert start("killed", "--resume").wait(timeout=200) == 0
    pairs = [
        [load(tmp_path / run) for run in ("whole", "killed")]
        for load in (saved.load_weights, lambda run: storage.load_arrays(run / "snapshots"))
    ]
    for a, b in pairs:
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    histories = [
        storage.load_record(History, tmp_path / run / "history.npz") for run in ("whole", "killed")
    ]
    for name in ("objectives", "gradient_norms", "selection_scores"):
        np.testing.assert_array_equal(*(getattr(history, name) for history in histories))


@pytest.mark.long
def test_a_signal_saves_and_stops(tmp_path):
    """SIGTERM ends a run with 128 + 15, and what it leaves can be loaded."""
    run = tmp_path / "run"
    command = [
        sys.executable, SCRIPTS / "meta_train.py", "linear_regression", "--optimizer.units", "3",
        "--training.steps", "1000000", "--training.unroll", "4", "--training.problems", "2",
        "--training.selection-problems", "4", "--training.snapshot-every", "1000000",
        "--save-every", "0.05", "--output", run,
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        while process.poll() is None and not list(run.glob("checkpoints/step_*")):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped (SIGTERM)" in output
    history = storage.load_record(History, run / "history.npz")
    assert 0 < history.steps < 1000000
    assert np.isfinite(history.objectives[: history.steps]).all()
    state = lo.load(run).initial_state()
    assert state.shape == lo.GRUOptimizer(3, key=jr.key(0)).initial_state().shape
