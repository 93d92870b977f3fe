"""The panels of the interactive page, as Vega-Lite charts that Altair makes and checks.

A panel holds no numbers. The page's script gives it rows under these names, for the moment that is
shown: `lines` (curves), `points` (one a parameter), `bars` (a histogram), `rule` (where the moment
is). A panel's parameters are set by the script too: `picked`, the names of the chosen parameters,
and the ends of axes that move.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrevopt.analysis.run_moments import RunMoments
from lrevopt.plots.style import (
    AMBER,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
)

COLORS = (BLUE, VERMILLION, GREEN, PURPLE, AMBER, SKY, BLACK, ORANGE)
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2])
"""Twelve parameters are told apart by colour and, beyond eight, by dashes."""

HEIGHT = 270
PADDING = {"left": 4, "top": 6, "right": 14, "bottom": 4}
"""Pixels; on the right there is room for the last label of an axis."""

PLAIN: dict[str, Any] = {"format": ".4~g", "tickCount": 6}
"""An axis of numbers of any size."""

BEYOND = 30.0
"""How many times all later learning rates one at the start must be to be left off the axis."""

CHOSEN = "length(picked) == 0 || indexof(picked, datum.parameter) >= 0"
"""Whether a row belongs to a chosen parameter: to any, if none is chosen."""


def styles(numbers: RunMoments) -> tuple[list[str], list[list[int]]]:
    """Colour and dashes of each parameter: a colour for each group where there are several, and
    dashes for the members of one group.
    """
    several = len(numbers.group_names) > 1
    colors, dashes = [], []
    for index, group in enumerate(numbers.groups):
        within = index - numbers.groups.index(group)
        place, member = (group, within) if several else (index, 0)
        colors.append(COLORS[place % len(COLORS)])
        dashes.append(DASHES[(place // len(COLORS) + member) % len(DASHES)])
    return colors, dashes


def panels(numbers: RunMoments) -> dict[str, dict[str, Any]]:
    """Vega-Lite specification of each panel, by name."""
    import altair as alt  # a third of a second, only here

    made = {
        "loss": _loss(alt, numbers),
        "rates": _rates(alt, numbers),
        "updates": _updates(alt, numbers),
        "modes": _modes(alt, numbers),
        "density": _density(alt),
    }
    return {name: dressed(alt, chart) for name, chart in made.items()}


def dressed(alt: Any, chart: Any) -> dict[str, Any]:
    """A chart as wide as its place on the page, in the page's letters."""
    labels = {"labelFontSize": 12, "titleFontSize": 12.5, "titleFontWeight": "normal"}
    axis = alt.Axis(
        gridColor="#edf0f2", domainColor=BLACK, tickColor=BLACK, labelColor=BLACK,
        titleColor=BLACK, labelFlush=False, **labels,
    )  # fmt: skip
    fitted = {"type": "fit-x", "contains": "padding"}
    return (
        chart.properties(width="container", height=HEIGHT, autosize=fitted, padding=PADDING)
        .configure(font="system-ui, -apple-system, 'Segoe UI', sans-serif", axis=axis)
        .configure_view(stroke=None)
        .to_dict()
    )  # fmt: skip


def _color(alt: Any, numbers: RunMoments) -> Any:
    scale = alt.Scale(domain=list(numbers.parameters), range=styles(numbers)[0])
    return alt.Color("parameter:N", scale=scale, legend=None)


def _dash(alt: Any, numbers: RunMoments) -> Any:
    scale = alt.Scale(domain=list(numbers.parameters), range=styles(numbers)[1])
    return alt.StrokeDash("parameter:N", scale=scale, legend=None)


def _curves(alt: Any, numbers: RunMoments, x: Any, y: Any, tooltip: Sequence[Any]) -> list[Any]:
    """Lines, wide invisible points that answer the pointer, and a dot for each parameter."""
    picked = alt.param(name="picked", value=[])
    base = alt.Chart(alt.NamedData("lines")).encode(x=x, y=y, color=_color(alt, numbers))
    opacity = alt.condition(CHOSEN, alt.value(1), alt.value(0.12))
    line = base.mark_line(clip=True, strokeWidth=1.8).encode(
        strokeDash=_dash(alt, numbers), opacity=opacity
    )
    touched = base.mark_point(filled=True, size=90, opacity=0, clip=True)
    dots = alt.Chart(alt.NamedData("points")).mark_point(
        filled=True, size=80, stroke="white", strokeWidth=1, clip=True
    )
    return [
        line.add_params(picked),
        touched.encode(tooltip=tooltip),
        dots.encode(x=x, y=y, color=_color(alt, numbers), opacity=opacity, tooltip=tooltip),
    ]


