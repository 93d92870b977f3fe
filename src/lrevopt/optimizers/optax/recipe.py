"""How a transformation is made: it is given, or a factory makes it of hyperparameters."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lrevopt.checks import finite_leaves
from lrevopt.optimizers.classical import as_float
from lrevopt.storage.sameness import Static


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A transformation, or a factory with its settings and the names of its array arguments.

    Two recipes of one factory with equal settings are equal, so that optimizers which differ in
    their arrays alone have one structure. What they refer to must have had the same contents when
    they were made (`reads`, see `storage.sameness`).
    """

    source: Any
    settings: tuple[tuple[str, Any], ...] = ()
    names: tuple[str, ...] = ()
    made: bool = True
    reads: Static = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", Static((self.source, self.settings)))

    def __contents__(self) -> tuple[Any, ...]:
        """What its digest is made of (see `storage.digest_of_contents`)."""
        return (type(self), self.source, self.settings, self.names, self.made)

    def build(self, values: Sequence[Any]) -> Any:
        """The transformation of these array arguments, in the order of `names`."""
        self.reads.note_changes()
        if self.made:
            return self.source
        settings = {name: setting.value for name, setting in self.settings}
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self.source(**settings, **dict(zip(self.names, values, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A setting with its type: `True` and 1 are equal in Python, but may make other programs."""

    value: Any
    kind: type


@dataclasses.dataclass(frozen=True, eq=False)
class _ByIdentity:
    """A setting without a hash, such as a mask: equal only to itself."""

    value: Any


class _Transformation(NamedTuple):
    """A transformation whose functions have no hash, such as methods of a module with arrays."""

    init: Callable[..., Any]
    update: Callable[..., Any]


def make_recipe(source: Any, arguments: Mapping[str, Any]) -> tuple[Recipe, dict[str, Array]]:
    """A recipe, and the hyperparameters that are arrays.

    Raises `ValueError` for what is neither a transformation nor a factory with its arguments, and
    for a factory that cannot be called with them.
    """
    if is_transformation(source):
        if arguments:
            raise ValueError(
                "`transformation` must be a factory, such as `optax.adam`, where hyperparameters "
                f"are given, got a transformation and {', '.join(sorted(arguments))}."
            )
        return Recipe(_with_hash(source)), {}
    if not callable(source) or not arguments:
        kind = getattr(source, "__name__", type(source).__name__)
        hint = ": call it with its settings" if callable(source) else ""
        raise ValueError(
            f"`transformation` must be an optax.GradientTransformation, got {kind}{hint}."
        )
    arrays, settings = {}, {}
    for name, value in arguments.items():
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            if jnp.issubdtype(value.dtype, jnp.floating):
                arrays[name] = as_float(jnp.asarray(value))
                finite_leaves(name, arrays[name])
                continue
            value = _number(name, value)
        if isinstance(value, complex):
            raise ValueError(f"`{name}` must be real, got {value}.")
        settings[name] = value
    recipe = Recipe(_with_hash(source), _hashable(settings), tuple(sorted(arrays)), made=False)
    _require_factory(recipe, arrays)
    return recipe, {name: arrays[name] for name in recipe.names}


def is_transformation(source: Any) -> bool:
    return not isinstance(source, type) and all(
        callable(getattr(source, name, None)) for name in ("init", "update")
    )


def _number(name: str, value: Any) -> Any:
    """An integer or a boolean, which decides on the program and is no leaf."""
    if isinstance(value, jax.core.Tracer) or value.size != 1:
        raise ValueError(
            f"`{name}` must be a floating-point array or a plain {value.dtype} number, got "
            f"{'a traced' if isinstance(value, jax.core.Tracer) else 'an'} array of {value.dtype}."
        )
    return value.item()


def _hashable(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    def wrapped(value: Any) -> Any:
        return _Setting(value, type(value)) if _has_hash(value) else _ByIdentity(value)

    return tuple((name, wrapped(settings[name])) for name in sorted(settings))


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _with_hash(source: Any) -> Any:
    """A transformation or a factory, or one that calls it: programs are cached by its hash."""
    if _has_hash(source):
        return source
    if not is_transformation(source):
        return lambda **settings: source(**settings)
    init, update = source.init, source.update
    return _Transformation(lambda *args: init(*args), lambda *args: update(*args))


def _require_factory(recipe: Recipe, arrays: Mapping[str, Array]) -> None:
    """Call the factory once, with arrays of no value."""
    made = []

    def call(values: list[Array]) -> None:
        made.append(recipe.build(values))

    name = getattr(recipe.source, "__name__", type(recipe.source).__name__)
    shapes = [jax.ShapeDtypeStruct(arrays[n].shape, arrays[n].dtype) for n in recipe.names]
    try:
        jax.eval_shape(call, shapes)
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            f"`{name}` must be given plain numbers where it decides by their value, got arrays for "
            f"{', '.join(recipe.names)}."
        ) from error
    except Exception as error:  # factories check their own arguments
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"`{name}` refuses its arguments: {lines[0].rstrip('.')}.") from error
    if not is_transformation(made[0]):
        raise ValueError(
            f"`transformation` must make an optax.GradientTransformation, but {name} made a "
            f"{type(made[0]).__name__}."
        )
