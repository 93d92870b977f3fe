"""Losses of optimizers on test problems, and pictures of tasks (paper, 3.2 and D.2)."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lrevopt.inner_loop.evaluation import Evaluation
from lrevopt.plots.panel import Arrays, Panel, Records, of
from lrevopt.plots.style import (
    BLACK,
    BLUE,
    ORANGE,
    color_bar,
    is_narrow,
    looks,
    short,
)
from lrevopt.tasks.pictures import TaskPicture


def loss_curves(ax: Axes, evaluation: Evaluation) -> None:
    """Mean loss against inner step, with a band of one standard error on each side.

    Means are over the problems on which an optimizer stays finite; how many it does not is
    said under the axis. The axis is logarithmic if all means are positive.
    """
    shown = []
    for look, losses in zip(looks(evaluation.names).values(), evaluation.losses, strict=True):
        mean, error = finite_mean(losses)
        if not np.isfinite(mean).all():
            continue
        steps = np.arange(mean.size)
        ax.fill_between(steps, mean - error, mean + error, color=look.color, alpha=0.2, linewidth=0)
        ax.plot(steps, mean, label=look.label, **look.line, zorder=3)
        shown.append(mean)
    note = diverged_note(evaluation, 24 if is_narrow(ax) else 60)
    ax.set(ylabel="loss", xlabel="\n".join(["inner step", *note]))
    ax.set_xlim(0, evaluation.losses.shape[-1] - 1)
    drawn = np.concatenate(shown) if shown else np.array([0.1, 1.0])
    if drawn.min() <= 0:
        return
    ax.set_yscale("log")
    # Limits follow the means: a band that reaches 0 would take all of a log axis.
    margin = max(drawn.max() / drawn.min(), 1.1) ** 0.05
    ax.set_ylim(drawn.min() / margin, drawn.max() * margin)
    plain_ticks(ax)


def plain_ticks(ax: Axes) -> None:
    """Numbers such as 0.2 on a logarithmic axis that spans less than two decades."""
    low, high = ax.get_ylim()
    if high < 100 * low:
        marks = (1, 2, 5) if high > 5 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
        ax.yaxis.set_major_locator(LogLocator(subs=marks))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        ax.yaxis.set_minor_formatter(NullFormatter())


def finite_mean(
    losses: Float[np.ndarray, "problem visited"],
) -> tuple[Float[np.ndarray, " visited"], Float[np.ndarray, " visited"]]:
    """Mean and standard error over the problems whose losses are all finite; NaN if none is."""
    finite = losses[np.isfinite(losses).all(axis=1)].astype(float)
    if not len(finite):
        return np.full(losses.shape[1], np.nan), np.full(losses.shape[1], np.nan)
    spread = finite.std(axis=0, ddof=1) if len(finite) > 1 else np.zeros(losses.shape[1])
    return finite.mean(axis=0), spread / np.sqrt(len(finite))


def histogram_panel(ax: Axes, values: Float[np.ndarray, " draw"], label: str) -> None:
    """Histogram of positive numbers on a logarithmic axis, with their median."""
    positive = values[np.isfinite(values) & (values > 0)]
    edges = np.geomspace(positive.min() * 0.999, positive.max() * 1.001, 31).tolist()
    ax.hist(positive, edges, color="#B7C4CF", edgecolor="white", linewidth=0.4)
    median = float(np.median(positive))
    ax.axvline(median, color=BLACK, linewidth=0.9, linestyle=(0, (3, 1.5)))
    left = median**2 > edges[0] * edges[-1]  # where there is more room
    ax.annotate(
        f"median {median:.0f}" if median >= 10 else f"median {median:.2g}",
        (median, 1),
        (-4 if left else 4, -1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
    )
    ax.set(xscale="log", xlabel=label, ylabel="problems")
    ax.margins(y=0.2)


def surface_panel(ax: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Loss surface of two parameters, on a logarithmic colour scale, with its minimum.

    Narrow panels have numbers on the lines in place of a colour bar.
    """
    surface = arrays["surface"]
    floor = surface.max() * 1e-5
    bands = ax.contourf(
        arrays["x"],
        arrays["y"],
        np.maximum(surface, floor),
        np.geomspace(floor, surface.max(), 26),
        norm=LogNorm(floor, surface.max()),
        cmap="viridis",
    )
    bands.set_rasterized(True)
    # Lines where the grid resolves them: not along the floor of a narrow valley.
    levels = 10.0 ** np.arange(np.ceil(np.log10(floor)) + 1, np.log10(surface.max()))
    lines = ax.contour(arrays["x"], arrays["y"], surface, levels, colors="white", linewidths=0.4)
    ax.plot(
        *arrays["minimum"],
        marker="*",
        markersize=8,
        color="white",
        markeredgecolor=BLACK,
        markeredgewidth=0.5,
        linestyle="none",
    )
    ax.set(xlabel="$x$", ylabel="$y$")
    if is_narrow(ax):
        ax.clabel(lines, levels[-2:], fmt=short, fontsize=7)
    else:
        color_bar(ax, bands, "loss", ticks=levels)


