"""Which functions and other static values may stand for each other in a compiled program.

JAX compiles per object, and a lambda is a new object each time that its line runs. Here two
values are the same if all that they are made of has the same content: code, defaults, what a
function closes over, the globals it reads, and the fields of objects, all the way down. Libraries
(Python's own, JAX, this package, whatever is installed in `site-packages`) count as they are:
what their functions were made with is followed, their globals are not.
"""

import dataclasses
import functools
import hashlib
import pickle
import sys
import types
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lrevopt.storage.contents import (
    OPAQUE,
    closed_over,
    named_fields,
    names_of_module,
    root_package,
    slots_of,
)

Seen = dict[int, tuple[int, Any]]
"""By address: the place at which a value was met first, and the value, which keeps it alive."""


class Static:
    """Any value as a static field, equal to another one of the same contents.

    Contents are those at the time when it is made: two tasks of one line of code that were built
    while a global had two values do not share a program. As with `jax.jit`, a program that has
    been compiled stays as it is: one task that is used before and after such a change keeps its
    first program. Where contents are found to have changed when a new program is traced, and
    where they cannot be read, a value is from then on equal only to itself, so that no other one
    gets the program of contents that it does not have.
    """

    def __init__(self, value: Any):
        self._value = value
        self._identity = identity(value)
        self._hash = hash(self._identity)
        self._alone = False

    @property
    def value(self) -> Any:
        """The value, whose changes are noted."""
        self.note_changes()
        return self._value

    def note_changes(self) -> None:
        """From now on equal only to itself, if contents have changed since this was made."""
        self._alone = self._alone or identity(self._value) != self._identity

    def __contents__(self) -> tuple[Any, ...]:
        """What its digest is made of (see `storage.digest_of_contents`)."""
        return (self._value,)

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Static):
            return self is other
        return not (self._alone or other._alone) and self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash


class _Same:
    """Equal only to the very same object, which is kept alive."""

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def identity(value: Any) -> Hashable:
    """Equal for two values exactly if one may stand for the other in a compiled program.

    What cannot be read is equal to nothing, not even to itself when it is read again.
    """
    try:
        return _identity(value, {})
    except Exception:  # a user's own object may do anything when its fields are read
        return _Same(object())


def _identity(value: Any, seen: Seen) -> Hashable:
    if isinstance(value, float | complex | slice):  # 0.0 equals -0.0, NaN nothing
        return (type(value), repr(value))
    if value is None or isinstance(value, int | str | bytes | range):
        return (type(value), value)
    if isinstance(value, jax.Array):
        return _Same(value)
    if id(value) in seen:
        return ("seen", seen[id(value)][0])
    seen[id(value)] = (len(seen), value)
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(value, seen)
    if isinstance(value, set | frozenset):
        return (type(value), frozenset(_identity(entry, {}) for entry in value))
    kind: type = type(value)
    return (kind, *_known(value), *(_identity(part, seen) for part in _inside(value)))


def _of_array(value: Any, seen: Seen) -> Hashable:
    """Arrays of NumPy can be changed in place, so that they count by content."""
    kind = (type(value), repr(value.dtype), value.shape)
    if value.dtype.hasobject:
        return (*kind, *(_identity(entry, seen) for entry in value.ravel().tolist()))
    return (*kind, hashlib.sha256(np.ascontiguousarray(value).data.cast("B")).digest())


def _known(value: Any) -> tuple[Hashable, ...]:
    """What is compared of a value beside the parts inside it."""
    if isinstance(value, types.FunctionType):
        return (_Same(value.__code__), _Same(value.__globals__))
    if isinstance(value, type | types.ModuleType | types.CellType):
        return (_Same(value),)
    if isinstance(value, list | tuple | Mapping | types.MethodType | functools.partial):
        return ()
    root = root_package(type(value))
    if (callable(value) and root in OPAQUE) or hasattr(value, "__get__"):
        return (_Same(value),)
    bare = not hasattr(value, "__dict__") and not any(slots_of(type(value)))
    if root not in ("jax", "jaxlib") and (bare or root in OPAQUE) and not _is_namespace(value):
        return (pickle.dumps(value),)
    try:
        hash(value)
    except TypeError:
        return ()
    return (value,)


def _inside(value: Any) -> Iterator[Any]:
    """Parts of a value that are compared in turn."""
    if isinstance(value, types.FunctionType):
        yield from (value.__defaults__, value.__kwdefaults__, *closed_over(value))
        if not _is_library(root_package(value)):
            yield vars(value)
            yield from _globals_of(value)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        yield from (part for item in value.items() for part in item)
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, type):
        yield from () if _is_library(root_package(value)) else _inside_class(value)
    elif not isinstance(value, types.ModuleType | types.CellType):
        yield from _inside_object(value)


def _globals_of(function: types.FunctionType) -> Iterator[Any]:
    """Each global that a function reads, after its name, and what it reads of its own modules."""
    known, names = function.__globals__, names_of_module(function.__code__)
    within = [known[name] for name in names if name in known]
    yield from (part for name in names if name in known for part in (name, known[name]))
    within += [part for part in closed_over(function) if isinstance(part, types.ModuleType)]
    met: set[int] = set()
    while within:
        module = within.pop()
        library = isinstance(module, types.ModuleType) and _is_library(_root_of(module))
        if not isinstance(module, types.ModuleType) or library or id(module) in met:
            continue
        met.add(id(module))
        for name in names:
            if name in vars(module):
                yield from (name, vars(module)[name])
                within.append(vars(module)[name])


def _root_of(module: types.ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _inside_class(kind: type) -> Iterator[Any]:
    """Methods of a class, and its attributes whose names do not begin with an underscore."""
    yield from kind.__bases__
    for name, value in list(vars(kind).items()):
        for field in ("__func__", "fget", "func", "method", "__wrapped__"):
            value = getattr(value, field, value)
        if isinstance(value, types.FunctionType) or not name.startswith("_"):
            yield from (name, value)


def _inside_object(value: Any) -> Iterator[Any]:
    """What an object wraps, its class, and its fields by name."""
    kind = type(value)
    yield getattr(value, "__wrapped__", None)
    if root_package(kind) in OPAQUE and not _is_namespace(value):
        yield getattr(value, "__self__", None)  # of a built-in method, such as `table.__getitem__`
        fields = getattr(value, "__dict__", {}).values()
        yield from (part for part in fields if isinstance(part, types.FunctionType))
        return
    yield kind
    if hasattr(kind, "__contents__"):
        yield value.__contents__()
    elif dataclasses.is_dataclass(value):
        yield from (getattr(value, field.name, None) for field in dataclasses.fields(value))
    else:
        yield from (part for field in named_fields(value) for part in field)


def _is_namespace(value: Any) -> bool:
    return type(value) is types.SimpleNamespace


@functools.cache
def _is_library(root: str) -> bool:
    """Whether a package, given by its outermost name, is none of the user's own."""
    if root in OPAQUE or root == __name__.partition(".")[0]:
        return True
    module = sys.modules.get(root)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any("site-packages" in str(at) or "dist-packages" in str(at) for at in places)