def _counted(numbers: RunMoments) -> dict[str, Any]:
    """An axis of updates."""
    last = int(numbers.steps[-1])
    every = {"values": list(range(last + 1))} if last < 10 else {}
    return {"format": "d", "grid": False} | every


def rate_beyond(numbers: RunMoments) -> float | None:
    """The largest learning rate at the start, if it is so large that later ones would look alike.

    Adam divides by a root that is 0 there.
    """
    sizes = np.abs(np.nan_to_num(numbers.rates))
    first, later = sizes[0].max(), sizes[1:].max(initial=0.0)
    return float(first) if first > BEYOND * later > 0 else None


def _rate_scale(numbers: RunMoments) -> dict[str, Any]:
    if rate_beyond(numbers) is None:
        return scale_of(numbers.rates)
    later = numbers.rates[1:][np.isfinite(numbers.rates[1:])]
    scale = scale_of(later)
    low = later.min() if scale.get("type") == "log" else min(0.0, later.min())
    return {**scale, "domain": [float(low), float(later.max())]}


def _rule(alt: Any) -> Any:
    rule = alt.Chart(alt.NamedData("rule")).mark_rule(color=GREY, strokeDash=[4, 3])
    return rule.encode(x=alt.X("step:Q"))


def _loss(alt: Any, numbers: RunMoments) -> Any:
    scale = alt.Scale(**scale_of(numbers.losses))
    x = alt.X("step:Q", title="updates made", axis=alt.Axis(**_counted(numbers)))
    y = alt.Y("loss:Q", title="loss", scale=scale, axis=alt.Axis(**PLAIN))
    tooltip = [
        alt.Tooltip("step:Q", title="updates made"),
        alt.Tooltip("loss:Q", title="loss", format=".4g"),
    ]
    base = alt.Chart(alt.NamedData("lines")).encode(x=x, y=y)
    dot = alt.Chart(alt.NamedData("points")).mark_point(filled=True, size=90, color=BLACK)
    return alt.layer(
        _rule(alt),
        base.mark_line(color=BLACK, strokeWidth=1.6),
        base.mark_point(opacity=0, size=90, filled=True).encode(tooltip=tooltip),
        dot.encode(x=x, y=y, tooltip=tooltip),
    )


def _rates(alt: Any, numbers: RunMoments) -> Any:
    x = alt.X("step:Q", title="updates made", axis=alt.Axis(**_counted(numbers)))
    scale = alt.Scale(**_rate_scale(numbers))
    y = alt.Y("rate:Q", title="update per gradient", scale=scale, axis=alt.Axis(**PLAIN))
    tooltip = [
        alt.Tooltip("parameter:N"),
        alt.Tooltip("step:Q", title="updates made"),
        alt.Tooltip("rate:Q", title="effective learning rate", format=".4g"),
    ]
    return alt.layer(_rule(alt), *_curves(alt, numbers, x, y, tooltip))


def _updates(alt: Any, numbers: RunMoments) -> Any:
    reach = alt.param(name="reach", value=1.0)
    scale = alt.Scale(
        domainMin=alt.ExprRef("-reach"), domainMax=alt.ExprRef("reach"), nice=False, zero=False
    )
    x = alt.X(
        "gradient:Q", title="gradient g (loss per parameter)", scale=scale, axis=alt.Axis(**PLAIN)
    )
    y = alt.Y("update:Q", title="update of the parameter", axis=alt.Axis(**PLAIN))
    tooltip = [
        alt.Tooltip("parameter:N"),
        alt.Tooltip("gradient:Q", title="gradient", format=".4g"),
        alt.Tooltip("update:Q", title="update", format=".4g"),
    ]
    zero = alt.Chart(alt.InlineData([{"zero": 0}]))
    cross = [
        zero.mark_rule(color=PALE).encode(x="zero:Q"),
        zero.mark_rule(color=PALE).encode(y="zero:Q"),
    ]
    return alt.layer(*cross, *_curves(alt, numbers, x, y, tooltip)).add_params(reach)


