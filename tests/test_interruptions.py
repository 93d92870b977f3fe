"""Signals, kills, a full disk and two processes: one sentence, nothing lost, nothing stale."""

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import interrupting
import jax.random as jr
import numpy as np
import pytest
import synthetic_records as made

import lrevopt as lo
from lrevopt import storage
from lrevopt.__main__ import main
from lrevopt.inner_loop import evaluation
from lrevopt.meta_training import loop
from lrevopt.optimizers import saved
from lrevopt.runs.contents import Run
from lrevopt.runs.stopping import Stopped, stoppable

LEAST_TRIED = 69

BY_HAND = ("claims", "front-page", "tune-scales", "gallery", "distill", "universality", "factorial")
"""Stages that run undisturbed here, since all together would take most of an hour of a core;
`python tests/interrupting.py FOLDER STAGE ...` interrupts them, 30 times."""

TUNE = ["tune", "linear_regression", "--output", "run", *interrupting.TUNING]
EVALUATE = ["evaluate", "run", "--problems", "2", "--steps", "4"]
TRAINING = lo.MetaTraining(steps=3, unroll=3, problems=2, selection_problems=2)


def make_run(directory: Path) -> None:
    """The folder of a run whose optimizer was never trained."""
    optimizer = lo.GRUOptimizer(2, key=jr.key(0))
    described = {"task": lo.LinearRegression(), "optimizer": optimizer}
    settings = {name: storage.describe(module) for name, module in described.items()}
    storage.save_json(directory / storage.SETTINGS, settings)
    saved.save_optimizer(directory, optimizer)


