"""Whether two optimizers behave alike: `audit(first, second)`."""

from typing import Any

import jax
import numpy as np

from lrevopt.checks import finite, shown
from lrevopt.studies.audit.experiments import difference, experiments, measured
from lrevopt.studies.audit.explanation import Side, explain
from lrevopt.studies.audit.record import Answer, Audit, properties
from lrevopt.studies.audit.subjects import Traces, as_subject

DOUBLE, IN_SINGLE = 1e-9, 1e-5
"""Default tolerances, with and without double precision enabled."""


def audit(
    first: Any,
    second: Any,
    *,
    names: tuple[str, str] | None = None,
    tolerance: float | None = None,
) -> Audit:
    """Compare two optimizers by their updates alone, and say what explains a difference.

        lo.audit(optax.adam(1e-3), my_adam)

    Each of the two is one of these:

    - an optimizer of this package, or an optax transformation (or anything with `init` and
      `update`), which is run by JAX in double precision;
    - a function of the gradient history of one parameter, an array of shape (step,), that returns
      all updates, or the update after the whole history. One with an argument `parameters` gets
      those as well, from before each update;
    - a pair of plain functions `(init, update)`: `init(parameters) -> state` and
      `update(gradients, state, parameters) -> (updates, state)`, called with NumPy arrays of shape
      (1,) and (3,). With such a pair an optimizer of another library can be audited.

    Updates are what is added to the parameter. Seventeen experiments go from the first update at
    gradient 1 to 1,000 updates, and to arrays of three parameters. Both get the same gradients and
    parameters, whatever their updates. Agreement in all is evidence, not a proof. Updates count as
    equal if they differ by at most `tolerance` of the largest update of their history so far: by
    default 1e-9, or 1e-5 without double precision (`jax_enable_x64`).

    Where they differ, departures of the catalogue (`lo.DEPARTURES`) are tried, and those count that
    turn one optimizer's updates into the other's to the tolerance.

    `names` are two strings for the two, in place of their own names.

    Raises `ValueError` for anything else than an optimizer, one that fails or whose updates are
    complex or of another shape than gradients, `names` that are no two strings, or a tolerance that
    is not positive.
    """
    if tolerance is None:
        tolerance = DOUBLE if jax.config.read("jax_enable_x64") else IN_SINGLE
    tolerance = finite("tolerance", tolerance, above=0.0)
    name, other_name = (None, None) if names is None else _two_names(names)
    subjects = [as_subject("first", first, name), as_subject("second", second, other_name)]
    said = (subjects[0].name, subjects[1].name)
    if said[0] == said[1]:
        said = ("first", "second")
    one, other = (
        Side(subject._replace(name=name), measured(subject), tolerance)
        for subject, name in zip(subjects, said, strict=True)
    )
    return compare(one, other)


def _two_names(names: Any) -> tuple[str, str]:
    if not (isinstance(names, tuple | list) and [type(name) for name in names] == [str, str]):
        raise ValueError(f"`names` must be two strings, got {shown(names)}.")
    return names[0], names[1]


def _finite_share(one: Traces, other: Traces) -> float:
    return float(np.mean(np.isfinite(one) & np.isfinite(other)))


def compare(one: Side, other: Side) -> Audit:
    """Every experiment with both, and departures that explain where they differ."""
    tolerance, names = one.tolerance, (one.subject.name, other.subject.name)
    found = tuple(
        Answer(
            each.name, each.says,
            difference(each, one.known[each.name], other.known, tolerance),
            _finite_share(one.known[each.name], other.known[each.name]),
        )
        for each in experiments()
    )  # fmt: skip
    differing = [answer.name for answer in found if answer.difference is not None]
    explanations = explain(one, other, differing, tolerance) if differing else []
    table = properties(names, (one.known, other.known))
    return Audit(names, tolerance, found, explanations, table)
