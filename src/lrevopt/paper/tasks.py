"""The paper's four tasks: their order, and what they are called (section 3.2)."""

from collections.abc import Mapping
from typing import TypeVar

from lrevopt.text import in_words

Value = TypeVar("Value")

TITLES = {
    "linear_regression": "Linear regression",
    "rosenbrock": "Rosenbrock",
    "two_moons": "Two moons",
    "mnist": "MNIST",
}
"""Titles by name, in the paper's order."""


def title_of(task: str) -> str:
    """Title of a task by its name, of any other than the paper's its name as a label."""
    return TITLES.get(task, in_words(task))


def in_order(by_task: Mapping[str, Value]) -> dict[str, Value]:
    """The same by task, the paper's tasks first and in its order, then any others."""
    order = list(TITLES)
    names = sorted(by_task, key=lambda task: order.index(task) if task in order else len(order))
    return {task: by_task[task] for task in names}
