"""Saving, loading, interrupting and refusing."""

import dataclasses
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.meta_training.settings import RENAMED
from lrevopt.optimizers import saved
from lrevopt.optimizers.shipped_files import SHIPPED
from lrevopt.runs.contents import Run

RESULTS = Path(__file__).parents[1] / "results"
SMALL = lo.MetaTraining(steps=9, unroll=5, problems=2, snapshot_every=4, selection_problems=4)
TASK = lo.LinearRegression(dim=2)


def train(directory, **options):
    optimizer = lo.GRUOptimizer(3, key=jr.key(0), input_scale=0.5)
    settings = options.pop("settings", SMALL)
    key = options.pop("key", jr.key(1))
    return lo.meta_train(
        TASK, optimizer, settings, key=key, directory=directory, progress=False, **options
    )


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run: its folder and what it returned."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, train(directory)


def test_load_gives_the_selected_optimizer_back(whole):
    directory, run = whole
    loaded = lo.load(directory)
    assert same(loaded, run.optimizer)
    assert isinstance(loaded, lo.RecurrentOptimizer)
    assert loaded.input_scale == 0.5
    assert same(lo.load(str(directory), like=lo.GRUOptimizer(3, key=jr.key(9))), run.optimizer)


def test_a_run_in_pieces_has_the_same_bits(whole, tmp_path):
    """However small its time limit, a run takes a step before it stops."""
    _, run = whole
    part = train(tmp_path / "run", time_limit=1e-9)
    for steps in (1, 2, 3):
        assert (part.history.outcome, part.history.steps) == ("time limit", steps)
        part = train(tmp_path / "run", resume=True, time_limit=1e-9 if steps < 3 else None)
    assert part.history.outcome == "finished"
    for name in ("last", "snapshots", "optimizer"):
        assert same(getattr(part, name), getattr(run, name)), name
    for name in ("objectives", "gradient_norms", "selection_scores"):
        np.testing.assert_array_equal(getattr(part.history, name), getattr(run.history, name))
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


@pytest.mark.long
def test_a_run_begun_under_older_names_of_settings_goes_on(tmp_path):
    """With the names of version 0.1, and without a setting that was added since."""
    settings = dataclasses.replace(SMALL, checkpoint_every=2)
    train(tmp_path / "run", settings=settings, time_limit=1e-9)
    path = tmp_path / "run" / storage.SETTINGS
    record = storage.load_json(path)
    old_names = {new: old for old, new in RENAMED.items()}
    assert old_names.keys() <= record["training"].keys()
    older = {old_names.get(name, name): value for name, value in record["training"].items()}
    del older["selection_unroll"]
    plan = {old_names.get(name, name): value for name, value in record["memory_plan"].items()}
    assert plan == {"micro_batch": 2, "segment": 2}
    storage.save_json(path, record | {"training": older, "memory_plan": plan})
    with pytest.raises(ValueError, match=r"holds another run \(different: training\)"):
        train(tmp_path / "run", settings=SMALL, resume=True)
    resumed = train(tmp_path / "run", settings=settings, resume=True)
    assert resumed.history.outcome == "finished"
    uninterrupted = train(None, settings=settings)
    assert same(resumed.last, uninterrupted.last)
    assert same(resumed.snapshots, uninterrupted.snapshots)


