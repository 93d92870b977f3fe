"""Draws the picture of the front page and the README: `python docs/front_picture.py`.

One optimizer, three views: how well it does, what it does, and what it remembers.
"""

from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import lrevopt as lo
from lrevopt.plots import style
from lrevopt.plots.panel import letter_panels

ROOT = Path(__file__).parent.parent

# Tuned on Rosenbrock, `results/rosenbrock/tuning`, rounded.
BASELINES = {
    "momentum": lo.Momentum(6.31e-4, 0.822),
    "rmsprop": lo.RMSProp(0.00891, 0.995),
    "adam": lo.Adam(0.0562, 0.832, 0.8415),
}


def draw_losses(ax: Axes, evaluation: lo.Evaluation) -> None:
    """Mean loss over problems against updates."""
    for name, curve in zip(evaluation.names, evaluation.mean_curve(), strict=True):
        look = style.LOOKS[name]
        ax.plot(curve, label=look.label, **look.line)
    ax.set(yscale="log", xlabel="updates", ylabel="loss", xlim=(0, 200), ylim=(1e-6, 2e4))
    ax.legend(loc="upper right", ncols=2, columnspacing=1.0, handlelength=1.8)


def draw_updates(ax: Axes, learned: lo.AbstractOptimizer, run: lo.Trajectory) -> None:
    """Update functions of one parameter's states along a run."""
    moments = (0, 5, 20, 60)
    gradients = np.linspace(-600, 600, 301)
    for moment, color in zip(moments, style.shades("crest", len(moments)), strict=True):
        updates = lo.update_function(learned, run.states[moment, 0], gradients)
        ax.plot(gradients, updates, color=color, label=f"after {moment}")
    style.zero_lines(ax)
    ax.set(xlabel="gradient $g$", ylabel=r"update $w \cdot F(h, g)$")
    ax.legend(loc="upper right", handlelength=1.2)


def draw_modes(ax: Axes, learned: lo.AbstractOptimizer, modes: lo.Modes) -> None:
    """Eigenvalues at the fixed point, larger where the learning rate is."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 200)
    ax.plot(np.cos(angle), np.sin(angle), color=style.GREY, linestyle="--", linewidth=0.7)
    rates = np.abs(modes.learning_rates) / np.abs(modes.learning_rates).max()
    values = modes.eigenvalues
    ax.scatter(values.real, values.imag, 3 + 40 * rates, style.BLUE, alpha=0.7, linewidths=0)
    style.zero_lines(ax)
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$", xlim=(0, 1.1), ylim=(-0.45, 0.45))


@style.journal_style
def draw(rows: int, columns: int) -> Figure:
    """The picture, its three panels beside or below each other."""
    task, learned = lo.Rosenbrock(), lo.load("rosenbrock")
    rivals = {"learned": learned, **BASELINES}
    evaluation = lo.evaluate(rivals, task, problems=256, steps=200, key=jr.key(0))
    run = lo.unroll(learned, task, task.sample(jr.key(3)), steps=200)
    points = lo.find_fixed_points(learned, run.states[::20, 0])
    modes = lo.eigenmodes(lo.linearize(learned, jnp.asarray(points.distinct[0])))
    figure, axes = style.grid_of_panels(rows, columns, height=2.2)
    losses, updates, eigenvalues = axes.flat
    draw_losses(losses, evaluation)
    draw_updates(updates, learned, run)
    draw_modes(eigenvalues, learned, modes)
    letter_panels(axes.flat, ["How well it does", "What it does", "What it remembers"])
    return figure


if __name__ == "__main__":
    for name, shape in (("front", (1, 3)), ("front_narrow", (3, 1))):
        target = ROOT / "docs" / "_static" / f"{name}.png"
        target.write_bytes(style.render(draw(*shape), "png"))
        print(target)
