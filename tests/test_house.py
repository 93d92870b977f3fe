"""The house rules, read off the source: which room imports which, and how long things are.

The rooms stand in the order of the work. A module imports only from its own room and from rooms
above it, and there is no circle among modules.
"""

import ast
import graphlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import lrevopt

ROOT = Path(lrevopt.__file__).parent

ROOMS = (
    "lazy", "specs", "checks", "host_devices", "shapes", "text", "storage", "optimizers", "tasks",
    "inner_loop", "tuning", "meta_training", "analysis", "certificates", "studies", "templates",
    "plots", "runs", "paper",
)  # fmt: skip
"""Top to bottom. Outside stand the package, which lists the public names, and its command."""

LONGEST_FUNCTION, MOST_ARGUMENTS, LONGEST_FILE = 60, 5, 400

TOO_LONG: set[str] = {"paper/front_page_content.py render_front_page"}
"""Functions that still have too many lines. An entry that is no longer needed fails the test."""

TOO_MANY: set[str] = set()
"""Functions that still have too many positional parameters; as above."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def functions() -> Iterator[tuple[str, Function]]:
    """Every function and method, by file and name."""
    for path in SOURCES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT).as_posix()} {node.name}", node


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """Modules of the package that a module imports, and whether it does so when it is imported.

    What only type checkers see, and imports inside functions, come later or never.
    """
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    at_once = set(ast.walk(ast.Module(_run_at_once(tree.body), [])))
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [full if full in SOURCES else node.module for full in whole]
        for full in found:
            if full.partition(".")[0] == "lrevopt":
                assert full in SOURCES, f"{name} imports {full}, which is no module"
                yield full, node in at_once


def _run_at_once(body: list[ast.stmt]) -> list[ast.stmt]:
    later = (*Function.__args__, ast.ClassDef)
    return [
        node
        for node in body
        if not isinstance(node, later)
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]


def room(name: str) -> str:
    return name.split(".")[1] if "." in name and name != "lrevopt.__main__" else ""


def test_every_module_is_in_a_room_and_every_room_has_modules():
    assert {room(name) for name in SOURCES} == {"", *ROOMS}


@pytest.mark.parametrize("name", SOURCES)
def test_modules_import_from_rooms_above(name):
    if name == "lrevopt.__main__":
        return  # the command, which names every stage of runs and paper
    if name == "lrevopt":
        below = {room(full) for full, _ in imports(name)} & {"paper"}
        assert not below, "the public names are the library's: the paper is its client"
        return
    wrong = [
        full
        for full, _ in imports(name)
        if room(full) and ROOMS.index(room(full)) > ROOMS.index(room(name))
    ]
    assert not wrong


def test_no_module_imports_in_a_circle():
    """Beside packages, whose `__init__` Python runs on the way to each of their modules."""
    graph = {
        name: {full for full, at_once in imports(name) if at_once and full != name}
        for name in SOURCES
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names a circle
    places = {name: place for place, name in enumerate(order)}
    assert all(places[full] < places[name] for name, known in graph.items() for full in known)


def test_functions_are_short():
    long = {
        name
        for name, node in functions()
        if (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert long == TOO_LONG


def test_functions_have_few_positional_parameters():
    def count(node: Function) -> int:
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        return len(names) - (names[:1] in (["self"], ["cls"]))

    many = {name for name, node in functions() if count(node) > MOST_ARGUMENTS}
    assert many == TOO_MANY


def test_files_are_short():
    lines = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()
    }
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE} == {}


def test_what_public_functions_return_is_public():
    """Whoever gets an object can name its type: classes of ours in their annotations are exported.

    Annotations of parameters count as well, where the class is what a caller has to make.
    """
    classes = {
        node.name
        for path in SOURCES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    public: list[str] = vars(lrevopt)["__all__"]
    missing = {}
    for name in [name for name in public if name != "plot"]:
        value = getattr(lrevopt, name)
        if inspect.isfunction(inspect.unwrap(value)):
            written = inspect.unwrap(value).__annotations__.values()
            words = set(re.findall(r"\b[A-Z]\w+", " ".join(map(_spelled, written))))
            if hidden := (words & classes) - set(public):
                missing[name] = hidden
    assert missing == {}


def _spelled(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
