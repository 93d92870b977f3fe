"""One look for all figures: sizes, colours, letters, and how they are written to disk.

Sizes are those of print: a column is 3.25 inches wide, a page 6.75, and no text is below 7 pt.
Colours are from Okabe and Ito's colour-blind-safe set, darkened where yellow would vanish on
white; optimizers differ in line style as well.
"""

import functools
import io
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, cast

import matplotlib
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from lrevopt.checks import shown
from lrevopt.storage import write_atomically

COLUMN, PAGE = 3.25, 6.75
"""Widths of figures in inches: one column of a paper, and the whole page."""

RESOLUTION = 200
"""Dots per inch of PNG files and of what is rasterized inside SVG files."""

BLUE, ORANGE, AMBER, VERMILLION = "#0072B2", "#E69F00", "#9C8400", "#C8391A"
GREEN, PURPLE, SKY = "#009E73", "#AA4499", "#56B4E9"
BLACK, GREY, PALE, PATH_COLOR = "#222222", "#8A8A8A", "#D5D5D5", "#9DB8CC"

RC: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 8,
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.labelpad": 2.5,
    "axes.edgecolor": BLACK,
    "axes.labelcolor": BLACK,
    "text.color": BLACK,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.borderaxespad": 0.2,
    "savefig.dpi": RESOLUTION,
    "figure.dpi": RESOLUTION,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.hspace": 0.04,
    "figure.constrained_layout.wspace": 0.06,
    # The same numbers give the same bytes.
    "svg.hashsalt": "lrevopt",
    "svg.fonttype": "path",
    "axes.formatter.useoffset": False,
}


class Drawing(Figure):
    """A figure that notebooks show as a picture, whether pyplot is in use or not."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, and the size to show it at: two of its dots to one of the page's."""
        width, height = (int(RESOLUTION * inches / 2) for inches in self.get_size_inches())
        return render(self, "png"), {"width": width, "height": height}


