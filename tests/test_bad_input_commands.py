"""Command lines that cannot be used: exit code 2, one line, and nothing changed on disk."""

import shutil
import sys
from pathlib import Path

import jax.random as jr
import pytest

import lrevopt as lo
from lrevopt import storage
from lrevopt.__main__ import main
from lrevopt.optimizers import saved

LEAST_TRIED = 80

BIG, HUGE, LONG = "10" + 9 * "0", 40 * "9", 300 * "n"
"""Numbers of 11 and of 40 digits, and a name that no file system takes."""

TRAIN = ["train", "rosenbrock", "--output", "new"]
REPRODUCE = ["reproduce", "rosenbrock", "--output", "new"]
TUNE = ["tune", "rosenbrock", "--output", "new"]
GALLERY = ["gallery", "rosenbrock", "--output", "new"]
SCORE = ["scorecard", "optax:sgd", "--task", "rosenbrock", "--output", "new"]
EXPLORE = ["explore", "rosenbrock", "--output", "new.html"]
SCALES = ["tune-scales", "run", "new", "--input-factors", "1", "--output-factors", "1"]

DISTILL = ["distill", "run", "--output", "new"]
UNIVERSALITY = ["universality", "--output", "new"]
FACTORIAL = ["factorial", "--output", "new"]

