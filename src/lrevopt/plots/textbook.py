"""Figure 2: update functions of textbook optimizers (paper, section 4.1)."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lrevopt.analysis.update_functions import Textbook
from lrevopt.plots.style import (
    BLUE,
    grid_of_panels,
    journal_style,
    letter_panels,
    level_bar,
    readable,
    shades,
    zero_lines,
)

TITLES = {
    "gradient_descent": "Gradient descent",
    "clipping": "Gradient clipping",
    "momentum": "Momentum",
    "rmsprop": "RMSProp",
}
LEVELS = {"momentum": "velocity $v$", "rmsprop": "squared gradient $v$"}
"""What the state of a curve is called."""


def update_curves(
    ax: Axes,
    gradients: Float[np.ndarray, " grid"],
    updates: Float[np.ndarray, "curve grid"],
    colors: list,
) -> None:
    """Parameter update against gradient, one curve per state."""
    zero_lines(ax)
    for update, color in zip(updates, colors, strict=True):
        ax.plot(gradients, update, color=color)
    ax.set(xlim=(gradients[0], gradients[-1]))
    # Three ticks or so: small gradients have long labels.
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], symmetric=True))


@journal_style
def figure_02(textbook: Textbook) -> Figure:
    """Update functions, one panel per optimizer and one curve per state."""
    panels = list(textbook.panels)
    figure, axes = grid_of_panels(1, len(panels), height=1.75, width=6.75)
    for ax, name in zip(axes[0], panels, strict=True):
        updates, levels = textbook.panels[name], textbook.levels[name]
        colors = [BLUE] if len(updates) == 1 else shades("crest", len(updates))
        update_curves(ax, textbook.gradients, updates, colors)
        ax.set(xlabel="gradient $g$")
        if len(updates) > 1:
            level_bar(ax, colors, levels, LEVELS.get(name, "state"))
    axes[0, 0].set_ylabel(r"parameter update $\Delta x$")
    letter_panels(axes[0], [TITLES.get(name, readable(name)) for name in panels])
    return figure