def test_directories_of_other_runs_are_refused(whole, tmp_path):
    directory, run = whole
    with pytest.raises(ValueError, match="holds this run already: pass resume"):
        train(directory)
    with pytest.raises(ValueError, match=r"holds another run \(different: training\)"):
        train(directory, settings=dataclasses.replace(SMALL, clip=1.0), resume=True)
    with pytest.raises(ValueError, match=r"different: key"):
        train(directory, key=jr.key(2))
    with pytest.raises(ValueError, match="holds no run to resume"):
        train(tmp_path / "empty", resume=True)
    assert not (tmp_path / "empty").exists()
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(ValueError, match="holds files that are no run"):
        train(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    assert same(lo.load(directory), run.optimizer)
    with pytest.raises(ValueError, match="`resume` needs a `directory`"):
        train(None, resume=True)


def test_overwrite_starts_again(tmp_path):
    train(tmp_path / "run", key=jr.key(5))
    again = train(tmp_path / "run", overwrite=True)
    assert again.history.steps == SMALL.steps
    assert same(lo.load(tmp_path / "run"), again.optimizer)


def test_half_written_and_foreign_runs_are_refused(whole, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        lo.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is not a run directory: it has no settings\.json"):
        lo.load(tmp_path)
    (tmp_path / "settings.json").write_text('{"optimizer": {"kind": "Other"}}')
    with pytest.raises(ValueError, match="holds no trained weights yet"):
        lo.load(tmp_path)
    (tmp_path / "settings.json").write_text('{"task": {"kind": "Other"}}')  # as a search has it
    with pytest.raises(ValueError, match=r"is not the run of a training: its settings\.json desc"):
        lo.load(tmp_path)
    (tmp_path / "settings.json").write_text('{"scales": [0.1, 1.0]}')
    with pytest.raises(ValueError, match=r"is not a run directory: its settings\.json describes"):
        lo.load(tmp_path)
    (tmp_path / "settings.json").write_text('{"optimizer": {"kind": "Other"}}')
    saved.save_optimizer(tmp_path, lo.GRUOptimizer(3, key=jr.key(0)))
    with pytest.raises(ValueError, match="cannot be rebuilt|can be rebuilt: pass"):
        lo.load(tmp_path)
    with pytest.raises(ValueError, match=r"weight \.cell\.bias where this optimizer has \(12,\)"):
        lo.load(tmp_path, like=lo.GRUOptimizer(4, key=jr.key(0)))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        lo.load(tmp_path)


def largest_file(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_truncated_checkpoints_are_refused(tmp_path):
    train(tmp_path / "run", time_limit=1e-9)
    checkpoint = largest_file(max((tmp_path / "run" / "checkpoints").iterdir()))
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    with pytest.raises(ValueError, match="damaged"):
        train(tmp_path / "run", resume=True)
    weights = tmp_path / "run" / "weights.npz"
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"weights\.npz` is damaged"):
        lo.load(tmp_path / "run")


def test_weights_notice_a_changed_byte(tmp_path):
    arrays = {".cell.bias": np.arange(5.0), "b": np.ones((2, 3), np.float32)}
    storage.save_npz(tmp_path / "x.npz", arrays)
    found = storage.load_npz(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with np.load(tmp_path / "x.npz") as file:
        digest = file["sha256"]
    np.savez(tmp_path / "x.npz", **(arrays | {"b": np.zeros(1), "sha256": digest}))
    with pytest.raises(ValueError, match="its digest does not match"):
        storage.load_npz(tmp_path / "x.npz")
    bare: Any = arrays
    np.savez(tmp_path / "x.npz", **bare)
    with pytest.raises(ValueError, match="its digest does not match"):
        storage.load_npz(tmp_path / "x.npz")


def test_runs_of_older_versions_load(whole, tmp_path):
    """Their weights are a folder of Orbax's, and some of their settings had other names."""
    directory, run = whole
    shutil.copytree(directory, tmp_path / "old")
    (tmp_path / "old" / "weights.npz").unlink()
    storage.save_arrays(tmp_path / "old" / "weights", storage.tree_to_arrays(run.optimizer))
    settings = storage.load_json(tmp_path / "old" / "settings.json")
    for old, new in RENAMED.items():
        settings["training"][old] = settings["training"].pop(new)
    settings["memory_plan"]["segment"] = settings["memory_plan"].pop("checkpoint_every")
    storage.save_json(tmp_path / "old" / "settings.json", settings)
    assert same(lo.load(tmp_path / "old"), run.optimizer)
    read = Run(tmp_path / "old").settings
    for entry in ("training", "memory_plan"):
        assert read[entry] == storage.load_json(directory / "settings.json")[entry]
    again = train(tmp_path / "old", resume=True)
    assert same(again.optimizer, run.optimizer)
    assert not (tmp_path / "old" / "weights").exists()


def test_shipped_optimizers_are_those_of_the_results(monkeypatch, tmp_path):
    """Found by name from any folder; a folder of that name comes first."""
    monkeypatch.chdir(tmp_path)
    assert lo.shipped() == ("linear_regression", "mnist", "rosenbrock", "two_moons")
    for name in lo.shipped():
        assert same(lo.load(name), lo.load(RESULTS / name))
        assert saved.load_settings(name) == Run(RESULTS / name).settings
    sizes = [path.stat().st_size for path in SHIPPED.iterdir()]
    assert sum(sizes) < 1_000_000
    with pytest.raises(ValueError, match="does not exist. Shipped optimizers are linear_regress"):
        lo.load("quantum")
    saved.save_optimizer("mnist", lo.GRUOptimizer(3, key=jr.key(0)))
    with pytest.raises(ValueError, match=r"`mnist` is not a run directory: it has no settings"):
        lo.load("mnist")


def test_what_is_shipped_stays_small():
    """20 MB in all, and what is drawn alone has six digits."""
    names = b""  # without git: none
    if shutil.which("git") is not None:
        listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=RESULTS, capture_output=True)
        names = listed.stdout
    files = [RESULTS / name for name in names.decode().split("\0") if name]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 20e6
    drawn = {"mechanisms": ("states/paths", "clipping/updates"),
             "scorecard": ("initial_update", "later_updates"),
             "gradient_replay": ("rates",), "attribution": ("objectives",)}  # fmt: skip
    for name, fields in drawn.items():
        paths = [*RESULTS.rglob(f"{name}.npz")]
        assert len(paths) >= (4 if name in ("mechanisms", "scorecard") else 2)
        for arrays in map(storage.load_npz, paths):
            for field in fields:
                np.testing.assert_array_equal(arrays[field], storage.shortened(arrays[field]))


def test_arrays_notice_a_changed_byte(tmp_path):
    arrays = {"a": np.arange(5.0), "b": np.ones((2, 3), np.float32)}
    storage.save_arrays(tmp_path / "x", arrays)
    found = storage.load_arrays(tmp_path / "x")
    assert all(
        np.array_equal(found[k], arrays[k]) and found[k].dtype == arrays[k].dtype for k in arrays
    )
    storage.save_arrays(tmp_path / "x", arrays | {"a": np.zeros(2)})
    np.testing.assert_array_equal(storage.load_arrays(tmp_path / "x")["a"], np.zeros(2))
    assert os.listdir(tmp_path) == ["x"]


class Table(eqx.Module):
    numbers: np.ndarray
    names: tuple[str, ...]
    parts: dict[str, np.ndarray]
    count: int
    title: str


def test_what_is_saved_does_not_name_the_folder_it_was_saved_in(tmp_path):
    storage.save_arrays(tmp_path / "arrays", {"a": np.arange(3.0)})
    files = [path for path in (tmp_path / "arrays").rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in files)
    np.testing.assert_array_equal(storage.load_arrays(tmp_path / "arrays")["a"], np.arange(3.0))


def test_records_come_back_as_they_were(tmp_path):
    table = Table(np.array([1.0, np.inf, np.nan]), ("a", "b c"), {"z": np.ones(2) * 1j}, 3, "t")
    storage.save_record(tmp_path / "table.npz", table)
    found = storage.load_record(Table, tmp_path / "table.npz")
    np.testing.assert_array_equal(found.numbers, table.numbers)
    assert (found.names, found.count, found.title) == (table.names, 3, "t")
    np.testing.assert_array_equal(found.parts["z"], table.parts["z"])
    empty = Table(np.zeros(0), (), {}, 0, "")
    storage.save_record(tmp_path / "table.npz", empty)
    assert storage.load_record(Table, tmp_path / "table.npz").names == ()
    with pytest.raises(ValueError, match="does not hold a History"):
        storage.load_record(lo.meta_training.History, tmp_path / "table.npz")
    data = (tmp_path / "table.npz").read_bytes()
    (tmp_path / "table.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        storage.load_record(Table, tmp_path / "table.npz")


class Inner(eqx.Module):
    rates: np.ndarray
    parts: dict[str, np.ndarray]
    names: tuple[str, ...] = ()


class Outer(eqx.Module):
    first: Inner
    second: Inner
    count: int


def test_records_within_records_come_back(tmp_path):
    inner = Inner(np.arange(2.0), {"a/b": np.ones(2)}, ("x", "y"))
    outer = Outer(inner, Inner(np.zeros(0), {}), 3)
    path = tmp_path / "outer.npz"
    storage.save_record(path, outer)
    with np.load(path) as file:
        assert {"first/rates", "first/parts/", "first/parts/a/b", "count"} <= set(file.files)
        arrays = dict(file)
    found = storage.load_record(Outer, path)
    np.testing.assert_array_equal(found.first.rates, inner.rates)
    np.testing.assert_array_equal(found.first.parts["a/b"], np.ones(2))
    assert (found.first.names, found.second.parts, found.count) == (("x", "y"), {}, 3)
    # Fields with a default may be missing, at any depth; others are named.
    del arrays["second/names"], arrays["sha256"]
    np.savez(path, **arrays)
    assert storage.load_record(Outer, path).second.names == ()
    del arrays["second/rates"], arrays["first/parts/a/b"]
    np.savez(path, **arrays, rates=np.ones(1))
    lost = r"missing 2 fields \(first/parts/a/b, second/rates\), unknown 1 field \(rates\)"
    with pytest.raises(ValueError, match=lost):
        storage.load_record(Outer, path)


def test_records_of_an_earlier_version_are_refused_in_one_sentence(tmp_path):
    """Mechanisms were 45 fields side by side; the analysis has to be run again."""
    path = tmp_path / "mechanisms.npz"
    np.savez(path, explained_variance=np.ones(3), held_rates=np.ones(5), knees=np.ones(2))
    with pytest.raises(ValueError, match="Run the analysis that writes this file again") as error:
        storage.load_record(lo.Mechanisms, path)
    assert "missing 45 fields (adaptation/arm, " in str(error.value)
    assert "unknown 3 fields (explained_variance, held_rates, knees)" in str(error.value)
    assert len(str(error.value)) < 400


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    storage.write_atomically(tmp_path / "a.json", "old")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        storage.write_atomically(tmp_path / "a.json", "new")
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_unwritable_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder that can be written"):
        train(tmp_path / "file" / "run")


def test_a_checkpoint_on_a_full_disk_is_one_sentence(tmp_path, capfd):
    """Orbax logs a traceback, and names the reason behind two paths.

    The limit is that of the process: large enough for what else may be written meanwhile.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"a` cannot be written: File too large\.$"):
            storage.save_arrays(tmp_path / "a", {"x": np.random.default_rng(0).random(60_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capfd.readouterr().err == ""
    assert os.listdir(tmp_path) == []


def test_a_run_below_a_claimed_folder_is_left_to_its_own_process(tmp_path):
    """Training there may be about to rename these."""
    run = tmp_path / "run"
    (run / ".snapshots.new").mkdir(parents=True)
    (run / ".new.a1b2c3d4").write_text("half of it")
    (run / storage.LOCK).write_text("process 4242 on elsewhere\n")
    with storage.claimed(tmp_path):
        pass
    assert sorted(os.listdir(run)) == [storage.LOCK, ".new.a1b2c3d4", ".snapshots.new"]
    with storage.claimed(run):
        pass
    assert os.listdir(run) == []
