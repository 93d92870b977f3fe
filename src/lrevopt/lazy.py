"""Names of a package that are imported when they are first used.

A package lists its public names once, as imports for type checkers:

    if TYPE_CHECKING:
        from lrevopt.optimizers import Momentum as Momentum
    else:
        __getattr__, __dir__, __all__ = lazy.exports(__name__, __file__)

and they are found here by reading that list.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def exports(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the package whose `__init__.py` is `file`."""
    names = _listed(Path(file).read_text(encoding="utf-8"))

    def attribute(name: str) -> Any:
        if name in names:
            module, original = names[name]
            value = getattr(importlib.import_module(module), original)
        elif not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        return sorted({*names, *vars(sys.modules[package])})

    return attribute, directory, sorted(names)


def _listed(source: str) -> dict[str, tuple[str, str]]:
    """Module and original name of what is imported under `if TYPE_CHECKING:`, by name."""
    found = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for line in statement.body:
                assert isinstance(line, ast.ImportFrom)
                for alias in line.names:
                    found[alias.asname or alias.name] = (str(line.module), alias.name)
    return found
