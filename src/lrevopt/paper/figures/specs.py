"""What a figure of the paper is: its number and title, its panels, and the runs that it shows."""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lrevopt.plots.panel import Arrays, Panel, column_per_run, panel_per_run, side_by_side
from lrevopt.plots.style import figure_name
from lrevopt.runs.contents import Run

Runs = Mapping[str, Run]
"""Runs by the name of their task."""

Layout = Callable[[Sequence[Panel], Sequence[Run]], Figure]

PLACES = {1: ("",), 2: ("Top:", "Bottom:"), 3: ("Top:", "Middle:", "Bottom:")}
"""What rows of panels are called in captions."""


@dataclasses.dataclass(frozen=True)
class FigureText:
    """What a figure is called and how it is read: one of the paper's, or one with a name."""

    number: int | str
    title: str
    caption: str

    @property
    def label(self) -> str:
        """Heading: "Figure 3", or "Figure" for an unnumbered one."""
        return f"Figure {self.number}" if isinstance(self.number, int) else "Figure"

    @property
    def name(self) -> str:
        """Name of its files without suffix."""
        return figure_name(self.number)


@dataclasses.dataclass(frozen=True)
class FigureSpec(FigureText):
    """A figure that is drawn from runs.

    `choose` takes, of the runs by task that have what its panels draw, those that it shows.
    Numbers are named by task, unless there is only one of their kind.
    """

    panels: tuple[Panel, ...]
    layout: Layout
    choose: Callable[[Runs], Runs] = lambda runs: runs
    named_by_task: bool = True

    def shown(self, runs: Runs) -> Runs:
        """Of these runs, those that the figure shows."""
        panels = [panel for panel in self.panels if not panel.optional]
        return self.choose(
            {task: run for task, run in runs.items() if all(p.possible(run) for p in panels)}
        )

    def possible(self, runs: Runs) -> bool:
        """Whether there are numbers for it."""
        return not self.panels or bool(self.shown(runs))

    def draw(self, runs: Runs) -> Figure:
        """The figure. Raises `ValueError` if no run has what it draws."""
        shown = self.shown(runs)
        if self.panels and not shown:
            needs = sorted({name for panel in self.panels for name in panel.records()})
            raise ValueError(
                f"`runs` must hold one with {', '.join(needs)} for {self.name}, got {list(runs)}."
            )
        return self.layout(self.panels, list(shown.values()))

    def numbers(self, runs: Runs) -> Arrays:
        """What it draws, by `task/field`, or by `field` alone; nothing for a schematic."""
        return {
            f"{task}/{name}" if self.named_by_task else name: array
            for task, run in self.shown(runs).items()
            for panel in self.panels
            for name, array in panel.numbers(run).items()
        }


def one(preferred: str = "") -> Callable[[Runs], Runs]:
    """Of runs, that of one task, or else the first there is."""
    return lambda runs: {
        task: runs[task] for task in ([preferred] if preferred in runs else list(runs)[:1])
    }


def only(task: str) -> Callable[[Runs], Runs]:
    """The run of one task, if it is there."""
    return lambda runs: {name: run for name, run in runs.items() if name == task}


def captioned(panels: Sequence[Panel], intro: str = "", places: Sequence[str] | None = None) -> str:
    """The captions of panels, behind their places, by default (a), (b), ..."""
    letters = [f"({letter})" for letter in string.ascii_lowercase]
    places = ("",) if len(panels) == 1 else letters if places is None else places
    captions = [f"{place} {panel.caption}" for place, panel in zip(places, panels, strict=False)]
    return " ".join([intro, *captions]).replace("  ", " ").strip()


def figure_of_one(
    number: int | str,
    title: str,
    panels: Sequence[Panel],
    choose: Callable[[Runs], Runs],
    *,
    layout: Layout | None = None,
    intro: str = "",
    places: Sequence[str] | None = None,
    named_by_task: bool = True,
    **options: Any,
) -> FigureSpec:
    """A figure of one run, its panels side by side unless there is a `layout` of their own."""

    def drawn(panels: Sequence[Panel], runs: Sequence[Run]) -> Figure:
        return side_by_side(panels, runs[0], **options)

    caption = captioned(panels, intro, places)
    return FigureSpec(
        number, title, caption, tuple(panels), layout or drawn, choose, named_by_task
    )  # fmt: skip


def figure_by_task(
    number: int | str,
    title: str,
    panels: Sequence[Panel],
    choose: Callable[[Runs], Runs] = lambda runs: runs,
    *,
    intro: str = "One column per task.",
    **options: Any,
) -> FigureSpec:
    """A figure with a column of panels for each task or, of a single panel, one for each task."""

    def drawn(panels: Sequence[Panel], runs: Sequence[Run]) -> Figure:
        if len(panels) == 1:
            return panel_per_run(panels[0], runs, **options)
        return column_per_run(panels, runs, **options)

    caption = captioned(panels, intro, PLACES[len(panels)])
    return FigureSpec(number, title, caption, tuple(panels), drawn, choose)
