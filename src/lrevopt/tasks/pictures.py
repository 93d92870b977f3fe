"""Numbers of one picture of each task.

For linear regression these are condition numbers of Hessians, for Rosenbrock its surface, for two
moons its points, for MNIST some digits, and for any other task the losses of random starts.
"""

import functools

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from lrevopt.checks import positive_integer
from lrevopt.tasks.interface import AbstractTask, sample_problems
from lrevopt.tasks.linear_regression import LinearRegression
from lrevopt.tasks.mnist import MNIST
from lrevopt.tasks.rosenbrock import STARTS, Rosenbrock, RosenbrockProblem
from lrevopt.tasks.two_moons import TwoMoons

GRID = 121
"""Points along each side of a loss surface."""

DIGITS = 30
"""Images of digits in a picture."""


class TaskPicture(eqx.Module):
    """Numbers of one picture. `kind` says which arrays there are:

    - "condition_numbers": `condition_numbers` (draw,) of the Hessians of random problems;
    - "surface": `x` (x,), `y` (y,), `surface` (y, x) losses, `minimum` (2,) its place;
    - "scatter": `x` (example,), `y` (example,), `label` (example,) 0 or 1;
    - "images": `images` (example, side, side) of unsigned bytes, black to white;
    - "starting_losses": `starting_losses` (draw,) of random problems.
    """

    kind: str
    arrays: dict[str, np.ndarray]


def task_picture(task: AbstractTask, *, key: Key[Array, ""], draws: int = 1000) -> TaskPicture:
    """The picture of a task, from `draws` random problems where it needs any.

    Raises `ValueError` for fewer than 1 draw.
    """
    return _picture(task, key, positive_integer("draws", draws))


@functools.singledispatch
def _picture(task: AbstractTask, key: Key[Array, ""], draws: int) -> TaskPicture:
    problems = sample_problems(task, key, draws)
    losses = jax.vmap(lambda problem: task.loss(problem, problem.initial_parameters, 0))(problems)
    return TaskPicture("starting_losses", {"starting_losses": np.asarray(losses, float)})


@_picture.register
def _(task: LinearRegression, key: Key[Array, ""], draws: int) -> TaskPicture:
    matrices = np.asarray(sample_problems(task, key, draws).matrix, float)
    # The Hessian is A'A: its eigenvalues are the squared singular values of A.
    singular = np.linalg.svd(matrices, compute_uv=False)
    condition = (singular[:, 0] / singular[:, -1]) ** 2
    return TaskPicture("condition_numbers", {"condition_numbers": condition})


@_picture.register
def _(task: Rosenbrock, key: Key[Array, ""], draws: int) -> TaskPicture:
    x, y = (np.linspace(low, high, GRID) for low, high in STARTS)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    problem = RosenbrockProblem(jax.numpy.zeros(2))
    losses = jax.vmap(lambda point: task.loss(problem, point, 0))(
        jax.numpy.asarray(points, jax.numpy.result_type(float))
    )
    surface = np.asarray(losses, float).reshape(GRID, GRID)
    return TaskPicture(
        "surface", {"x": x, "y": y, "surface": surface, "minimum": np.array([1.0, 1.0])}
    )


@_picture.register
def _(task: TwoMoons, key: Key[Array, ""], draws: int) -> TaskPicture:
    x, y = np.asarray(task.inputs, float).T
    return TaskPicture("scatter", {"x": x, "y": y, "label": np.asarray(task.labels, int)})


@_picture.register
def _(task: MNIST, key: Key[Array, ""], draws: int) -> TaskPicture:
    shown = np.asarray(jax.random.permutation(key, len(task.images)))[:DIGITS]
    return TaskPicture("images", {"images": np.asarray(task.images)[shown]})
