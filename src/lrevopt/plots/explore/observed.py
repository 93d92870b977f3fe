"""An interactive page of an observed optimizer: `observation_page(state).save("page.html")`."""

from typing import Any

import equinox as eqx
import numpy as np
from markupsafe import Markup

from lrevopt.plots.explore.page import SinglePage, as_json, library, rounded
from lrevopt.plots.explore.panels import COLORS, DASHES, PLAIN, dressed
from lrevopt.plots.style import BLACK, BLUE, GREY, SKY
from lrevopt.studies.observation import Observation
from lrevopt.studies.observation import observation as read
from lrevopt.templates import render_page

PANELS = {
    "rates": ("Effective learning rate", "learning rate", "Response of each group's update to a "
              "small gradient, weighted with squared gradients."),
    "ratios": ("Update over parameter", "ratio of norms", "Norm of the update over norm of the "
               "parameters."),
    "timescales": ("Memory", "1/e time (updates)", "How long the response to one gradient lasts."),
    "saturated": ("Saturated gradients", "share of entries", "Entries whose response at the "
                  "gradient met is below half of that at none."),
}  # fmt: skip
"""Title, axis and sentence of each panel of groups."""

CHOSEN = "length(picked) == 0 || indexof(picked, datum.group) >= 0"
"""Whether a row belongs to a chosen group: to any, if none is chosen."""


class ObservationPage(SinglePage, eqx.Module):
    """An interactive page of an observed optimizer. `record` is what it shows."""

    record: Observation
    title: str = eqx.field(static=True)

    @property
    def html(self) -> str:
        """The page, one self-contained file of about 1 MB."""
        charts = {name: _groups(self.record, name) for name in PANELS}
        panels = [
            {"name": name, "title": title, "says": says}
            for name, (title, _, says) in PANELS.items()
        ]
        if self.record.watched:
            charts["stability"] = _stability(self.record)
            says = "Curvature of the loss over what is stable. Beyond 1 the updates grow."
            panels.append({"name": "stability", "title": "Edge of stability", "says": says})
        content = {"charts": charts, "groups": self.record.groups}
        return render_page(
            "observation.html", title=self.title, records=len(self.record.steps),
            groups=len(self.record.groups), sentences=self.record.sentences, panels=panels,
            specifications=Markup(as_json(content)), library=Markup(library()),
        )  # fmt: skip


def observation_page(record: Any, title: str = "Observed optimizer") -> ObservationPage:
    """The records of an observed optimizer as an interactive page, a single file.

        lo.observation_page(state).save("page.html")

    `record` is an `Observation` or the optimizer's state. Panels are those of
    `lo.plot.observation` without the loss. Raises `ValueError` for a state without a record.
    """
    if not isinstance(record, Observation):
        record = read(record)
    if not len(record.steps):
        raise ValueError("`record` must hold at least one record, got none: make an update first.")
    return ObservationPage(record, title)


def _rows(record: Observation, columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each record and curve, NaN and infinity as gaps."""
    return [
        {"group": name, "update": int(step), "value": value}
        for name, values in columns.items()
        for step, value in zip(record.steps, rounded(values), strict=True)
    ]


def _groups(record: Observation, name: str) -> dict[str, Any]:
    values = getattr(record, name)
    columns = {group: values[:, k] for k, group in enumerate(record.groups)}
    places = range(len(columns))
    colors = [COLORS[k % len(COLORS)] for k in places]
    dashes = [DASHES[k // len(COLORS) % len(DASHES)] for k in places]
    known = values[np.isfinite(values)]
    scale = "log" if name in ("rates", "ratios") and (known > 0).all() else "linear"
    return _lines(_rows(record, columns), (PANELS[name][1], scale), (list(columns), colors, dashes))


def _stability(record: Observation) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        columns = {
            "along the update": record.sharpness / record.stable,
            "stiffest direction": record.top_sharpness / record.top_stable,
        }
    edge = {"the edge": np.ones(len(record.steps))}
    rows = _rows(record, columns | edge)
    for row in rows:  # a choice of groups does not hide these
        row["curve"] = row.pop("group")
    looks = [*columns, *edge], [SKY, BLACK, GREY], [DASHES[0]] * 3
    return _lines(rows, ("sharpness / stable", "linear"), looks, "curve")


def _lines(
    rows: list[dict[str, Any]],
    axis: tuple[str, str],
    looks: tuple[list[str], list[str], list[list[int]]],
    by: str = "group",
) -> dict[str, Any]:
    """Curves over updates, with values to point at. `looks`: names, colours and dashes."""
    import altair as alt

    label = axis[0]
    scale: Any = axis[1]
    names, shades, dashes = looks
    # Legends of equal titles, names and options become one, of lines where there are dashes.
    lines: dict[str, Any] = {"symbolType": "stroke", "symbolSize": 300, "columns": 4}
    legend = alt.Legend(orient="top", **(lines if len(names) > len(COLORS) else {}))
    encoding: dict[str, Any] = {
        "x": alt.X("update:Q", title="update"),
        "y": alt.Y("value:Q", title=label, scale=alt.Scale(type=scale, zero=scale == "linear"),
                   axis=alt.Axis(**PLAIN)),
        "color": alt.Color(f"{by}:N", title=None, legend=legend,
                           scale=alt.Scale(domain=names, range=shades)),
        "tooltip": [alt.Tooltip(f"{by}:N"), alt.Tooltip("update:Q"),
                    alt.Tooltip("value:Q", title=label, format=".4g")],
    }  # fmt: skip
    if len(names) > len(COLORS):
        encoding["strokeDash"] = alt.StrokeDash(
            f"{by}:N", title=None, legend=legend, scale=alt.Scale(domain=names, range=dashes)
        )
    if len(names) == 1:
        encoding["color"] = alt.value(BLUE)
    if by == "group":
        shown = alt.condition(CHOSEN, alt.value(1), alt.value(0.1))
        encoding["opacity"] = shown
    chart = alt.Chart(alt.InlineData(rows)).mark_line(point={"size": 14}).encode(**encoding)
    return dressed(alt, chart.add_params(alt.param(name="picked", value=[])))
