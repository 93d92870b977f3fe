"""Figures as panels times runs: what one draws, its numbers and its caption follow from its panels.

A `Panel` says how one thing is drawn, which records it is drawn from, and how to read it. A layout
puts panels side by side for one run (`side_by_side`), in a column for each run (`column_per_run`),
or draws one panel for each of several runs (`panel_per_run`).

A run is anything with a `title` and records by name, `None` where it has none: `lrevopt.runs`
reads one from a folder, and `types.SimpleNamespace(title="Mine", evaluation=record)` is one.
"""

import dataclasses
import functools
import itertools
import operator
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrevopt.plots.style import grid_of_panels, journal_style

Arrays = dict[str, np.ndarray]

CHARACTER, HANDLE = 0.055, 0.45
"""Inches that a character of a legend takes, and a mark with the space beside it."""


Records: TypeAlias = Any
"""A run, as above. What has such records has no class of its own here."""

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel: how it is drawn, what it draws, how it is read.

    `draw(ax, run)` fills an axis. With `each`, which lists what a run has several of, there is a
    panel for each item, filled by `draw(ax, run, item)`.
    """

    draw: Callable[..., None]
    fields: tuple[str, ...]
    """What it draws, as `record.field`; a record without a field stands for all in it."""
    caption: str
    title: str | Callable[[Any], str] = ""
    """Heading, in words or, with `each`, as a function of the item."""
    plane: tuple[str, ...] = ()
    """Fields of which the first two components are drawn."""
    made: Callable[[Any], Arrays] | None = None
    """Numbers of a run that are drawn and stand in no record, by name."""
    needs: tuple[str, ...] = ()
    """Records that it cannot be drawn without, beside those of its fields."""
    optional: bool = False
    """Whether a figure may leave it out for a run that lacks its records; it has no letter."""
    marks: Callable[[Sequence[Any]], list[Any]] | None = None
    """Legend entries for what these runs show, before those of labelled curves."""
    each: Callable[[Any], Sequence[Any]] | None = None

    def records(self) -> set[str]:
        """Names of the records that it cannot be drawn without."""
        return {path.partition(".")[0] for path in (*self.fields, *self.plane)} | {*self.needs}

    def possible(self, run: Records) -> bool:
        """Whether a run has what it draws."""
        found = [getattr(run, name, None) for name in self.records()]
        empty = [record is None or (isinstance(record, Mapping) and not record) for record in found]
        return not any(empty)

    def numbers(self, run: Records) -> Arrays:
        """What it draws of a run, by `field` or, of records in records, `record/field`."""
        if not self.possible(run):
            return {}
        arrays: Arrays = {}
        for path in self.fields:
            name = path.partition(".")[2].replace(".", "/")
            arrays |= flat(operator.attrgetter(path)(run), name)
        for path in self.plane:
            name = path.partition(".")[2].replace(".", "/")
            arrays[name] = np.asarray(operator.attrgetter(path)(run))[..., :2]
        return arrays | (self.made(run) if self.made is not None else {})

    def drawn(self, **options: Any) -> "Panel":
        """The same panel, drawn with these keyword arguments."""
        return dataclasses.replace(self, draw=functools.partial(self.draw, **options))

    def items(self, run: Records) -> Sequence[Any]:
        """What of a run has a panel of its own; one nameless item without `each`."""
        return [None] if self.each is None else self.each(run)

    def fill(self, ax: Axes, run: Records, item: Any) -> None:
        """Draw one item of a run."""
        if self.each is None:
            self.draw(ax, run)
        else:
            self.draw(ax, run, item)

    def heading(self, item: Any) -> str:
        """Title over an item."""
        return self.title if isinstance(self.title, str) else self.title(item)


def flat(value: Any, name: str = "") -> Arrays:
    """Every array of a record, or of records by name, by the path to it."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        return {name: np.asarray(value)}
    found: Arrays = {}
    for key, entry in value.items():
        found |= flat(entry, f"{name}/{key}" if name else str(key))
    return found


def of(record: str, draw: Callable[..., None]) -> Callable[..., None]:
    """`draw(ax, record, ...)` as a panel calls it, with a run that has the record at this path."""
    find = operator.attrgetter(record)

    def drawn(ax: Axes, run: Records, *item: Any, **options: Any) -> None:
        draw(ax, find(run), *item, **options)

    return drawn


def several(runs: Sequence[Item], argument: str = "runs") -> Sequence[Item]:
    """`runs`, if there is any. Raises `ValueError` if not."""
    if not runs:
        raise ValueError(f"`{argument}` must hold at least one run, got none.")
    return runs


