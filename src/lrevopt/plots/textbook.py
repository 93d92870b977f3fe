"""Update functions: those of textbook optimizers (paper, 4.1), and curves by state."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lrevopt.analysis.update_functions import Textbook
from lrevopt.plots.panel import Panel, of
from lrevopt.plots.style import (
    BLUE,
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


def textbook_updates(ax: Axes, textbook: Textbook, name: str) -> None:
    """Update functions of one optimizer, one curve per state."""
    updates, levels = textbook.panels[name], textbook.levels[name]
    colors = [BLUE] if len(updates) == 1 else shades("crest", len(updates))
    update_curves(ax, textbook.gradients, updates, colors)
    ax.set(xlabel="gradient $g$")
    if len(updates) > 1:
        level_bar(ax, colors, levels, LEVELS.get(name, "state"))
    if name == next(iter(textbook.panels)):
        ax.set_ylabel(r"parameter update $\Delta x$")


TEXTBOOK = Panel(
    of("textbook", textbook_updates),
    ("textbook",),
    "Change of a parameter against its gradient, one curve per state of the optimizer. (a) "
    "Gradient descent is a line whose slope is the learning rate. (b) Clipping saturates. "
    "(c) Momentum shifts the line by the accumulated velocity. (d) RMSProp changes the slope "
    "with the accumulated squared gradient.",
    title=lambda name: TITLES.get(name, readable(name)),
    each=lambda run: list(run.textbook.panels),
)