class Look(NamedTuple):
    """How one optimizer is drawn and called."""

    label: str
    color: str
    dashes: Any

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot`."""
        return {"color": self.color, "linestyle": self.dashes}


LOOKS: dict[str, Look] = {
    "momentum": Look("Momentum", ORANGE, (0, (5, 1.2))),
    "rmsprop": Look("RMSProp", AMBER, (0, (5, 1.2, 1.2, 1.2))),
    "adam": Look("Adam", VERMILLION, (0, (1.6, 1.0))),
    "learned": Look("Learned", BLUE, "-"),
}
SPARE_COLORS = (GREEN, PURPLE, SKY, BLACK)
SPARE_DASHES = ((0, (3, 1)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each optimizer: the usual one, or a spare one for a name of your own."""
    spare = itertools.cycle(zip(SPARE_COLORS * 3, SPARE_DASHES * 4, strict=True))
    return {
        name: LOOKS[name] if name in LOOKS else Look(readable(name), *next(spare)) for name in names
    }


def readable(name: str) -> str:
    """A name of the code as a label: without underscores, and with a capital."""
    plain = name.replace("_", " ")
    return plain[:1].upper() + plain[1:]


Draw = ParamSpec("Draw")


def journal_style(draw: Callable[Draw, Figure]) -> Callable[Draw, Figure]:
    """Draw under the settings above, and leave everybody else's as they were."""

    @functools.wraps(draw)
    def styled(*args: Draw.args, **kwargs: Draw.kwargs) -> Figure:
        with matplotlib.rc_context(RC):
            figure = draw(*args, **kwargs)
            for ax in figure.axes:
                # Ticks are made when the figure is drawn, perhaps under other settings.
                ax.tick_params(labelsize=RC["xtick.labelsize"])
            return figure

    return styled


def grid_of_panels(
    rows: int, columns: int, *, height: float, width: float | None = None, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` by `columns` panels, each row `height` inches high.

    One column of panels is a column wide, more are a page wide, unless `width` says otherwise.
    """
    width = (COLUMN if columns == 1 else PAGE) if width is None else width
    figure = Drawing(figsize=(width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def one_panel(ax: Axes | None, height: float = 2.6, width: float = COLUMN) -> tuple[Figure, Axes]:
    """A panel of its own, or the one that is given, with its figure.

    Raises `ValueError` for what is no axis.
    """
    if ax is None:
        figure, axes = grid_of_panels(1, 1, height=height, width=width)
        return figure, axes[0, 0]
    if not isinstance(ax, Axes):
        raise ValueError(f"`ax` must be an axis of matplotlib, got {shown(ax)}.")
    return cast(Figure, ax.get_figure(root=True)), ax


def is_narrow(ax: Axes) -> bool:
    """Whether a panel shares its row with two others or more."""
    place = ax.get_subplotspec()
    return place is not None and place.get_geometry()[1] > 2


def zero_lines(ax: Axes) -> None:
    """Hairlines through the origin, behind the data."""
    ax.axhline(0, color=PALE, linewidth=0.6, zorder=0)
    ax.axvline(0, color=PALE, linewidth=0.6, zorder=0)


def from_zero(ax: Axes) -> None:
    """Let the vertical axis start at 0, unless data lie below: small changes then look small."""
    low, high = ax.dataLim.intervaly
    if low >= 0 and np.isfinite(high) and high > 0:
        ax.set_ylim(0, 1.12 * high)


def shades(colormap: str, count: int, low: float = 0.0, high: float = 1.0) -> list[Any]:
    """`count` colours at even distances along a colour map, between two of its positions."""
    colors = sns.color_palette(colormap, as_cmap=True)
    return [colors(place) for place in np.linspace(low, high, count)]


def level_bar(
    ax: Axes, colors: list[Any], levels: Float[np.ndarray, " curve"], label: str
) -> Colorbar:
    """A colour bar with one block per curve, in place of a legend that would cover curves."""
    bounds = np.arange(len(colors) + 1) - 0.5
    mappable = ScalarMappable(BoundaryNorm(bounds, len(colors)), ListedColormap(colors))
    bar = color_bar(ax, mappable, label, ticks=range(len(colors)))
    bar.ax.set_yticklabels([short(level) for level in levels])
    return bar


def color_bar(ax: Axes, mappable: ScalarMappable, label: str, **options: Any) -> Colorbar:
    """A slim colour bar beside a panel."""
    figure = cast(Figure, ax.figure)
    defaults: dict[str, Any] = {"aspect": 22, "pad": 0.03, "format": lambda value, _: short(value)}
    bar = figure.colorbar(mappable, ax=ax, label=label, **(defaults | options))
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(length=2, width=0.4)
    bar.ax.minorticks_off()
    return bar


def short(value: float) -> str:
    """A number in at most three digits, with a proper minus sign."""
    text = f"{value:.2g}" if abs(value) < 100 or abs(value) >= 1e4 else f"{value:.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def render(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a file: the same numbers give the same bytes. No date inside.

    A PNG has few colours (`in_few_colors`).
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format=kind, dpi=RESOLUTION, metadata=metadata)
    if kind != "png":
        return buffer.getvalue()
    small = io.BytesIO()
    in_few_colors(buffer.getvalue()).save(small, "png", optimize=True)
    return small.getvalue()


def figure_name(number: int | str) -> str:
    """Name of a figure's files without suffix: `figure_01`, or `figure_training`."""
    return f"figure_{number:02d}" if isinstance(number, int) else f"figure_{number}"


def in_few_colors(png: bytes) -> Image.Image:
    """The same picture in 256 colours: a third of the bytes. Only colour bars may show it."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def save_figure(figure: Figure, directory: Path | str, number: int | str) -> tuple[Path, Path]:
    """Write `figure_NN.png` and `figure_NN.svg`, each at once or not at all; their paths.

    Raises `ValueError` for a folder that cannot be written.
    """
    stem = Path(directory) / figure_name(number)
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    write_atomically(png, render(figure, "png"))
    write_atomically(svg, render(figure, "svg"))
    return png, svg
