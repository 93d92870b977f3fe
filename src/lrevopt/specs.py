"""Objects by name: `module:attribute`, and the arguments that they are called with."""

import importlib
import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def parse_kwargs(argument: str, words: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments from `key=value` words; a value that is not JSON is a string.

    Raises `ValueError`, naming `argument`, for a word without a name and an equals sign, and for a
    number that is NaN or infinite.
    """
    found = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not (sign and key.isidentifier()):
            raise ValueError(f"`{argument}` must be of the form name=value, got {word!r}.")
        if not _finite(value):
            raise ValueError(f"`{argument}` must have finite numbers, got {word!r}.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _finite(value: str) -> bool:
    """Whether a text is no number at all, or one that is finite."""
    try:
        return math.isfinite(float(value))
    except ValueError:
        return True


def is_box(spec: str) -> bool:
    """Whether the name of an optimizer is that of a file with a white box."""
    return spec.endswith(".json") and not os.path.isdir(spec)


def find_object(argument: str, spec: str) -> Any:
    """What `module:attribute` names; modules in the working folder are found.

    Raises `ValueError`, naming `argument`, if there is no such thing.
    """
    module, _, attribute = spec.partition(":")
    if not (module and attribute):
        raise ValueError(f"`{argument}` must be of the form module:name, got {spec!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever somebody else's module raises
        raise ValueError(f"`{argument}`: {module} cannot be imported: {_said(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"`{argument}`: {module} has no {attribute!r}.")
        found = getattr(found, part)
    return found


def call(argument: str, spec: str, make: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    """`make(**kwargs)`. Raises `ValueError`, naming `argument` and `spec`, if that fails."""
    try:
        inspect.signature(make).bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"`{argument}`: {spec} cannot be called like this: {error}.") from None
    except ValueError:  # no signature to look at
        pass
    try:
        return make(**kwargs)
    except ValueError:
        raise
    except Exception as error:  # whatever somebody else's function raises
        raise ValueError(f"`{argument}`: {spec} failed: {_said(error)}") from error


def takes(make: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument of this name."""
    try:
        return name in inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False


def _said(error: Exception) -> str:
    """An error in one line, with the place in the code that raised it."""
    text = " ".join(str(error).split())
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    known = isinstance(error, SyntaxError | ModuleNotFoundError)
    return f"{type(error).__name__}: {text}" + ("." if known else f" ({place}).")
