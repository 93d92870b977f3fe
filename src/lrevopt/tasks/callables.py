"""Functions that a user passes to a task: compared by what they do, described for a run's folder.

A lambda, or a function inside another, is a new object each time that the outer one is called.
JAX compiles per object, so a task that is made twice would compile everything twice. Here two
functions are the same if they have the same code and if all that they refer to, what they close
over and names of their module, has the same content.

That content is read once, when a task is made. As with `jax.jit`, a program goes on with the
values that it was compiled with: who changes them makes the task anew.
"""

import functools
import inspect
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lrevopt.storage.contents import closed_over, digest_of_contents, full_name, root_package


class Static:
    """Any value as a static field. Functions are equal by code and by the content they refer to.

    What has no hash is equal only to itself, and only while its content is the same.
    """

    def __init__(self, value: Any):
        self.value = value
        # Names of a module, and what can be changed in place, count by their content now.
        content = digest_of_contents(value, _package(value))
        self._identity = (_identity(value, ()), content)

    def __contents__(self) -> tuple[Any, ...]:
        """What its digest is made of (see `storage.digest_of_contents`)."""
        return (self.value,)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Static) and self._identity == other._identity)

    def __hash__(self) -> int:
        return hash(self._identity)


class _Same:
    """Equal only to the very same object, which is kept alive."""

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _identity(value: Any, around: tuple[object, ...]) -> Hashable:
    """Equal for two values exactly if one may stand for the other in a compiled program."""
    if isinstance(value, types.FunctionType):
        if value in around:  # it calls itself
            return around.index(value)
        inner = (*around, value)
        parts = (value.__defaults__, *(value.__kwdefaults__ or {}).items(), *closed_over(value))
        code = (_Same(value.__code__), _Same(value.__globals__))
        return (*code, *(_identity(part, inner) for part in parts))
    if isinstance(value, types.MethodType):
        return ("method", _identity(value.__func__, around), _identity(value.__self__, around))
    if isinstance(value, tuple):
        return (type(value), *(_identity(entry, around) for entry in value))
    if isinstance(value, float | complex):  # 0.0 equals -0.0, NaN nothing
        return (type(value), repr(value))
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return (type(value), value)


def _package(value: Any) -> str:
    """The package of the function among these leaves: its code counts by what it refers to."""
    leaves = value if isinstance(value, tuple) else (value,)
    kinds = (types.FunctionType, types.MethodType)
    return next((root_package(leaf) for leaf in leaves if isinstance(leaf, kinds)), "")


def as_array(leaf: Any) -> Any:
    """NumPy arrays as JAX arrays; anything else as it is."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


def shown(value: Any) -> str:
    """A value in one line: arrays by type and shape."""
    return eqx.tree_pformat(value, width=10**6, short_arrays=True, struct_as_array=True)


class Callback(eqx.Module):
    """A callable whose arrays are leaves and whose rest is static.

    Its arrays are those of an Equinox module, or the arguments of a `functools.partial` or a
    `jax.tree_util.Partial`. What a function closes over stays inside it.
    """

    arrays: Any
    structure: jax.tree_util.PyTreeDef = eqx.field(static=True)
    rest: Static = eqx.field(static=True)

    def __init__(self, function: Callable[..., Any]):
        arguments: tuple[Any, ...] = ()
        keywords: dict[str, Any] = {}
        while isinstance(function, functools.partial):
            arguments = (*function.args, *arguments)
            keywords = {**function.keywords, **keywords}
            function = function.func
        parts = jax.tree.map(as_array, (function, arguments, keywords))
        self.arrays, rest = eqx.partition(parts, eqx.is_array)
        leaves, self.structure = jax.tree.flatten(rest)
        self.rest = Static(tuple(leaves))

    def parts(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The function, and the arguments that are bound to it."""
        rest = jax.tree.unflatten(self.structure, self.rest.value)
        return eqx.combine(self.arrays, rest)

    def __contents__(self) -> tuple[Any, ...]:
        """What its digest is made of (see `storage.digest_of_contents`)."""
        return self.parts()

    def __call__(self, *arguments: Any) -> Any:
        function, bound, keywords = self.parts()
        return function(*bound, *arguments, **keywords)

    def takes(self, count: int) -> bool:
        """Whether it can be called with this many arguments."""
        function, bound, keywords = self.parts()
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some built-in functions have none
            return True
        try:
            signature.bind(*bound, *range(count), **keywords)
        except TypeError:
            return False
        return True

    def takes_key(self) -> bool:
        """Whether its second argument is a key: one that must be given, or that is named `key`.

        Another one with a default is the function's own: `lambda step, data=data: data[step]`.
        """
        if not self.takes(2):
            return False
        function, bound, keywords = self.parts()
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return True
        second = object()
        given = signature.bind(*bound, object(), second, **keywords).arguments
        (name,) = [name for name, value in given.items() if value is second] or ["key"]
        return name == "key" or signature.parameters[name].default is inspect.Parameter.empty

    def signature(self) -> str:
        """Its name and its arguments, for messages: `loss(params, batch)`."""
        function, _, _ = self.parts()
        try:
            return f"{full_name(function).rpartition('.')[2]}{inspect.signature(function)}"
        except (TypeError, ValueError):
            return full_name(function)


def check_no_tracers(name: str, function: Callable[..., Any]) -> None:
    """Raise `ValueError` for a function that closes over an array that is being traced."""
    for value in _reachable(function, {}):
        if isinstance(value, jax.core.Tracer):
            raise ValueError(
                f"`{name}` must not close over an array that is being traced, got one of shape "
                f"{value.shape}: create the task outside of jit, grad and vmap, or pass the array "
                f"through `batches`."
            )


def _reachable(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """Leaves that a function closes over, has as defaults or is bound to.

    `seen` keeps what was met alive, so that no other object has its address.
    """
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, functools.partial):
        inside: list[Any] = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.MethodType):
        inside = [value.__func__, value.__self__]
    elif isinstance(value, types.FunctionType):
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        inside = [*closed_over(value), *defaults]
    else:
        leaves = jax.tree.leaves(value)
        inside = [] if len(leaves) == 1 and leaves[0] is value else leaves
        if not inside:
            yield value
    for part in inside:
        yield from _reachable(part, seen)


def digest(value: Any) -> str:
    """Digest of what a function or data are made of: code of the function's own package counts."""
    function = value.parts()[0] if isinstance(value, Callback) else value
    return digest_of_contents(value, root_package(function))