def code_of(words: list[str]) -> int:
    """Exit code of a command in this process."""
    try:
        return main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder in which such a run was tuned and evaluated."""
    folder, before = tmp_path_factory.mktemp("undisturbed"), Path.cwd()
    make_run(folder / "run")
    os.chdir(folder)
    try:
        assert main(TUNE) == main(EVALUATE) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def signal_at(monkeypatch, count: int, number: int) -> None:
    """Let a signal arrive before the file of this count is renamed into place."""
    rename, left = os.replace, [count]

    def replace(*paths) -> None:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(number)
        rename(*paths)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize(
    ("stage", "count", "number"),
    [
        *(
            pytest.param("tune", count, number, marks=pytest.mark.long)
            for count, number in ((1, signal.SIGINT), (8, signal.SIGINT))
        ),
        *(
            pytest.param("evaluate", count, signal.SIGTERM, marks=pytest.mark.long)
            for count in (1, 6)
        ),
        ("tune", 3, signal.SIGTERM),
        ("evaluate", 3, signal.SIGINT),
    ],
)
def test_the_same_command_continues_to_the_same_bytes(
    undisturbed, folder, monkeypatch, capsys, stage, count, number
):
    words = {"tune": TUNE, "evaluate": EVALUATE}[stage]
    if stage == "evaluate":
        shutil.copytree(undisturbed / "run" / "tuning", folder / "run" / "tuning")
    with monkeypatch.context() as patched:
        signal_at(patched, count, number)
        assert code_of(words) == 128 + number
    said = capsys.readouterr().err.splitlines()
    assert said == [f"stopped ({signal.Signals(number).name}); the same command continues"]
    assert interrupting.unsound(folder) == []
    assert main(words) == 0
    assert interrupting.leftovers(folder) == []
    if stage == "tune":
        assert interrupting.differences(folder / "run/tuning", undisturbed / "run/tuning") == []
    else:
        assert interrupting.differences(folder, undisturbed) == []


def test_what_was_run_is_not_run_again(undisturbed, folder, monkeypatch):
    shutil.copytree(undisturbed / "run" / "tuning", folder / "run" / "tuning")
    with monkeypatch.context() as patched:
        signal_at(patched, 3, signal.SIGINT)
        main(EVALUATE)
    kept = list((folder / "run" / storage.UNFINISHED).iterdir())
    run, runs = evaluation._run, []

    def counted(*args):
        runs.append(args)
        return run(*args)

    monkeypatch.setattr(evaluation, "_run", counted)
    assert main(EVALUATE) == 0
    assert (len(kept), len(runs)) == (2, 2)


def test_a_lost_interrupt_ends_the_command_all_the_same(folder, monkeypatch, capsys):
    """A callback of somebody else's has swallowed the exception."""

    def swallowing(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            return

    monkeypatch.setattr("lrevopt.runs.tune.tune_baselines", swallowing)
    assert main(TUNE) == 130
    assert capsys.readouterr().err == "stopped (SIGINT); the same command continues\n"


def test_a_second_signal_does_not_change_the_exit_code(folder, monkeypatch):
    """JAX takes a while to end, and the second Ctrl-C killed the process within that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sys, "argv", ["lrevopt", *TUNE])
    signal_at(monkeypatch, 1, signal.SIGINT)
    try:
        assert main() == 130
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_interrupt_within_the_garbage_collector_is_raised_again(folder, monkeypatch, capsys):
    """Python would print a traceback there and go on."""

    class Tidy:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def tuned(*_: object, **__: object) -> None:
        Tidy()
        time.sleep(5)
        raise AssertionError("went on")

    monkeypatch.setattr("lrevopt.runs.tune.tune_baselines", tuned)
    assert main(TUNE) == 143
    assert capsys.readouterr().err == "stopped (SIGTERM); the same command continues\n"


def test_searches_of_other_settings_go_first_and_a_mixture_is_refused(
    undisturbed, folder, monkeypatch, capsys, as_user
):
    shutil.copytree(undisturbed / "run", folder / "run", dirs_exist_ok=True)
    run = folder / "run"
    with monkeypatch.context() as patched:
        signal_at(patched, 3, signal.SIGINT)  # settings, the rung, momentum's finalists
        assert code_of([*TUNE, "--tuning.problems", "3"]) == 130
    assert not (run / "evaluation.npz").exists()
    assert not list((run / "tuning").glob("*.npz"))
    assert code_of(EVALUATE) == 2
    assert "holds an unfinished search: momentum, rmsprop, adam must" in capsys.readouterr().err
    for name in ("momentum", "rmsprop", "adam"):
        shutil.copy2(undisturbed / "run" / "tuning" / f"{name}.npz", run / "tuning")
    assert code_of(EVALUATE) == 2
    assert "was made with other settings than `settings.json`" in capsys.readouterr().err


def test_what_is_stale_goes_before_a_run_is_overwritten(tmp_path, monkeypatch):
    run, task, optimizer = tmp_path, lo.LinearRegression(dim=2), lo.GRUOptimizer(2, key=jr.key(0))
    lo.meta_train(task, optimizer, TRAINING, key=jr.key(0), directory=run, progress=False)
    storage.save_record(run / "evaluation.npz", made.evaluation())
    (run / "report.html").write_text("old")
    (run / "thesis.tex").write_text("irreplaceable")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "outer_step", killed)
    with pytest.raises(KeyboardInterrupt):
        lo.meta_train(
            task, optimizer, TRAINING, key=jr.key(1), directory=run, overwrite=True, progress=False
        )
    assert sorted(os.listdir(run)) == ["settings.json", "thesis.tex"]


def test_a_folder_is_for_one_process(folder, capsys):
    """The lock of a dead process is none: the operating system has released it."""
    path = folder / "run" / storage.LOCK
    path.write_text("process 4242 on elsewhere\n")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert code_of(TUNE) == 2
        said = capsys.readouterr().err
        assert "`run` is in use by process 4242 on elsewhere: wait until it has ended" in said
    with storage.claimed(folder / "run"), storage.claimed(folder / "run"):
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
    assert not path.exists()
    with pytest.raises(RuntimeError), storage.claimed(folder / "new" / "run"):
        raise RuntimeError
    assert not (folder / "new").exists()


def test_what_a_kill_left_is_removed_or_put_back(tmp_path):
    storage.save_arrays(tmp_path / "snapshots", {"a": np.arange(3.0)})
    os.replace(tmp_path / "snapshots", tmp_path / ".snapshots.old")
    (tmp_path / ".snapshots.new.orbax-checkpoint-tmp-17").mkdir()
    (tmp_path / "tuning").mkdir()
    for name in (".new.a1b2c3d4", ".history.npz.x1y2z3w4", "tuning/.new.abcdefgh", ".bashrc"):
        (tmp_path / name).write_text("")
    np.testing.assert_array_equal(storage.load_arrays(tmp_path / "snapshots")["a"], np.arange(3.0))
    with storage.claimed(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [".bashrc", "snapshots", "tuning"]
    assert os.listdir(tmp_path / "tuning") == []
    np.testing.assert_array_equal(storage.load_arrays(tmp_path / "snapshots")["a"], np.arange(3.0))


@pytest.mark.parametrize("command", ["claims", "front-page"])
def test_pages_of_a_folder_of_runs_leave_nothing_half_written(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "linear_regression")
    (tmp_path / ".new.a1b2c3d4").write_text("half of it")
    assert main([command, "."]) == 0
    assert interrupting.leftovers(tmp_path) == []


@pytest.mark.parametrize("words", [TUNE, EVALUATE])
def test_a_full_disk_is_one_sentence_and_older_files_stay(
    undisturbed, folder, monkeypatch, capsys, words
):
    shutil.copytree(undisturbed / "run", folder / "run", dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert code_of([*words, "--seed", "1"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: `.*` cannot be read or written: No space left on device\.\n", said)
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert interrupting.leftovers(folder) == []
    assert kept == before
    assert Run("run").evaluation is not None


def test_checkpoints_that_cannot_be_written_are_one_sentence(tmp_path, monkeypatch):
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def save(self, path: Path, *_: object) -> None:
            path.mkdir()
            raise ValueError("RESOURCE_EXHAUSTED: no space\nand 130 lines more\n" * 2)

    storage.save_arrays(tmp_path / "a", {"x": np.zeros(2)})
    monkeypatch.setattr("lrevopt.storage.checkpoints._checkpointer", Full)
    with pytest.raises(OSError, match=r"a` cannot be written: RESOURCE_EXHAUSTED: no space\.$"):
        storage.save_arrays(tmp_path / "a", {"x": np.ones(2)})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a"]
    np.testing.assert_array_equal(storage.load_arrays(tmp_path / "a")["x"], np.zeros(2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_a_checkpoint(tmp_path, monkeypatch, number):
    """Orbax runs coroutines: an exception among them leaves some that nobody awaits."""
    met = []

    class Writing:
        def __enter__(self) -> "Writing":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def save(self, path: Path, *_: object) -> None:
            signal.raise_signal(number)
            path.mkdir()
            met.append(number)

    monkeypatch.setattr("lrevopt.storage.checkpoints._checkpointer", Writing)
    with pytest.raises(Stopped) as stopped, stoppable(lambda: "go on"):
        storage.save_arrays(tmp_path / "a", {"x": np.zeros(2)})
    assert stopped.value.number == number
    assert met == [number]
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("moment", ["outer_step", "save_arrays"])
def test_a_signal_at_the_end_of_training_is_its_outcome(tmp_path, monkeypatch, moment):
    """Commands that train and go on do not, and what was trained is whole."""
    task, optimizer = lo.LinearRegression(dim=2), lo.GRUOptimizer(2, key=jr.key(0))
    owner, calls = {"outer_step": loop, "save_arrays": storage}[moment], []
    last, usual = {"outer_step": TRAINING.steps, "save_arrays": 1}[moment], getattr(owner, moment)

    def signalled(*args):
        calls.append(1)
        if len(calls) == last:
            signal.raise_signal(signal.SIGTERM)
        return usual(*args)

    def trained(*, resume: bool = False) -> lo.MetaTrainingRun:
        return lo.meta_train(task, optimizer, TRAINING, key=jr.key(0), directory=tmp_path,
                             progress=False, resume=resume)  # fmt: skip

    with monkeypatch.context() as patched:
        patched.setattr(owner, moment, signalled)
        stopped = trained().history
    finished = trained(resume=True).history
    assert (stopped.outcome, finished.outcome) == ("SIGTERM", "finished")
    assert stopped.steps == finished.steps == TRAINING.steps
    np.testing.assert_array_equal(stopped.objectives, finished.objectives)


def test_links_are_removed_and_replaced_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("irreplaceable")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    storage.save_arrays(tmp_path / "a", {"x": np.zeros(2)})
    assert not (tmp_path / "a").is_symlink()
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    storage.remove(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "elsewhere"]
    assert (tmp_path / "elsewhere" / "mine").read_text() == "irreplaceable"


def test_readers_try_again_while_a_file_is_replaced(tmp_path):
    path, tries = tmp_path / "a", []
    path.write_text("0")

    def read() -> int:
        tries.append(1)
        if len(tries) < 4:
            storage.write_atomically(path, str(len(tries)))
            raise ValueError("half of it")
        return len(tries)

    assert storage.read_settled(read, path) == 4
    with pytest.raises(ValueError, match="damaged"):
        storage.read_settled(lambda: (_ for _ in ()).throw(ValueError("damaged")), path)


@pytest.mark.slow
def test_every_stage_continues_after_every_signal(tmp_path):
    """SIGINT, SIGTERM and SIGKILL in processes of their own, at files and at random moments."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    script = Path(__file__).parent / "interrupting.py"
    stages = [stage for stage in interrupting.STAGES if stage not in BY_HAND]
    done = subprocess.run(
        [sys.executable, script, tmp_path / "cases", *stages],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    found = re.search(r"interruptions: (\d+) tried, (\d+) good", done.stdout)
    assert found is not None, done.stderr[-2000:]
    assert int(found[1]) >= LEAST_TRIED
    assert found[1] == found[2]
