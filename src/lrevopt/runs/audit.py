"""The command `lrevopt audit`: two optimizers by name, compared by their updates."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import tyro

from lrevopt import specs
from lrevopt.checks import finite

Name = Annotated[str, tyro.conf.arg(metavar="OPTIMIZER")]


@dataclasses.dataclass(frozen=True)
class Audit:
    """Compare two optimizers by their updates, and say what explains a difference."""

    first: tyro.conf.Positional[Name]
    """optax:name, module:name, the folder of a run, a shipped name, or a white box's JSON file."""
    against: Name
    """The other one. Of both, module:name is an optimizer, an optax transformation, a pair
    (init, update), a function of `gradients`, or a function that makes one of these."""
    kwargs: tuple[str, ...] = ()
    """Arguments with which the first is made, as name=value."""
    against_kwargs: tuple[str, ...] = ()
    """Arguments with which the other is made, as name=value."""
    learning_rate: float = 0.01
    """Learning rate of each that takes one, unless its arguments give another; above 0, since
    optimizers that never move are all equal."""
    tolerance: float = 1e-9
    """Relative difference up to which updates count as equal."""
    output: Path | None = None
    """File for the tables, as HTML; such a page that is there is replaced."""

    def main(self) -> int:
        """Audit in double precision, print; exit code 1 where they differ."""
        finite("learning_rate", self.learning_rate, above=0.0)
        from lrevopt.storage.files import page_file, write_atomically

        if self.output is not None:
            page_file("output", self.output)
        import jax

        jax.config.update("jax_enable_x64", True)
        from lrevopt.studies.audit import audit

        both = [
            find_subject("first", self.first, self.kwargs, self.learning_rate),
            find_subject("against", self.against, self.against_kwargs, self.learning_rate),
        ]
        names = (self.first.rpartition("/")[2], self.against.rpartition("/")[2])
        if names[0] == names[1]:
            names = ("first", "against")
        found = audit(*both, names=names, tolerance=self.tolerance)
        print(found)
        print()
        print(found.properties)
        if self.output is not None:
            write_atomically(self.output, found._repr_html_())
            print(self.output)
        return 0 if found.equal else 1


def find_subject(argument: str, spec: str, words: tuple[str, ...], learning_rate: float) -> Any:
    """What `audit` takes, by name. Raises `ValueError`, naming `argument`, if there is none.

    A function whose first argument is called `gradients` is a formula; any other is called to make
    the optimizer. Arguments in `words` for what is not made are refused too.
    """
    option = f"{argument}_kwargs".removeprefix("first_")
    kwargs = specs.parse_kwargs(option, words)
    found, made = _look_up(argument, spec)
    if made:
        if kwargs:
            raise ValueError(f"`{option}` must be left out for `{spec}`, which is not made.")
        return found
    if specs.takes(found, "learning_rate"):
        kwargs = {"learning_rate": learning_rate} | kwargs
    return specs.call(argument, spec, found, kwargs)


def _look_up(argument: str, spec: str) -> tuple[Any, bool]:
    """What a name stands for, and whether it is ready as it is or a function that makes it."""
    if specs.is_box(spec):
        from lrevopt.optimizers.white_box_documents import load_box

        return load_box(spec), True
    if ":" not in spec or Path(spec).exists():
        from lrevopt.optimizers.saved import load

        return load(spec), True
    found = specs.find_object(argument, spec)
    if isinstance(found, tuple) or not callable(found) or hasattr(found, "update"):
        return found, True
    parameters = [] if inspect.isclass(found) else list(inspect.signature(found).parameters)
    return found, parameters[:1] == ["gradients"]
