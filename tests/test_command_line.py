"""The command `lrevopt`: what it imports, what it lists, names of tasks and optimizers."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax.random as jr
import numpy as np
import pytest

import lrevopt as lo
from lrevopt import specs
from lrevopt.__main__ import main
from lrevopt.paper import commands as paper
from lrevopt.runs import commands as general
from lrevopt.runs.command_line import parse
from lrevopt.runs.experiment import Named
from lrevopt.runs.tune import with_learning_rate

SCRIPTS = Path(__file__).parent.parent / "scripts"
HEAVY = [
    "jax", "equinox", "optax", "scipy", "sklearn", "orbax", "matplotlib", "seaborn", "pandas",
    "jinja2", "pooch",
]  # fmt: skip
COMMANDS = general.COMMANDS | paper.COMMANDS
MODULE = """
import optax
import lrevopt as lo

def make_task(dim=3):
    return lo.LinearRegression(dim=dim)

def make(units=4, *, key):
    return lo.GRUOptimizer(units, key=key)

def chain(rate=0.1):
    return optax.chain(optax.clip(1.0), optax.sgd(rate))

def broken():
    return 1 / 0

number = 3
"""


def imported_by(code: str) -> list[str]:
    """Which of the heavy modules a fresh process has imported after some code."""
    ask = f"; import json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code + ask], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import lrevopt",
        "import lrevopt; lrevopt.__version__, lrevopt.__all__, dir(lrevopt)",
        "from lrevopt.__main__ import main; main(['--help'])",
        "from lrevopt.__main__ import main\ntry: main(['reproduce', '--help'])\n"
        "except SystemExit: pass\npass",
    ],
)
def test_imports_and_help_load_nothing_heavy(code):
    assert imported_by(code) == []


def test_every_script_is_a_subcommand_that_is_listed(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)
    named = {line.split('"')[1] for path in SCRIPTS.glob("*.py")
             for line in path.read_text().splitlines() if "main([" in line}  # fmt: skip
    assert named == set(COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lrevopt {lo.__version__}\n"
    assert main(["quantum"]) == 2
    assert "`COMMAND` must be one of train, tune," in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Nested:
    """Options of a part."""

    size: int = 3
    """Size of the part, which is said
    in two lines."""


@dataclasses.dataclass(frozen=True)
class Options:
    """A command."""

    length: int | None = None
    """Updates of each run (default: as many
    as the run has)."""
    names: tuple[str, ...] = ()
    """Which of them (default: all)."""
    part: Nested = Nested()


@dataclasses.dataclass(frozen=True)
class More(Options):
    """A command with one more option."""

    more: int = 1
    """One more
    option."""


def test_help_texts_are_paragraphs_that_mark_what_a_default_stands_for(capsys, monkeypatch):
    """tyro keeps line breaks of docstrings, and appends its own `(default: None)` to them."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(More, words=["--help"], prog="more")
    shown = capsys.readouterr().out
    for text in (
        "Updates of each run (None: as many as the run has). (default: None)",
        "Which of them (without any: all). (default: )",
        "Size of the part, which is said in two lines. (default: 3)",
        "One more option. (default: 1)",
    ):
        assert text in shown
    assert parse(More, words=["--part.size", "4"], prog="more") == More(part=Nested(4))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_have_one_default_and_speak_of_no_exceptions(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert not re.search(r"\(default: [^)]*\)\. \(default", shown)
    assert "Raises" not in shown
    assert "ValueError" not in shown


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user's own in the working folder."""
    (tmp_path / "own_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_module", raising=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["own_module:nothing"], "own_module has no 'nothing'"),
        (["own_module:broken"], "failed: ZeroDivisionError: division by zero (own_module.py, line"),
        (["own_module:number"], "own_module:number cannot be called like this"),
        (["nowhere:make"], "nowhere cannot be imported: ModuleNotFoundError"),
        (["own_module:make"], "missing a required argument: 'key'"),
        (["own_module:chain"], "must make an AbstractTask, but own_module:chain made a"),
        (["own_module:make_task", "--task-kwargs", "dim"], "must be of the form name=value"),
        (["own_module:make_task", "--task-kwargs", "size=3"], "unexpected keyword argument 'size'"),
        (["rosenbrock", "--optimizer", "optax:quantum"], "optax has no 'quantum'"),
        (["rosenbrock", "--optimizer", "nowhere"], "`nowhere` is not a run directory"),
        (["rosenbrock", "--kwargs", "rate=1"], "`kwargs` must be left out without `optimizer`"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(module, capsys, as_user, words, said):
    with pytest.raises(SystemExit) as stop:
        main(["train", *words, "--output", "run"])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["analyze", "run"],
        ["evaluate", "run"],
        ["scorecard", "--run", "run"],
        ["evaluate", "run", "--optimizer", "optax:sgd"],
    ],
)
def test_arguments_of_a_task_that_is_not_named_are_refused(module, capsys, as_user, words):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--task-kwargs", "dim=3"])
    assert stop.value.code == 2
    assert "`task_kwargs` must be left out without `task`" in capsys.readouterr().err


def test_optimizers_are_found_by_every_kind_of_name(module):
    key = jr.key(0)
    gru = Named("own_module:make", {"units": 3}).build(key)
    assert gru.initial_state().shape == (3,)
    assert isinstance(Named("own_module:chain").build(key), lo.OptaxOptimizer)
    assert isinstance(Named("optax:sgd", {"learning_rate": 0.1}).build(key), lo.OptaxOptimizer)
    assert Named("rosenbrock").build(key).initial_state().shape == (65,)
    assert [Named(spec).trainable for spec in ("own_module:make", "optax:sgd", "mnist")] == [
        True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"learning_rate": "nan"}, "learning_rate='nan'"),
        ({"learning_rate": np.nan}, "learning_rate=nan"),
        ({"learning_rate": [1, 2]}, r"learning_rate=\[1, 2\]"),
        ({"learning_rate": 0.1, "b1": "abc", "mu_dtype": "float32"}, "b1='abc'"),
        ({"b1": "abc"}, "b1='abc'"),  # fails in the search for a learning rate
    ],
)
def test_arguments_that_an_optimizer_cannot_compute_with_are_named(kwargs, said, as_user):
    def build():
        chosen = Named("optax:adam", kwargs)
        return with_learning_rate(chosen, lo.Rosenbrock(), problems=1, steps=1, seed=0).build(
            jr.key(0)
        )

    message = "`kwargs` must hold finite numbers where optax:adam computes with them, got"
    with pytest.raises(ValueError, match=f"{message} {said}.$"):
        build()


def test_a_transformation_that_asks_for_more_is_not_blamed_on_its_arguments(as_user):
    with pytest.raises(ValueError, match="`transformation` must update a single parameter"):
        Named("optax:lbfgs", {"learning_rate": 0.1}).build(jr.key(0))


def test_arguments_are_json_or_strings():
    words = ["rate=1e-3", "name=adam", "flag=true", "pair=[1, 2]"]
    assert specs.parse_kwargs("kwargs", words) == {
        "rate": 1e-3, "name": "adam", "flag": True, "pair": [1, 2],
    }  # fmt: skip