@journal_style
def side_by_side(
    panels: Sequence[Panel],
    run: Records,
    *,
    height: float,
    columns: int | None = None,
    titled: bool = True,
    **options: Any,
) -> Figure:
    """The panels of one run, in one row or in rows of `columns`, each `height` inches high.

    The first has the title of the run, unless `titled` is false. `options` are as in
    `grid_of_panels`.
    """
    cells = [(panel, item) for panel in panels for item in panel.items(run)]
    columns = len(cells) if columns is None else min(columns, len(cells))
    figure, axes = grid_of_panels(-(-len(cells) // columns), columns, height=height, **options)
    for ax, (panel, item) in zip(axes.flat, cells, strict=False):
        panel.fill(ax, run, item)
    for ax in axes.flat[len(cells) :]:
        ax.set_axis_off()
    titles = [panel.heading(item) for panel, item in cells]
    if titled:
        titles[0] = ": ".join(part for part in (run.title, titles[0]) if part)
    letter_panels(axes.flat[: len(cells)], titles)
    places = {id(panel): [ax for ax, (own, _) in zip(axes.flat, cells, strict=False)
                          if own is panel] for panel in panels}  # fmt: skip
    legend_above(figure, legend_entries(panels, [run], [places[id(panel)] for panel in panels]))
    return figure


@journal_style
def column_per_run(
    panels: Sequence[Panel], runs: Sequence[Records], *, height: float, **options: Any
) -> Figure:
    """A column of panels for each run, under its title; rows are `height` inches high.

    A vertical label that is the same in a whole row is written once.
    """
    runs = several(runs)
    figure, axes = grid_of_panels(len(panels), len(runs), height=height, **options)
    lettered, titles = [], []
    for row, panel in zip(axes, panels, strict=True):
        for ax, run in zip(row, runs, strict=True):
            if panel.possible(run):
                panel.draw(ax, run)
            else:
                ax.set_axis_off()
        for ax in row[1:]:
            if ax.get_ylabel() == row[0].get_ylabel():
                ax.set_ylabel("")
        if not panel.optional:
            titles += [run.title if panel is panels[0] else "" for run in runs]
            lettered += list(row)
    letter_panels(lettered, titles)
    legend_above(figure, legend_entries(panels, runs, [list(row) for row in axes]))
    return figure


@journal_style
def panel_per_run(
    panel: Panel, runs: Sequence[Records], *, height: float, columns: int = 2, **options: Any
) -> Figure:
    """The same panel for each run, under its title, `columns` in a row."""
    runs = several(runs)
    columns = min(len(runs), columns)
    figure, axes = grid_of_panels(-(-len(runs) // columns), columns, height=height, **options)
    for ax, run in zip(axes.flat, runs, strict=False):
        panel.draw(ax, run)
    for ax in axes.flat[len(runs) :]:
        ax.set_axis_off()
    letter_panels(axes.flat[: len(runs)], [run.title for run in runs])
    legend_above(figure, legend_entries([panel], runs, [list(axes.flat)]))
    return figure


def letter_panels(axes: Iterable[Axes], titles: Sequence[str] = ()) -> None:
    """Put (a), (b), ... and, where there is one, a title over each panel."""
    pairs = map("".join, itertools.product(string.ascii_lowercase, repeat=2))
    letters = itertools.chain(string.ascii_lowercase, pairs)
    for ax, letter, title in zip(
        axes, letters, itertools.chain(titles, itertools.repeat("")), strict=False
    ):
        ax.set_title(rf"$\mathbf{{({letter})}}$ {title}".strip())


def legend_entries(
    panels: Sequence[Panel], runs: Sequence[Records], axes: Sequence[Sequence[Axes]]
) -> list[Any]:
    """Marks of the panels and labelled curves on their axes, each label once."""
    entries: dict[str, Any] = {}
    for panel, own in zip(panels, axes, strict=True):
        marks = [] if panel.marks is None else panel.marks(runs)
        curves = [handle for ax in own for handle in ax.get_legend_handles_labels()[0]]
        for handle in (*marks, *curves):
            entries.setdefault(str(handle.get_label()), handle)
    return list(entries.values())


def legend_above(figure: Figure, handles: Sequence[Any]) -> None:
    """A legend over all panels, read row by row, in as few rows as its width allows, if any."""
    if not handles:
        return
    lengths = [len(str(handle.get_label())) for handle in handles]
    columns = len(handles)
    for rows in range(1, len(handles) + 1):
        columns = -(-len(handles) // rows)
        widest = [max(lengths[place::columns]) for place in range(columns)]
        if sum(CHARACTER * length + HANDLE for length in widest) <= figure.get_figwidth():
            break
    # Matplotlib fills column after column.
    ordered = [handle for place in range(columns) for handle in handles[place::columns]]
    figure.legend(handles=ordered, loc="outside upper center", ncols=columns)
