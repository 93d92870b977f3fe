"""What is built and published: wheel, source distribution, pins, citation, types for users."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hatchling import build
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = ["constraints.txt", "constraints-newest.txt"]
DRAWN = {".html", ".png", ".svg"}


def files_below(folder: Path) -> set[str]:
    """Files in `folder` as paths relative to the root of the project, without bytecode."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT).as_posix() for path in paths}


def wheel_of(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> zipfile.ZipFile:
    monkeypatch.chdir(source)
    return zipfile.ZipFile(target / build.build_wheel(str(target)))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The source distribution, built and unpacked."""
    target = tmp_path_factory.mktemp("sdist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        archive = target / build.build_sdist(str(target))
    with tarfile.open(archive) as opened:
        safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
        opened.extractall(target, **safe)
    return target / archive.name.removesuffix(".tar.gz")


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path, monkeypatch):
    """Every file below src/lrevopt, ignored by nothing, and the metadata."""
    with wheel_of(ROOT, tmp_path, monkeypatch) as wheel:
        names = set(wheel.namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert {f"src/{name}" for name in names - metadata} == files_below(ROOT / "src" / "lrevopt")
    assert "lrevopt/py.typed" in names
    assert any(name.endswith("templates/report.html") for name in names)


@pytest.mark.long
def test_a_wheel_from_the_source_distribution_is_the_same(tmp_path, unpacked, monkeypatch):
    """pip builds from the source distribution what we build from the repository."""
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    with (
        wheel_of(ROOT, tmp_path / "ours", monkeypatch) as ours,
        wheel_of(unpacked, tmp_path / "theirs", monkeypatch) as theirs,
    ):
        assert ours.namelist() == theirs.namelist()
        assert all(ours.read(name) == theirs.read(name) for name in ours.namelist())


def test_a_source_distribution_holds_what_its_tests_need(unpacked):
    """Package, tests, scripts, and the records in results/, without what is drawn from them."""
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    for folder in ("src", "tests", "scripts", "benchmarks"):
        assert files_below(ROOT / folder) <= found
    shipped = {name for name in found if name.startswith("results/")}
    assert {"results/claims.csv", "results/rosenbrock/settings.json"} <= shipped
    assert not [name for name in shipped if Path(name).suffix in DRAWN]
    top = {name.split("/")[0] for name in found}
    assert {"README.md", "LICENSE", "CITATION.cff", "Makefile", *CONSTRAINTS} <= top
    assert not top & {".git", ".venv", "runs", "shared"}


def pins_of(file: str) -> dict[str, str]:
    """Version by canonical name. Nothing but pins: no ranges, no address of an index."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pins: dict[str, str] = {}
    for line in lines:
        name, version = line.split("==")
        pins[canonicalize_name(name)] = version
    assert len(pins) == len(lines)
    return pins


def brought_by(requirements: list[str]) -> set[str]:
    """Names of what `requirements` bring to this environment, directly or through others."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            name = canonicalize_name(requirement.name)
            new = {(name, wanted) for wanted in ["", *requirement.extras]} - found
            needs = importlib.metadata.requires(name) or []
            waiting += [(Requirement(text), wanted) for text in needs for _, wanted in new]
            found |= new
    return {name for name, _ in found}


REQUIRED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_pin_what_the_project_requires(name):
    """One version each, one that `pyproject.toml` admits."""
    pins = pins_of(name)
    for requirement in map(Requirement, REQUIRED):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_everything_that_is_installed_is_pinned():
    """What requirements bring along, too: a release of theirs changes nothing that we test."""
    running = importlib.metadata.version("jax")
    names = [name for name in CONSTRAINTS if pins_of(name)["jax"] == running]
    if not names:
        pytest.skip(f"jax {running} is in neither of {' and '.join(CONSTRAINTS)}")
    assert brought_by(REQUIRED) - set(pins_of(names[0])) == set()


def test_the_citation_names_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {PROJECT['version']}" in lines


def test_every_python_that_we_name_is_tested():
    """Classifiers are the versions of the workflow's matrix; pins exist; the oldest is allowed."""
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    matrix = re.findall(r'python: "([\d.]+)", constraints: ([\w.-]+)', workflow)
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line]
    assert [version for version, _ in matrix] == named
    assert {name for _, name in matrix} == set(CONSTRAINTS)
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_what_runs_on_the_newest_versions_names_test_files():
    _, _, after = (ROOT / ".ci" / "newest").read_text().partition("\nTESTED=(")
    words = after.partition(")")[0].split()
    tests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(words) > 5
    assert [word for word in words if not any(word in name for name in tests)] == []


