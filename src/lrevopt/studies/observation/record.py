"""What `observe` has recorded, as numbers on the host: `observation(state)`."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from lrevopt.studies.observation.measuring import NO_RATIO
from lrevopt.studies.observation.observe import FIELDS, ObserveState, sentence
from lrevopt.text import Printed, Table, number, percent


class Observation(Printed, eqx.Module):
    """Records of an observed optimizer, the oldest first. Host arrays; NaN where a number does not
    exist. Prints as a table of the last record.

    - `steps`: updates made before each record.
    - `groups`: names of the groups of parameters, the columns of the next five.
    - `rates`: effective learning rate, minus the response of the update to a small gradient.
    - `ratios`: norm of the update over norm of the parameters; NaN where these are all 0, or were
      not given to `update`.
    - `memories`: coefficient of the momentum with which the response dies away; `timescales` is
      -1 / ln of it, in updates.
    - `saturated`: share of entries whose response at the gradient met is below half of that at 0.
    - `known`: share of entries whose response is finite. Adam's is not where no gradient has been.
    - `losses`: where `sharpness=True`, as are the next four.
    - `sharpness`: curvature of the loss along the update; `stable`: curvature up to which the
      optimizer is stable in that direction.
    - `top_sharpness`, `top_stable`: the same along the stiffest direction, the one nearest to its
      bound, which power iteration follows from record to record.
    """

    steps: Int[np.ndarray, " record"]
    rates: Float[np.ndarray, "record group"]
    ratios: Float[np.ndarray, "record group"]
    memories: Float[np.ndarray, "record group"]
    saturated: Float[np.ndarray, "record group"]
    known: Float[np.ndarray, "record group"]
    losses: Float[np.ndarray, " record"]
    sharpness: Float[np.ndarray, " record"]
    stable: Float[np.ndarray, " record"]
    top_sharpness: Float[np.ndarray, " record"]
    top_stable: Float[np.ndarray, " record"]
    groups: tuple[str, ...] = eqx.field(static=True)
    watched: bool = eqx.field(static=True)
    """Whether there is a sharpness."""
    dropped: bool = eqx.field(static=True, default=False)
    """Whether older records were overwritten, so that the first one here was not the first."""

    @property
    def timescales(self) -> Float[np.ndarray, "record group"]:
        """1/e times of the response to a gradient, in updates; infinite for memory without end."""
        with np.errstate(all="ignore"):
            found = -1 / np.log(np.clip(self.memories, 0.0, None))
        return np.where(self.memories >= 1, np.inf, np.where(self.memories <= 0, 0.0, found))

    @property
    def crossed(self) -> tuple[int, ...]:
        """Records at which the edge of stability is crossed, by index.

        The sharpness exceeds what is stable there, and did not in the record before. What came
        before the first record is not known if older ones were overwritten: it is no crossing.
        """
        if not self.watched:
            return ()
        beyond = self.top_sharpness > self.top_stable  # not where a bound is NaN
        before = beyond[:1] if self.dropped else np.zeros(min(1, len(beyond)), bool)
        was = np.concatenate([before, beyond[:-1]])
        return tuple(int(k) for k in np.flatnonzero(beyond & ~was))

    @property
    def sentences(self) -> tuple[str, ...]:
        """One for each time that the edge of stability is crossed."""
        return tuple(
            sentence(int(self.steps[k]), self.top_sharpness[k], self.top_stable[k])
            for k in self.crossed
        )

    def table(self) -> Table:
        rows = [self._row(k) for k in range(len(self.groups))] if len(self.steps) else []
        heads = ("parameters", "learning rate", "update / parameter", "memory (updates)",
                 "saturated")  # fmt: skip
        last = f"after {self.steps[-1]} updates" if len(self.steps) else "no record yet"
        return Table(f"Observed optimizer, {last}", heads, rows, tuple(self._notes()))

    def _row(self, group: int) -> tuple[str, ...]:
        columns = (self.rates, self.ratios, self.timescales)
        return (
            self.groups[group], *(number(float(column[-1, group])) for column in columns),
            percent(float(self.saturated[-1, group])),
        )  # fmt: skip

    def _notes(self) -> Iterator[str]:
        yield f"{len(self.steps)} records{'; older ones were overwritten' * self.dropped}."
        if self.watched and len(self.steps):
            yield (
                f"Sharpness along the update {number(self.sharpness[-1])}, stable up to "
                f"{number(self.stable[-1])}; in the stiffest direction "
                f"{number(self.top_sharpness[-1])}, stable up to {number(self.top_stable[-1])}."
            )
        yield from self.sentences[-3:]


def observation(state: Any) -> Observation:
    """The records in the state of an observed optimizer, or in one that has such a state inside.

    Raises `ValueError` if there is none, or more than one.
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, ObserveState))
    found = [leaf for leaf in leaves if isinstance(leaf, ObserveState)]
    if len(found) != 1:
        raise ValueError(
            "`state` must be the state of one optimizer that `lo.observe` wraps, got "
            f"{len(found)} of them."
        )
    (watched,) = found
    records = watched.records
    if (shape := np.shape(records.count)) != ():
        raise ValueError(
            f"`state` must be the state of one optimizer, got states mapped over axes {shape}: "
            "take one, as in `jax.tree.map(lambda leaf: leaf[0], state)`."
        )
    count, length = int(records.count), len(records.steps)
    order = np.arange(max(count - length, 0), count) % length
    groups = np.asarray(records.groups, float)[order]
    columns = {name: groups[:, :, k] for k, name in enumerate(FIELDS)}
    missing = columns["known"] == 0
    for name in ("rates", "memories", "saturated"):
        columns[name] = np.where(missing, np.nan, columns[name])
    columns["ratios"] = np.where(columns["ratios"] == NO_RATIO, np.nan, columns["ratios"])
    curvatures = np.asarray(records.curvatures, float)[order]
    if not watched.watched:
        curvatures = np.full_like(curvatures, np.nan)
    loss, along, stable, top, top_stable = curvatures.T
    stable, top_stable = (np.where(bound > 0, bound, np.nan) for bound in (stable, top_stable))
    return Observation(
        steps=np.asarray(records.steps)[order], groups=watched.names, watched=watched.watched,
        dropped=count > length, losses=loss, sharpness=along, stable=stable, top_sharpness=top,
        top_stable=top_stable, **columns,
    )  # fmt: skip
