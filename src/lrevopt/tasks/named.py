"""Tasks by name: built in, or `module:factory`."""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrevopt import specs, storage
from lrevopt.tasks.interface import AbstractTask
from lrevopt.tasks.linear_regression import LinearRegression
from lrevopt.tasks.mnist import MNIST
from lrevopt.tasks.rosenbrock import Rosenbrock
from lrevopt.tasks.two_moons import TwoMoons
from lrevopt.text import in_words

TASKS: dict[str, Callable[..., AbstractTask]] = {
    "linear_regression": LinearRegression,
    "rosenbrock": Rosenbrock,
    "two_moons": TwoMoons,
    "mnist": MNIST,
}
"""Tasks of this package (paper, section 3.2)."""


def make_task(
    spec: str, kwargs: Mapping[str, Any] | None = None, data_dir: Path | None = None
) -> AbstractTask:
    """The task that a name stands for: one of `TASKS`, or `module:factory` called with `kwargs`.

    `module:task` may also be a task itself. `data_dir` is passed on to what has an argument of
    that name. Raises `ValueError` for a name that stands for no task, arguments that do not fit,
    and data that cannot be found.
    """
    if spec in TASKS:
        make: Any = TASKS[spec]
    elif ":" in spec:
        make = specs.find_object("task", spec)
    else:
        raise ValueError(
            f"`task` must be one of {', '.join(TASKS)}, or module:factory, got {spec!r}."
        )
    arguments = dict(kwargs or {})
    if isinstance(make, AbstractTask):
        if arguments:
            raise ValueError(f"`task_kwargs` must be left out, since {spec} is a task itself.")
        return make
    if data_dir is not None and specs.takes(make, "data_dir"):
        arguments["data_dir"] = data_dir
    task = specs.call("task", spec, make, arguments)
    if not isinstance(task, AbstractTask):
        raise ValueError(f"`task` must make an AbstractTask, but {spec} made {_kind(task)}.")
    return task


def rebuild_task(description: Mapping[str, Any], data_dir: Path | None = None) -> AbstractTask:
    """The task of this package that `storage.describe` described.

    Raises `ValueError` for a task of another package, or one that its description does not
    determine.
    """
    kinds = {make.__name__: make for make in TASKS.values()}
    kind = description.get("kind", "")
    if description.get("package", "lrevopt") != "lrevopt" or kind not in kinds:
        raise ValueError(f"{kind} of {description.get('package')} is no task of this package.")
    arguments = inspect.signature(kinds[kind]).parameters
    known = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description.items()
        if name in arguments
    }
    if data_dir is not None and "data_dir" in arguments:
        known["data_dir"] = data_dir
    return kinds[kind](**known)


def differences(task: AbstractTask, description: Mapping[str, Any]) -> list[str]:
    """In what a task differs from the one that was described; nothing, if it is the same."""
    now = storage.describe(task)
    names = (now.keys() | description.keys()) - ({storage.VALUES} - description.keys())
    return sorted(name for name in names if not storage.agree(description.get(name), now.get(name)))


def task_of(settings: Mapping[str, Any], path: Path, data_dir: Path | None = None) -> AbstractTask:
    """The task of a run, made again as its settings say. `path` is the run's, for messages.

    Raises `ValueError` if that cannot be, or gives another task.
    """
    check_task_described(settings, path)
    spec, description = settings.get("task_spec"), settings["task"]
    if spec is not None:
        task = make_task(spec["spec"], spec["kwargs"], data_dir)
    elif description.get("package") == "lrevopt":
        task = rebuild_task(description, data_dir)
    else:
        raise ValueError(
            f"`{path}` is a run on {description['kind']} of {description.get('package')}: say how "
            f"to make it, with `--task module:factory`."
        )
    check_task_described(settings, path, task)
    return task


def check_task_described(
    settings: Mapping[str, Any], path: Path, task: AbstractTask | None = None
) -> None:
    """Raise `ValueError` for settings that describe no task, or another one than `task`."""
    found = settings.get("task")
    if not (isinstance(found, dict) and "kind" in found):
        raise ValueError(f"`{path / storage.SETTINGS}` names no task.")
    if task is not None and (different := differences(task, found)):
        raise ValueError(
            f"`{path}` is a run on another task than this {type(task).__name__} (different: "
            f"{', '.join(different)})."
        )


def short_name(spec: str) -> str:
    """Name of a task for files and keys: `my_module:make_spiral` is spiral.

    A factory called `task` or `make_task` has the name of its module.
    """
    module, _, attribute = spec.rpartition(":")
    name = attribute.rpartition(".")[2].removeprefix("make_")
    return module.rpartition(".")[2] if module and name == "task" else name


def name_of_kind(kind: str) -> str:
    """Name of a task that is known by its class alone: TwoMoons is two_moons."""
    known = {make.__name__: name for name, make in TASKS.items()}
    return known.get(kind, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower())


def title_of_name(name: str) -> str:
    """A name of a task in words: mnist is MNIST, my_task is My task."""
    return in_words(TASKS[name].__name__ if name in TASKS else name)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