def scatter_panel(ax: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    """Points in the plane, coloured and shaped by their class."""
    for label, color, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
        own = arrays["label"] == label
        ax.plot(arrays["x"][own], arrays["y"][own], color=color, marker=marker, markersize=2,
                markeredgewidth=0, alpha=0.6, linestyle="none", rasterized=True)  # fmt: skip
    ax.set(xlabel="$x_1$", ylabel="$x_2$")


def images_panel(ax: Axes, images: UInt8[np.ndarray, "example side side"]) -> None:
    """Images side by side, as many in a row as the panel is wide; the last row is full."""
    across = min(6 if is_narrow(ax) else 10, len(images))
    rows, side = len(images) // across, images.shape[1]
    grid = images[: rows * across].reshape(rows, across, side, side)
    ax.imshow(grid.swapaxes(1, 2).reshape(rows * side, across * side), cmap="gray_r",
              vmin=0, vmax=255, interpolation="nearest")  # fmt: skip
    ax.set(xlabel="random examples", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


PICTURES: dict[str, Callable[[Axes, Mapping[str, np.ndarray]], None]] = {
    "condition_numbers": lambda ax, arrays: histogram_panel(
        ax, arrays["condition_numbers"], "condition number"
    ),
    "starting_losses": lambda ax, arrays: histogram_panel(
        ax, arrays["starting_losses"], "loss at the start"
    ),
    "surface": surface_panel,
    "scatter": scatter_panel,
    "images": lambda ax, arrays: images_panel(ax, arrays["images"]),
}
"""How each kind of `TaskPicture` is drawn."""


def diverged_note(evaluation: Evaluation, width: int) -> list[str]:
    """Lines on which optimizers diverged on how many problems; none if none did."""
    found = zip(looks(evaluation.names).values(), evaluation.diverged(), strict=True)
    counts = ", ".join(f"{look.label} {count}" for look, count in found if count)
    sentence = f"runs diverged, of {evaluation.losses.shape[1]}: {counts}"
    return textwrap.wrap(sentence, width) if counts else []


def violins(ax: Axes, evaluation: Evaluation) -> None:
    """Distribution of the meta-objective, with mean and standard error inside each violin.

    Diverged runs have no place on the axis: their number stands above the violin. The axis is
    logarithmic if all values are positive.
    """
    scores = {
        look.label: row
        for look, row in zip(
            looks(evaluation.names).values(), evaluation.meta_objectives(), strict=True
        )
    }
    finite = {label: row[np.isfinite(row)] for label, row in scores.items()}
    positive = all((row > 0).all() for row in finite.values())
    drawn = {label: row for label, row in finite.items() if row.size > 1 and np.ptp(row) > 0}
    palette = {look.label: look.color for look in looks(evaluation.names).values()}
    if drawn:
        sns.violinplot(
            pd.DataFrame([(label, value) for label, row in drawn.items() for value in row],
                         columns=["optimizer", "score"]),
            x="optimizer", y="score", hue="optimizer", palette=palette, order=list(scores),
            legend=False, log_scale=(False, positive), inner=None, density_norm="width", cut=0,
            linewidth=0, saturation=1, width=0.85, ax=ax,
        )  # fmt: skip
        for body in ax.collections:
            body.set_alpha(0.45)
    for place, (label, row) in enumerate(finite.items()):
        if row.size:
            error = row.std(ddof=1) / np.sqrt(row.size) if row.size > 1 else 0.0
            ax.errorbar(
                place,
                row.mean(),
                error,
                color=BLACK,
                marker="o",
                markersize=2.6,
                linewidth=1.6,
                capsize=2.5,
                capthick=0.8,
            )
        if diverged := scores[label].size - row.size:
            ax.annotate(
                f"{diverged} of {scores[label].size}\ndiverged",
                (place, 1),
                (0, -1),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="top",
            )
    ax.set(xlabel="optimizer", ylabel="meta-objective (mean loss / first loss)")
    ax.set_xticks(range(len(scores)), list(scores))
    if positive:
        ax.set_yscale("log")
        if drawn:
            plain_ticks(ax)
    if drawn and evaluation.diverged().any():
        low, high = ax.get_ylim()
        more = high * (high / low) ** 0.15 if positive else high + 0.15 * (high - low)
        ax.set_ylim(low, more)  # room for the notes


def task_picture(ax: Axes, picture: TaskPicture) -> None:
    """What a task looks like, as its kind of picture is drawn."""
    PICTURES[picture.kind](ax, picture.arrays)


def optimizer_marks(runs: Sequence[Records]) -> list[Line2D]:
    """A line for every optimizer of these runs, drawn or diverged."""
    names = list(dict.fromkeys(name for run in runs for name in run.evaluation.names))
    return [Line2D([], [], label=look.label, **look.line) for look in looks(names).values()]


def mean_losses(run: Records) -> Arrays:
    """Mean and standard error over the problems where an optimizer stays finite."""
    means, errors = np.stack([finite_mean(losses) for losses in run.evaluation.losses], axis=1)
    return {
        "optimizers": np.asarray(run.evaluation.names, dtype=np.str_),
        "mean": means,
        "standard_error": errors,
        "diverged": run.evaluation.diverged(),
    }


def meta_objectives(run: Records) -> Arrays:
    """The meta-objective of each run of an optimizer, infinite where it diverged."""
    names = np.asarray(run.evaluation.names, dtype=np.str_)
    return {"optimizers": names, "meta_objectives": run.evaluation.meta_objectives()}


def picture_arrays(run: Records) -> Arrays:
    """What the picture of a task is made of."""
    return {f"picture/{name}": array for name, array in run.task_picture.arrays.items()}


LOSSES = Panel(
    of("evaluation", loss_curves),
    (),
    "Loss against inner step, mean over the test problems, with a band of one standard error on "
    "each side; lower is better. Optimizers that diverged on a problem are named, and their mean "
    "is over the others.",
    made=mean_losses,
    needs=("evaluation",),
    marks=optimizer_marks,
)
TASK = Panel(
    of("task_picture", task_picture),
    (),
    "What the task is like: the condition numbers of random problems (the larger, the harder), a "
    "loss surface with its minimum at the star, points to be told apart by their colour, or "
    "images to be read.",
    made=picture_arrays,
    needs=("task_picture",),
    optional=True,
)
VIOLINS = Panel(
    of("evaluation", violins),
    (),
    "One violin per optimizer: distribution over test problems of the mean loss divided by "
    "the first loss, on a logarithmic axis; lower is better. Dots are means, bars one "
    "standard error on each side. Runs that diverged are counted above and left out.",
    made=meta_objectives,
    needs=("evaluation",),
)
