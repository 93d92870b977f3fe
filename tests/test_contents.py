"""The table of what a run's folder holds: loading, stale parts, damaged files."""

import numpy as np
import pytest
import synthetic_records as made

import lrevopt as lo
from lrevopt import storage
from lrevopt.meta_training.run_directory import OF_OPTIMIZER, OF_SETTINGS
from lrevopt.paper.contents import META_DYNAMICS, MOMENTUM_MIMIC
from lrevopt.runs.contents import CONTENTS, Run, runs_by_task
from lrevopt.runs.experiment import Experiment, Learned
from lrevopt.runs.train import train
from lrevopt.runs.writing import remove_stale, stale

TRAINING = lo.MetaTraining(steps=2, unroll=3, problems=2, selection_problems=2)


@pytest.fixture
def folder(tmp_path):
    """The folder of a run on Rosenbrock that has its settings alone."""
    storage.save_json(tmp_path / "settings.json", {"task": storage.describe(lo.Rosenbrock())})
    return tmp_path


def fill(directory):
    """A file under every name of the table but those of training."""
    for part in CONTENTS.values():
        if part.stage != "train":
            for name in (part.file, *part.beside):
                (directory / name).parent.mkdir(exist_ok=True)
                (directory / name).write_text("old")


def test_an_empty_run_has_nothing_and_names_its_task(folder):
    run = Run(folder)
    assert (run.task_name, run.title) == ("rosenbrock", "Rosenbrock")
    assert isinstance(run.task, lo.Rosenbrock)
    missing = {name for name in CONTENTS if run.record(name) in (None, {})}
    assert missing == CONTENTS.keys() - {"settings"}
    assert not run.has("settings", "history")
    assert run.facts() == []


def test_records_are_loaded_once_on_first_use(folder):
    run = Run(folder)
    storage.save_record(folder / "evaluation.npz", made.evaluation())
    evaluation = run.evaluation
    assert evaluation is not None
    np.testing.assert_array_equal(evaluation.losses, made.evaluation().losses)
    (folder / "evaluation.npz").unlink()
    assert run.evaluation is evaluation


def test_a_damaged_file_is_refused_by_name_and_the_others_are_read(folder):
    storage.save_record(folder / "evaluation.npz", made.evaluation())
    (folder / "scorecard").mkdir()
    (folder / "scorecard" / "scorecard.npz").write_bytes(b"PK")
    storage.save_record(folder / "mechanisms.npz", made.scorecard())
    run = Run(folder)
    assert run.evaluation is not None
    with pytest.raises(ValueError, match=r"scorecard/scorecard.npz` is damaged"):
        run.scorecard  # noqa: B018
    with pytest.raises(ValueError, match=r"mechanisms.npz` does not hold a Mechanisms"):
        run.mechanisms  # noqa: B018


def test_whatever_baselines_there_are_is_read(folder):
    """One more than today's, or one fewer, in the order that the settings give."""
    names = ("adam", "momentum", "nesterov")
    for name in names:
        storage.save_record(folder / "tuning" / f"{name}.npz", made.tuning("adam"))
    storage.save_json(folder / "tuning" / "settings.json", {})
    assert list(Run(folder).tuning) == ["momentum", "adam", "nesterov"]
    storage.save_json(folder / "tuning" / "settings.json", {"baselines": names})
    assert list(Run(folder).tuning) == list(names)


def test_seeds_are_runs_with_the_baselines_of_the_first(folder):
    for seed in (10, 2):
        task = {"task": storage.describe(lo.Rosenbrock()), "seed": seed}
        storage.save_json(folder / "seeds" / str(seed) / "settings.json", task)
    storage.save_record(folder / "tuning" / "adam.npz", made.tuning("adam"))
    storage.save_json(folder / "tuning" / "settings.json", {})
    seeds = Run(folder).seeds
    assert list(seeds) == [2, 10]
    assert seeds[10].tuning.keys() == {"adam"}
    assert seeds[10].settings["seed"] == 10


def test_a_run_of_records_in_memory():
    mimic = made.momentum_mimic()
    run = Run.of("two_moons", evaluation=made.evaluation(), momentum_mimic=mimic)
    assert run.title == "Two moons"
    assert run.has("evaluation")
    assert run.mechanisms is None
    assert run.tuning == {}
    assert run.seeds == {}
    assert run.get(MOMENTUM_MIMIC) is mimic
    assert run.get(META_DYNAMICS) is None
    with pytest.raises(ValueError, match="`records` must be of settings, .* got 'evaluations'"):
        Run.of("two_moons", evaluations={})
    with pytest.raises(ValueError, match="`task` must be given"):
        run.task  # noqa: B018


def test_two_runs_of_one_task_are_refused(folder):
    assert list(runs_by_task([folder])) == ["rosenbrock"]
    with pytest.raises(ValueError, match="are both runs of rosenbrock"):
        runs_by_task([folder, folder])


def test_what_depends_on_what():
    """By whatever way: an evaluation is of tuned baselines, the report of everything."""
    assert {"scorecard", "mechanisms", "evaluation", "report"} <= set(stale("optimizer"))
    assert "tuning" not in stale("optimizer")
    assert set(stale("tuning")) == {"evaluation", "horizons", "figures", "report"}
    assert {"tuning", "evaluation", "task_picture"} <= set(stale("settings"))
    assert not {"settings", "optimizer", "history", "seeds"} & set(stale(*CONTENTS))


def test_training_removes_what_speaks_of_the_old_optimizer(tmp_path):
    first, second = (Experiment("linear_regression", Learned(2), TRAINING, s) for s in (0, 1))
    train(first, tmp_path / "run")
    fill(tmp_path / "run")
    there = {name for name, part in CONTENTS.items() if part.files(tmp_path / "run")}
    train(first, tmp_path / "run", resume=True)
    assert all(CONTENTS[name].files(tmp_path / "run") for name in there), "the same weights"
    train(second, tmp_path / "run", overwrite=True)
    left = {name for name, part in CONTENTS.items() if part.files(tmp_path / "run")}
    assert there - left == set(stale("settings", "optimizer")) & there
    assert left == {
        "settings", "history", "checkpoints", "snapshots", "optimizer",
        "momentum_mimic", "mimic_by_curves", "meta_dynamics",
    }  # fmt: skip
    assert Run(tmp_path / "run").settings["seed"] == 1


def test_training_knows_what_later_stages_make():
    """`lo.meta_train` removes it, too, without knowing the table."""

    def files(names):
        parts = [CONTENTS[name] for name in names]
        return {file for part in parts for file in (part.file, *part.beside, *part.formerly)}

    of_optimizer = set(stale("optimizer"))
    assert files(of_optimizer) == set(OF_OPTIMIZER)
    assert files(set(stale("settings")) - of_optimizer) == set(OF_SETTINGS)


def test_what_one_stage_replaces_leaves_the_others(folder):
    fill(folder)
    remove_stale(folder, "tuning")
    assert not (folder / "evaluation.npz").exists()
    assert not (folder / "comparisons.csv").exists()
    assert (folder / "mechanisms.npz").exists()
    assert (folder / "scorecard" / "scorecard.csv").exists()
