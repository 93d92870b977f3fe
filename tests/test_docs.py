"""Cheap truths about the documentation; `make docs` builds it and runs the tutorials."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lrevopt.paper import commands as paper
from lrevopt.runs import commands as general

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md"))
TUTORIALS = [p for p in PAGES if p.parent.name == "tutorials" and p.name != "index"]
OTHERS = [p for p in PAGES if p not in TUTORIALS]
TRAINING = {Path("guides/white_boxes"), Path("guides/observe")}
"""Pages whose code trains or fits something."""


def text_of(page: Path) -> str:
    return (DOCS / page).with_suffix(".md").read_text()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{re.escape(language)}\n(.*?)```", text_of(page), re.DOTALL)


@pytest.fixture(scope="module")
def names() -> ModuleType:
    """What the API pages are made from."""
    path = DOCS / "_extensions" / "public_names.py"
    spec = importlib.util.spec_from_file_location("public_names", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_stands_on_an_api_page(names):
    rooms = {names.room_of(name, value) for name, value in names.public_names().items()}
    shown = {
        room for page in PAGES for room in re.findall(r"^\.\. room:: (\w+)$", text_of(page), re.M)
    }
    assert rooms == shown
    assert {"Momentum", "unroll", "PRESETS"} < names.public_names().keys()


def test_every_page_is_in_a_table_of_contents():
    listed = {Path("index")}
    for page in PAGES:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", text_of(page), re.DOTALL):
            entries = [line.strip() for line in tree.splitlines()]
            listed |= {page.parent / e for e in entries if e and not e.startswith(":")}
    assert listed == set(PAGES)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.long if page in TRAINING else ()) for page in OTHERS],
    ids=str,
)
def test_python_on_pages_runs(page, monkeypatch):
    """As somebody would who types it in, in a clone; what is not to be run is not `python`."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    found = blocks(page, "python")
    for block in found:
        exec(block, names)
    # Every name that the page binds at the top level is there afterwards.
    bound = {
        target.id
        for block in found
        for node in ast.parse(block).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert bound <= names.keys()


@pytest.mark.parametrize("page", TUTORIALS, ids=str)
def test_tutorials_are_notebooks_with_code(page):
    assert text_of(page).startswith("---\njupytext:")
    cells = blocks(page, "{code-cell} python")
    assert cells
    for cell in cells:
        ast.parse(re.sub(r"^:.*\n", "", cell, flags=re.M))
    assert not blocks(page, "python")  # all of a tutorial's code is run


def test_commands_on_the_command_line_page_are_those_that_exist():
    shown = set(re.findall(r"`lrevopt ([\w-]+)`", text_of(Path("guides/command_line"))))
    assert shown == set(general.COMMANDS | paper.COMMANDS)
