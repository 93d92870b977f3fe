"""The public names of `lrevopt` and the room, or page, on which each is documented."""

import ast
import importlib
import inspect
from types import ModuleType
from typing import Any

import lrevopt

LOOSE = {"storage": "runs", "checks": "runs", "text": "runs"}
"""Page of names that are defined in a module beside the rooms."""


def public_names() -> dict[str, Any]:
    """Dotted public name to object: what `lrevopt` and `lrevopt.plot` offer."""
    found: dict[str, Any] = {}
    for prefix, module in (("", lrevopt), ("plot.", getattr(lrevopt, "plot", None))):
        for name in sorted(_exported(module)) if module else ():
            value = getattr(module, name)
            if not isinstance(value, ModuleType):
                found[prefix + name] = value
    return found


def _exported(module: ModuleType) -> list[str]:
    """`__all__`, or what the source imports as itself (`Momentum as Momentum`), lazily or not."""
    if (names := getattr(module, "__all__", None)) is not None:
        return [name for name in names if not name.startswith("_")]
    aliases = [alias for node in _imports(module) for alias in node.names]
    return [alias.name for alias in aliases if alias.asname == alias.name]


def room_of(name: str, value: Any) -> str:
    """Page on which a public name stands."""
    if name.startswith("plot."):
        return "plots"
    home = getattr(value, "__module__", None) or ""
    if not home.startswith("lrevopt."):
        home = home_of_data(name)
    room = home.split(".")[1]
    return LOOSE.get(room, room)


def home_of_data(name: str) -> str:
    """Module that assigns the constant `name`, found by following imports in the source."""
    home, imported = "", "lrevopt"
    while imported != home:
        home = imported
        for node in _imports(importlib.import_module(home)):
            if node.module and name in [alias.asname or alias.name for alias in node.names]:
                imported = node.module
    return home


def _imports(module: ModuleType) -> list[ast.ImportFrom]:
    tree = ast.parse(inspect.getsource(module))
    return [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
