"""The command `lrevopt audit`: two optimizers by name, compared by their updates."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import tyro

from lrevopt import specs

Name = Annotated[str, tyro.conf.arg(metavar="OPTIMIZER")]


@dataclasses.dataclass(frozen=True)
class Audit:
    """Compare two optimizers by their updates, and say what explains a difference."""

    first: tyro.conf.Positional[Name]
    """optax:name, module:name, the folder of a run or a shipped name."""
    against: Name
    """The other one. Of both, module:name is an optimizer, an optax transformation, a pair
    (init, update), a function of `gradients`, or a function that makes one of these."""
    kwargs: tuple[str, ...] = ()
    """Arguments with which the first is made, as name=value."""
    against_kwargs: tuple[str, ...] = ()
    """Arguments with which the other is made, as name=value."""
    learning_rate: float = 0.01
    """Learning rate of each that takes one, unless its arguments give another."""
    tolerance: float = 1e-9
    """Relative difference up to which updates count as equal."""
    output: Path | None = None
    """File for the tables, as HTML."""

    def main(self) -> int:
        """Audit in double precision, print; exit code 1 where they differ."""
        import jax

        jax.config.update("jax_enable_x64", True)
        from lrevopt.storage import write_atomically
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
    the optimizer.
    """
    kwargs = specs.parse_kwargs(f"{argument}_kwargs".removeprefix("first_"), words)
    if ":" not in spec or Path(spec).exists():
        from lrevopt.optimizers.saved import load

        return load(spec)
    made = specs.find_object(argument, spec)
    if isinstance(made, tuple) or not callable(made) or hasattr(made, "update"):
        return made
    parameters = [] if inspect.isclass(made) else list(inspect.signature(made).parameters)
    if parameters[:1] == ["gradients"]:
        return made
    if specs.takes(made, "learning_rate"):
        kwargs = {"learning_rate": learning_rate} | kwargs
    return specs.call(argument, spec, made, kwargs)
