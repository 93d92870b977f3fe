"""Functions that a user passes to a task: compared by what they do, described for a run's folder.

A lambda, or a function inside another, is a new object each time that the outer one is called.
JAX compiles per object, so a task that is made twice would compile everything twice. Here two
functions are the same if they have the same code and all that they close over and refer to had the
same contents when their tasks were made (see `storage.sameness`).
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lrevopt.storage.contents import closed_over, digest_of_contents, full_name, root_package
from lrevopt.storage.sameness import Static


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