def _modes(alt: Any, numbers: RunMoments) -> Any:
    """Eigenvalues, with both axes in the same units whatever the width."""
    middle, reach = alt.param(name="middle", value=0.0), alt.param(name="reach", value=1.1)
    wide, high = "reach * max(1, width / height)", "reach * max(1, height / width)"
    across = alt.Scale(
        domainMin=alt.ExprRef(f"middle - {wide}"), domainMax=alt.ExprRef(f"middle + {wide}"),
        nice=False, zero=False,
    )  # fmt: skip
    up = alt.Scale(
        domainMin=alt.ExprRef(f"-{high}"), domainMax=alt.ExprRef(high), nice=False, zero=False
    )
    x = alt.X("real:Q", title="real part of the eigenvalue", scale=across)
    y = alt.Y("imaginary:Q", title="imaginary part", scale=up)
    circle = alt.Chart(alt.NamedData("circle")).mark_line(color=GREY, clip=True, strokeWidth=1)
    eigenvalues = alt.Chart(alt.NamedData("points")).mark_point(clip=True, strokeWidth=1.5)
    tooltip = [
        alt.Tooltip("parameter:N"),
        alt.Tooltip("eigenvalue:N"),
        alt.Tooltip("size:Q", title="absolute value", format=".5g"),
        alt.Tooltip("timescale:N", title="1/e time (updates)"),
        alt.Tooltip("rate:N", title="learning rate"),
    ]
    opacity = alt.condition(CHOSEN, alt.value(0.85), alt.value(0.08))
    area = alt.Size("area:Q", scale=None, legend=None)
    color = _color(alt, numbers)
    fill = alt.FillOpacity("fill:Q", scale=None, legend=None)
    return alt.layer(
        circle.encode(x=x, y=y, order="angle:Q"),
        eigenvalues.encode(
            x=x, y=y, color=color, fill=color, fillOpacity=fill, opacity=opacity, size=area,
            tooltip=tooltip,
        ),
    ).add_params(alt.param(name="picked", value=[]), middle, reach)  # fmt: skip


def _density(alt: Any) -> Any:
    """Histogram of the sizes of gradients, of all and of a chosen group, over a row of ticks."""
    lowest, highest = alt.param(name="lowest", value=1e-3), alt.param(name="highest", value=1.0)
    scale = alt.Scale(
        type="log", domainMin=alt.ExprRef("lowest"), domainMax=alt.ExprRef("highest"), nice=False
    )
    x = alt.X(
        "low:Q",
        title="size of the gradient, |g|",
        scale=scale,
        axis=alt.Axis(format="~e", tickCount=6),
    )
    y = alt.Y("share:Q", title="share of parameters (per decade)")
    tooltip = [
        alt.Tooltip("group:N", title="parameters"),
        alt.Tooltip("low:Q", title="from", format=".2e"),
        alt.Tooltip("high:Q", title="to", format=".2e"),
        alt.Tooltip("count:Q", title="number"),
        alt.Tooltip("share:Q", title="share per decade", format=".3g"),
    ]
    bars = alt.Chart(alt.NamedData("bars")).mark_rect(stroke="white", strokeWidth=0.5)
    over = alt.Chart(alt.NamedData("over")).mark_rect(fillOpacity=0.35, strokeWidth=1.5)
    dots = alt.Chart(alt.NamedData("points")).mark_tick(thickness=3, size=14, clip=True)
    color = alt.Color("color:N", scale=None, legend=None)
    ends = {"x": x, "x2": "high:Q", "y": y, "y2": "zero:Q"}
    return alt.layer(
        bars.encode(**ends, color=alt.value("#c3cbd2"), tooltip=tooltip),
        over.encode(**ends, fill=color, stroke=color, tooltip=tooltip),
        dots.encode(
            x=x, y=alt.value(HEIGHT - 7), color=color,
            opacity=alt.condition(CHOSEN, alt.value(1), alt.value(0.12)),
            tooltip=[alt.Tooltip("parameter:N"), alt.Tooltip("gradient:Q", format=".4g")],
        ),
    ).add_params(alt.param(name="picked", value=[]), lowest, highest)  # fmt: skip


def scale_of(values: Any) -> dict[str, Any]:
    """A scale on which these values can be told apart: linear, or over more than two decades
    logarithmic, which is symmetric about 0 where some values are not positive.
    """
    known = np.abs(values[np.isfinite(values)])
    sizes = known[known > 0]
    if not sizes.size or sizes.max() < 100 * np.quantile(sizes, 0.02):
        return {"zero": True}
    if sizes.size == known.size and (values[np.isfinite(values)] > 0).all():
        return {"type": "log"}
    return {"type": "symlog", "constant": float(f"{np.quantile(sizes, 0.05):.1g}")}