USER = """
import jax.random as jr
import lrevopt as lo

task = lo.Rosenbrock()
learned = lo.load("results/rosenbrock")
run = lo.unroll(learned, task, task.sample(jr.key(0)), steps=200)
rest = lo.find_fixed_points(learned, run.states[::20, 0])
modes = lo.eigenmodes(lo.linearize(learned, rest.states[0]))
rivals = {"learned": learned, "Adam": lo.Adam(0.08, b1=0.8)}
found = lo.evaluate(rivals, task, problems=8, steps=200, key=jr.key(1))
print(modes.learning_rates, found.compare("learned", "Adam").high)
"""

OWN = """
import jax.numpy as jnp
import jax.random as jr
from jax import Array
import lrevopt as lo

class SignMomentum(lo.AbstractOptimizer):
    learning_rate: Array

    @property
    def readout(self) -> Array:
        return jnp.stack([jnp.zeros(()), -self.learning_rate])

    def initial_state(self) -> Array:
        return jnp.zeros(2)

    def transition(self, state: Array, gradient: Array) -> Array:
        velocity = 0.9 * state[0] + gradient
        return jnp.stack([velocity, jnp.tanh(velocity)])

class Problem(lo.AbstractProblem):
    target: Array
    initial_parameters: Array

class Bowl(lo.AbstractTask):
    def sample(self, key: Array) -> Problem:
        return Problem(jr.normal(key, (4,)), jnp.zeros(4))

    def loss(self, problem: Problem, parameters: Array, step: int | Array) -> Array:
        return jnp.sum((parameters - problem.target) ** 2)

settings = lo.MetaTraining(steps=100, unroll=40, problems=16)
trained = lo.meta_train(Bowl(), lo.GRUOptimizer(8, key=jr.key(0)), settings, key=jr.key(1))
tuned = lo.tune(Bowl(), lo.Momentum, lo.Tuning(settings=100), key=jr.key(2))
print(trained.history.selection_scores, tuned.best)
lo.measure_scorecard(SignMomentum(jnp.asarray(0.1)), Bowl(), key=jr.key(3))
"""

WRONG = """
import lrevopt as lo

lo.load(3)
lo.Rosenbrock().nothing
lo.effective_learning_rate(lo.LinearRegression(), lo.GradientDescent(0.1).initial_state())
"""


@pytest.mark.slow
def test_user_code_passes_a_strict_type_check(tmp_path, monkeypatch):
    """Against the unpacked wheel, as installed: py.typed is found, and types are not `Any`."""
    with wheel_of(ROOT, tmp_path, monkeypatch) as wheel:
        wheel.extractall(tmp_path / "site")
    for name, text in {"user": USER, "own": OWN, "wrong": WRONG}.items():
        (tmp_path / f"{name}.py").write_text(text)
    scripts = ["user.py", "own.py", "wrong.py"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", *scripts],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    lines = [line.split(": error: ")[0] for line in errors]
    assert lines == ["wrong.py:4", "wrong.py:5", "wrong.py:6"], checked.stdout


def test_a_program_written_in_part_is_compiled_again_without_a_word(tmp_path):
    """Two workers share compiled programs, and JAX neither locks nor renames what it writes."""
    script = "import jax; print(jax.jit(lambda x: 3 * x + 1)(2.0))"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )

    whole = run()
    programs = list(tmp_path.glob("*-cache"))
    assert programs
    for program in programs:
        program.write_bytes(program.read_bytes()[:50])
    again = run()
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == whole.stdout
    del environment["PYTHONWARNINGS"]
    assert "Error reading persistent compilation cache entry" in run().stderr
