"""Tasks: distributions of problems.

A *task* draws *problems*, each with its data and initial parameters, and computes the loss of
parameters on a problem. Data that all problems share are fields of the task, data of one draw are
fields of the problem. Both are pytrees and arguments of compiled functions.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

from lrevopt import storage
from lrevopt.checks import instance, positive_integer, random_key
from lrevopt.shapes import shapes_of
from lrevopt.text import in_words

Step = int | Int[Array, ""]
"""Index of an inner step, counted from 0. A stochastic loss chooses its minibatch by it."""


class AbstractProblem(eqx.Module):
    """One draw from a task, with its initial parameters as one flat vector."""

    initial_parameters: eqx.AbstractVar[Float[Array, " dim"]]


class AbstractTask(eqx.Module):
    """A distribution of problems.

    For a task of your own, derive from it and write `sample` and `loss`. `loss` must be a scalar
    and differentiable in `parameters`; for meta-training, twice. Optimizers receive its gradient.
    Both methods are compiled and mapped over problems, so they must be functions that JAX can
    trace. Arrays that all problems share are fields of the task.
    """

    @abc.abstractmethod
    def sample(self, key: Key[Array, ""]) -> Any:
        """Draw a problem from a random key.

        It is an `AbstractProblem`, or any pytree of arrays with a flat vector `initial_parameters`
        of shape (dim,).
        """

    @abc.abstractmethod
    def loss(self, problem: Any, parameters: Float[Array, " dim"], step: Step) -> Float[Array, ""]:
        """Loss of `parameters` on `problem` at inner step `step`, counted from 0.

        A stochastic loss takes its minibatch from `problem` and `step`.
        """

    def part_of_loss(
        self,
        problem: Any,
        parameters: Float[Array, " dim"],
        step: Step,
        part: Int[Array, ""],
        parts: int,
    ) -> Float[Array, ""] | None:
        """Part 0, ..., `parts` - 1 of the loss, for devices that compute one gradient together.

        Parts add up to `loss(problem, parameters, step)` and take about equal time: the mean over a
        minibatch may give each device some of the examples. None, the default, stands for a loss
        that is not divided; each device then computes all of it.
        """
        return None

    @property
    def title(self) -> str:
        """What reports and figures call the task; by default the name of its class in words."""
        return in_words(type(self).__name__)

    @property
    def parameter_groups(self) -> dict[str, slice]:
        """Slices of the parameter vector by name of the group. By default all are one group.

        Networks name them `layer.weight` and `layer.bias`, first layer first.
        """
        return {"parameters": slice(None)}

    def metrics(self, problem: Any, parameters: Float[Array, " dim"]) -> dict[str, Array]:
        """Scalars by name, such as a test accuracy, that evaluations report of final parameters.

        By default none.
        """
        return {}

    def description(self) -> dict[str, Any]:
        """What a run's folder keeps of the task, as JSON, to tell it from others.

        By default its fields and, for a task of your own, a digest of their values.
        """
        fields = storage.fields_of(self)
        own = storage.package_of(type(self)) != "lrevopt"
        return fields | ({storage.VALUES: storage.digest_of_contents(self)} if own else {})


def examples_of_part(count: int, part: Int[Array, ""], parts: int) -> Int[Array, " example"]:
    """Which of `count` examples a part of a mean over them has: the loss is the mean of the parts'.

    With c the greatest common divisor of `count` and `parts`, there are c sets of examples, and
    each of them goes to `parts / c` of the parts.
    """
    sets = math.gcd(count, parts)
    size = count // sets
    return (part % sets) * size + jnp.arange(size, dtype=part.dtype)


def sample_problems(task: AbstractTask, key: Key[Array, ""], count: int) -> Any:
    """`count` independent problems, stacked: every leaf has a leading axis `problem`.

    Raises `ValueError` for a count below 1, and what is no task or no single key.
    """
    is_task(task)
    keys = jr.split(random_key("key", key), positive_integer("count", count))
    return jax.vmap(task.sample)(keys)


def is_task(task: Any) -> None:
    """Raise `ValueError` unless this is a task."""
    instance("task", task, AbstractTask, "a task")


def drawn_parameters(task: AbstractTask, key: Key[Array, ""]) -> Any:
    """Shape and type of the parameters of a draw, if the task is one that can be run.

    Nothing is computed. Raises `ValueError` as `check_task` does, and for what is no single key.
    """
    is_task(task)
    problem = shapes_of(draw, task, random_key("key", key))
    check_task(task, problem)
    return problem.initial_parameters


def check_task(task: AbstractTask, problem: Any) -> None:
    """Raise `ValueError` unless parameters are flat and the loss is a scalar of their type."""
    is_task(task)
    parameters: Any = getattr(problem, "initial_parameters", None)
    floating = hasattr(parameters, "dtype") and jnp.issubdtype(parameters.dtype, jnp.floating)
    if not (floating and parameters.ndim == 1 and parameters.size):
        found = eqx.tree_pformat(parameters, width=10**6, struct_as_array=True)
        raise ValueError(
            f"`problem.initial_parameters` must be one flat vector of at least one number of "
            f"floating dtype, got {found} from {type(task).__name__}."
        )
    # NumPy's float64 is JAX's default type, whatever that is.
    dtype = jax.dtypes.canonicalize_dtype(parameters.dtype)
    loss = shapes_of(_first_loss, task, problem)
    if getattr(loss, "shape", None) != () or loss.dtype != dtype:
        found = f"{loss.dtype} of shape {loss.shape}" if hasattr(loss, "dtype") else f"{loss}"
        raise ValueError(
            f"`{type(task).__name__}.loss` must return a scalar of dtype {dtype}, got {found}."
        )


# Compiled functions, of which only the trace is used: it is kept for tasks of one structure.
@eqx.filter_jit
def draw(task: AbstractTask, key: Key[Array, ""]) -> Any:
    """One problem."""
    return task.sample(key)


@eqx.filter_jit
def _first_loss(task: AbstractTask, problem: Any) -> Any:
    return task.loss(problem, problem.initial_parameters, 0)


def group_spans(task: AbstractTask, dim: int) -> dict[str, range]:
    """Indices of each group of a task's parameters.

    Raises `ValueError` for a group without parameters.
    """
    spans = {name: range(dim)[place] for name, place in task.parameter_groups.items()}
    if empty := [name for name, span in spans.items() if not span]:
        raise ValueError(f"`task.parameter_groups` must not be empty, but {empty[0]!r} is.")
    return spans


def compared_spans(task: AbstractTask, dim: int) -> dict[str, range]:
    """`group_spans` of a task; `ValueError` if its parameters are all one group."""
    spans = group_spans(task, dim)
    if len(spans) < 2:
        raise ValueError(
            f"`task` must have at least two groups of parameters to compare, but "
            f"{type(task).__name__} has one."
        )
    return spans