COMMAND_LINES: list[list[str]] = [
    ["quantum"],
    ["train"],
    ["train", "quantum"],
    ["train", "rosenbrock", "--bogus", "1"],
    ["train", "nowhere:make"],
    ["train", "rosenbrock", "--optimizer", "quantum"],
    # Distillation.
    *([*DISTILL, f"--{name}", "0"]
      for name in ("starts", "seeds", "numbers", "training-steps", "steps", "problems", "tried",
                   "trained-starts", "training-problems", "screening-problems", "fit-starts")),
    [*DISTILL, "--studies", "all"],
    [*DISTILL, "--studies"],
    [*DISTILL, "--studies", "fit", "fit"],
    [*DISTILL, "--estimator", "magic"],
    [*DISTILL, "--white-box", "nowhere:make"],
    [*DISTILL, "--white-box", "nowhere.txt"],
    # Training: counts, sizes and rates.
    *([*TRAIN, "--training.steps", value] for value in ("0", "-1", "1.5", "many", BIG, HUGE)),
    *([*TRAIN, "--training.unroll", value] for value in ("0", BIG, HUGE, "2000000000")),
    *([*TRAIN, "--training.problems", value] for value in ("0", "-3", BIG, "1000000000")),
    *([*TRAIN, "--training.selection-problems", value] for value in (BIG, "2000000000")),
    *([*TRAIN, "--optimizer.units", value] for value in ("0", "-1", "10000000", BIG, HUGE)),
    *([*TRAIN, "--training.learning-rate", value] for value in ("0", "nan", "inf", "1e300")),
    *([*TRAIN, "--training.epsilon", value] for value in ("0", "1e-50", "-1")),
    *([*TRAIN, "--seed", value] for value in ("-1", "1.5", "4294967296", HUGE)),
    *([*TRAIN, "--time-limit", value] for value in ("0", "-1", "nan", "1e300")),
    *([*TRAIN, "--memory-limit", value] for value in ("0", "1e-9", "-1")),
    [*TRAIN, "--optimizer.input-scale", "1e300"],
    [*TRAIN, "--optimizer.output-scale", "0"],
    [*TRAIN, "--training.micro-batch", "5"],
    [*TRAIN, "--training.estimator", "magic"],
    [*TRAIN, "--save-every", "0"],
    [*TRAIN, "--resume"],
    [*TRAIN, "--preset", "none"],
    [*TRAIN, "--kwargs", "rate=1"],
    # What another optimizer overrides.
    [*TRAIN, "--start", "run", "--optimizer.units", "7"],
    [*TRAIN, "--start", "run", "--optimizer", "run"],
    [*TRAIN, "--optimizer", "run", "--optimizer.units", "7"],
    [*REPRODUCE, "--start", "run", "--optimizer.cell", "gru"],
    *([command, "rosenbrock", "--output", "staged", *more, "--optimizer.units", "7"]
      for command, more in (("train", ["--resume"]), ("reproduce", []))),
    [*TRAIN, "--start", "nowhere"],
    [*TRAIN, "--start", LONG],
    # Folders.
    *(["train", "rosenbrock", "--output", name] for name in
      ("notes", "notes/thesis.tex", "notes/thesis.tex/run", "dangling", LONG, "run")),
    *([stage, name] for stage in ("evaluate", "analyze", "intervene", "report", "figures")
      for name in ("nowhere", "notes", "dangling", LONG)),
    ["figures", "run", "run", "--output", "new"],
    ["figures", "run", "--figure", "99", "--output", "new"],
    ["claims", "nowhere"],
    ["claims", "notes"],
    ["front-page", "nowhere"],
    ["transfer", "--runs", "nowhere"],
    ["ship", "nowhere"],
    ["appendix-b", "nowhere", "new"],
    ["appendix-c", "nowhere"],
    # Other stages: counts, seeds, options that do not go together.
    *([*TUNE, "--tuning.settings", value] for value in ("0", BIG, "2000000000")),
    *([*TUNE, "--tuning.problems", value] for value in ("0", "2000000000")),
    [*TUNE, "--tuning.rungs", "4", "3000"],
    [*TUNE, "--seed", HUGE],
    ["tune", "rosenbrock", "--output", "run", "--tuning.steps", HUGE],
    *([stage, "run", "--problems", value] for stage in ("evaluate", "analyze", "intervene")
      for value in ("0", "-1", BIG, HUGE)),
    *([stage, "run", "--steps", value] for stage in ("evaluate", "analyze", "intervene")
      for value in ("0", BIG)),
    *([stage, "run", "--seed", HUGE] for stage in ("evaluate", "analyze", "intervene")),
    ["evaluate", "run"],
    ["horizons", "run"],
    ["horizons", "nowhere"],
    *(["horizons", "run", *more] for more in (
        ["--horizons", "0"], ["--horizons", "4", "-1"], ["--horizons", BIG], ["--horizons"],
        ["--against", "sgd"], ["--problems", "0"], ["--seed", HUGE], ["--baselines", "nowhere"])),
    ["evaluate", "run", "--baselines", "nowhere"],
    ["intervene", "run", "--problems", "2000000000"],
    ["analyze", "run", "--steps", "2000000000"],
    *([*SCORE, *more] for more in (
        ["--problems", "0"], ["--steps", "0"], ["--seed", "-1"], ["--run", "run"],
        ["--kwargs", "learning_rate=1e300"], ["--baseline", "adam"])),
    ["scorecard"],
    ["scorecard", "optax:sgd"],
    ["scorecard", "--optax", "quantum", "--task", "rosenbrock"],
    [*GALLERY, "--names", "quantum"],
    [*GALLERY, "--problems", "0"],
    [*GALLERY, "--problems", "2000000000"],
    *([*EXPLORE, *more] for more in (
        ["--steps", "0"], ["--parameters", "0"], ["--seed", HUGE], ["--task", "quantum"])),
    # A page does not replace what is no page.
    ["explore", "rosenbrock", "--output", "run"],
    ["explore", "rosenbrock", "--output", "run/settings.json"],
    ["explore", "rosenbrock", "--output", "notes/thesis.tex"],
    *(["audit", "optax:adam", "--against", "optax:sgd", *more] for more in (
        ["--output", "run"], ["--output", "run/settings.json"], ["--output", "notes/thesis.tex"],
        *(["--learning-rate", value] for value in ("0", "-1", "nan", "inf")))),
    ["audit", "rosenbrock", "--against", "optax:adam", "--kwargs", "units=3"],
    ["audit", "optax:adam", "--against", "rosenbrock", "--against-kwargs", "units=3"],
    ["audit", "optax:adam", "--against", "run/settings.json"],
    ["audit", "optax:adam", "--against", "optax:sgd", "--output", "run/settings.json/page.html"],
    ["explore", "rosenbrock", "--output", "run/settings.json/new/page.html"],
    [*SCALES, "--problems", "0"],
    *([*UNIVERSALITY, *more] for more in (
        ["--tasks", "two_moons", "rosenbrock"],
        *([f"--{name}", "0"] for name in ("seeds", "units", "problems", "test-problems", "steps")),
        ["--tasks", "quantum"], ["--cells", "quantum"], ["--cells", "gru", "gru"],
        ["--cells", "nowhere:make"], ["--baselines", "run"], ["--baselines", "run", "run"],
        ["--seed", HUGE])),
    *([*FACTORIAL, *more] for more in (
        ["--tasks", "two_moons", "rosenbrock"],
        *([f"--{name}", "0"] for name in ("seeds", "widths", "problems", "test-problems", "steps")),
        ["--tasks", "quantum"], ["--estimators", "newton"], ["--widths", "16", "16"],
        ["--meta-steps", "0"], ["--leave-out", "16"], ["--leave-out", "17x500"],
        ["--initialisations", "zero"], ["--baselines", "run"], ["--baselines", "run", "run"],
        ["--seed", HUGE], ["--time-limit", "0"])),
    ["tune-scales", "nowhere", "new", "--input-factors", "1", "--output-factors", "1"],
    ["search-learning-rate", "rosenbrock", "--candidates", "0"],
    *(["search-learning-rate", "rosenbrock", f"--{name}", value] for name in ("low", "high")
      for value in ("0", "nan", "inf", "-1")),
    ["search-learning-rate", "rosenbrock", "--low", "0.1", "--high", "0.01"],
    [*REPRODUCE, "--test-problems", "0"],
    ["reproduce", "rosenbrock", "--output", "notes"],
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: a run that was not evaluated, a link to nothing, somebody's thesis."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("irreplaceable")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    optimizer = lo.GRUOptimizer(2, key=jr.key(0))
    described = {"task": lo.Rosenbrock(), "optimizer": optimizer}
    settings = {name: storage.describe(module) for name, module in described.items()}
    storage.save_json(tmp_path / "run" / storage.SETTINGS, settings)
    saved.save_optimizer(tmp_path / "run", optimizer)
    storage.save_json(tmp_path / "staged" / storage.SETTINGS, settings | {"start": "run"})
    saved.save_optimizer(tmp_path / "staged", optimizer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def contents(directory: Path) -> dict[str, bytes | None]:
    """Everything below a folder, files with their bytes."""
    paths = (path for path in sorted(directory.rglob("*")))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def outcome(words: list[str], capsys) -> tuple[int, list[str]]:
    """Exit code of a command in this process, and the lines that it wrote to standard error."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err.splitlines()


def test_bad_command_lines_are_one_line_and_exit_code_2(folder, capsys, as_user):
    before, wrong = contents(folder), []
    for words in COMMAND_LINES:
        try:
            code, lines = outcome(words, capsys)
        except BaseException as error:
            wrong.append(f"{words}: {type(error).__name__}: {str(error)[:80]}")
            continue
        good = code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
        if not good or contents(folder) != before:
            wrong.append(f"{words}: code {code}, {lines[:3]}, {len(lines)} lines")
            shutil.rmtree(folder / "new", ignore_errors=True)
            before = contents(folder)
    tried = len(COMMAND_LINES)
    print(f"command lines: {tried} tried, {tried - len(wrong)} good", *wrong, sep="\n")
    assert not wrong
    assert tried >= LEAST_TRIED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["transfer", "--runs", "nowhere"], "`runs` must be a folder with a run in"),
        (["search-learning-rate", "rosenbrock", "--low", "0"], "`low` must be a finite number"),
        (["search-learning-rate", "rosenbrock", "--high", "1e-5"], "`high` must be a finite"),
        (["audit", "notes/thesis.tex", "--against", "optax:adam"],
         "`notes/thesis.tex` is not a run directory: it is a file."),
        (["audit", "run", "--against", "optax:adam", "--kwargs", "b1=0.5"],
         "`kwargs` must be left out for `run`, which is not made."),
        (["audit", "optax:adam", "--against", "run", "--against-kwargs", "b1=0.5"],
         "`against_kwargs` must be left out for `run`, which is not made."),
        *((["audit", "optax:adam", "--against", "optax:adam", "--kwargs", f"b1={value}"],
           f"`kwargs` must have finite numbers, got 'b1={value}'.")
          for value in ("nan", "NaN", "-inf", "1e999")),
        (["audit", "", "--against", "optax:adam"], "`source` must be the folder of a run or a"),
        ([*EXPLORE[:3], "run"], "`output` must be a file for the page, got the folder `run`."),
        ([*EXPLORE[:3], "run/settings.json"], "`run/settings.json`, which is no page."),
    ],
)  # fmt: skip
def test_the_sentence_names_the_argument_and_says_what_is_true(folder, capsys, words, said):
    code, lines = outcome(words, capsys)
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]


@pytest.mark.parametrize(
    ("words", "computes", "said"),
    [
        *((["explore", "optax:adam", "--task", "rosenbrock", "--output", "new.html", *more],
           "lrevopt.runs.tune.with_learning_rate", said)
          for more, said in (
              (["--steps", "0"], "`steps` must be"), (["--moments", "0"], "`moments` must be"),
              (["--parameters", "13"], "`parameters` must be at most 12, got 13."))),
        (["explore", "optax:adam", "--task", "rosenbrock", "--output", "run/settings.json/a.html"],
         "lrevopt.runs.tune.with_learning_rate", "`output` must be a file that can be written"),
        *((["appendix-c", "run", *more], "lrevopt.paper.appendices.stage.autonomous_path", said)
          for more, said in (
              *((["--scale", value], "`scale` must be a finite") for value in ("0", "nan", "-1")),
              (["--steps", "0"], "`steps` must be"))),
    ],
)  # fmt: skip
def test_what_can_be_refused_at_once_is_refused_before_anything_runs(
    folder, capsys, monkeypatch, words, computes, said
):
    def never(*arguments, **settings):
        raise AssertionError(f"{computes} has run")

    monkeypatch.setattr(computes, never)
    code, lines = outcome(words, capsys)
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]


def test_formula_of_text_is_told_so():
    with pytest.raises(ValueError, match="a str is no update"):
        lo.audit(lambda gradients: "x" * len(gradients), lo.Adam(0.1))
