"""What a value is made of, as a digest that is the same in each process.

Arrays count by content, objects by class and fields. Two values of one digest may stand for each
other in what is kept on disk.
"""

import dataclasses
import functools
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

UNKNOWN = ("<string>", "<stdin>")
"""Names of files of code that has none. Python 3.13 keeps that of `python -c` under the first."""

OPAQUE = {"jax", "jaxlib", "numpy", *sys.stdlib_module_names} - {"__main__"}
"""Packages whose objects count by name: their fields are caches, locks and the like."""


def full_name(value: Any) -> str:
    """`module.qualname` of a function or of the class of an object, without any address.

    A script that is run has the name of its file, as if it had been imported.
    """
    named = value if hasattr(value, "__qualname__") else type(value)
    module = getattr(named, "__module__", None) or "builtins"
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec else Path(file).stem if file else module
    return f"{module}.{named.__qualname__}"


def root_package(value: Any) -> str:
    """The outermost package of a function, a class, or the class of an object."""
    return full_name(value).partition(".")[0]


def digest_of_contents(value: Any, package: str = "") -> str:
    """Hexadecimal digest of what a value is made of, the same in another process.

    Arrays count by content, plain values and containers by value. Functions and classes of
    `package` count by source, and by what they close over and refer to; others by name, and
    functions that were made within others by what they close over too. Objects count by class and
    fields, those that JAX, NumPy and Python bring by name. A class may say with a method
    `__contents__` what its objects are made of.
    """
    total = hashlib.sha256()
    for part in _content(value, package, {}):
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def _content(value: Any, package: str, seen: dict[int, Any]) -> Iterator[bytes]:
    """Bytes that say what a value is, part by part.

    `seen` keeps what was met alive, so that no other object has its address.
    """
    if value is None or isinstance(value, PLAIN):
        yield repr(value).encode()
        return
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        yield from _array_content(value)
        return
    if id(value) in seen:
        yield b"seen"
        return
    seen[id(value)] = value
    yield full_name(value).encode()
    for part in _inside(value, package):
        yield from _content(part, package, seen)


PLAIN = (bool, int, float, complex, str, bytes, range, slice)
"""Types of values that `repr` shows in full."""


def _inside(value: Any, package: str) -> Any:
    """What a value that is no array and not plain is made of, beside its name."""
    if hasattr(type(value), "__contents__"):
        return value.__contents__()
    if isinstance(value, types.MethodType):
        return (value.__func__, value.__self__)
    if isinstance(value, types.FunctionType | type):
        own = root_package(value) == package
        return _source_and_references(value) if own else _made_with(value)
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(digest_of_contents(entry, package) for entry in value)
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return [type(value), *(getattr(value, field.name, None) for field in fields)]
    return _inside_object(value)


def _inside_object(value: Any) -> list[Any]:
    """What an object is made of: its class and its fields, in the order of their names.

    One of an opaque package has a name at most, and what it wraps.
    """
    wrapped = getattr(value, "__wrapped__", None)
    kind = type(value)
    if kind is not types.SimpleNamespace and root_package(kind) in OPAQUE:
        name = None if hasattr(value, "__qualname__") else getattr(value, "__name__", None)
        return [wrapped, name] if isinstance(name, str) else [wrapped]
    return [wrapped, kind, *named_fields(value)]


def named_fields(value: Any) -> list[tuple[str, Any]]:
    """Fields of an object that are no cached properties, in the order of their names."""
    kind, named = type(value), dict(getattr(value, "__dict__", {}))
    named |= {name: getattr(value, name) for name in slots_of(kind) if hasattr(value, name)}
    return [
        (name, named[name])
        for name in sorted(named)
        if not isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)
    ]


def slots_of(kind: type) -> Iterator[str]:
    """Names of fields of a class that have a place of their own instead of one in `__dict__`."""
    for above in kind.__mro__:
        slots = vars(above).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield name


def _made_with(value: Any) -> list[Any]:
    """What a function that another one made closes over and has as defaults."""
    if not isinstance(value, types.FunctionType) or "<locals>" not in value.__qualname__:
        return []
    bound = (value.__defaults__, value.__kwdefaults__, *closed_over(value))
    return [part for part in bound if part is not None and not isinstance(part, types.ModuleType)]


def _array_content(array: Any) -> Iterator[bytes]:
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    host = np.ascontiguousarray(array)
    yield f"{host.dtype.str} {host.shape}".encode()
    yield host.tobytes()


def _source_and_references(value: Any) -> list[Any]:
    """Source of a function or class (a function without one: its code), and what it refers to."""
    code = getattr(value, "__code__", None)
    try:
        if code and code.co_filename in UNKNOWN:
            raise OSError("what Python finds under such a name may be another text")
        parts: list[Any] = [textwrap.dedent(inspect.getsource(value))]
    except (OSError, TypeError):
        parts = [code.co_code, *map(str, code.co_names)] if code else []
        parts += [entry for entry in code.co_consts if not _is_code(entry)] if code else []
    if isinstance(value, types.FunctionType):
        known = value.__globals__
        parts += [known[name] for name in names_of_module(value.__code__) if name in known]
        parts += [value.__defaults__, value.__kwdefaults__, *closed_over(value)]
    return [part for part in parts if not isinstance(part, types.ModuleType)]


def _is_code(value: Any) -> bool:
    return isinstance(value, types.CodeType)


def names_of_module(code: types.CodeType) -> list[str]:
    """Names of a module that a function and those inside it refer to, in order."""
    inside = [
        name for entry in code.co_consts if _is_code(entry) for name in names_of_module(entry)
    ]
    return list(dict.fromkeys([*code.co_names, *inside]))


def closed_over(function: types.FunctionType) -> list[Any]:
    """Contents of a closure; for a name that is not bound yet, its cell."""
    found: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(cell)
    return found
