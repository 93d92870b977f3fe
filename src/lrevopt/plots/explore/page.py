"""The interactive page: numbers, panels, and the library that draws them, in one file.

The library is Vega-Lite: Altair writes and checks the panels, and vl-convert holds its JavaScript,
which goes into the page whole (0.9 MB; Plotly's is 4.8 MB). Nothing is fetched when the page is
opened. Both packages are imported only when a page is made.
"""

import abc
import html
import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Key
from markupsafe import Markup

from lrevopt.analysis.run_moments import RunMoments, measure_run_moments
from lrevopt.checks import text
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.plots.explore.panels import panels, rate_beyond, styles
from lrevopt.storage import write_atomically
from lrevopt.tasks.interface import AbstractTask
from lrevopt.templates import render_page

DIGITS = 5
"""Significant digits of the numbers in a page."""


class SinglePage(abc.ABC):
    """A page in one self-contained file, with a title."""

    title: str

    @property
    @abc.abstractmethod
    def html(self) -> str:
        """The page."""

    def save(self, path: Path | str) -> Path:
        """Write the page at once or not at all; its path.

        Raises `ValueError` for a folder that cannot be written.
        """
        write_atomically(path, self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        """The page inside a notebook."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="{html.escape(self.title)}" '
            'style="width: 100%; height: 60rem; border: 0"></iframe>'
        )


class ExplorePage(SinglePage, eqx.Module):
    """An interactive page of one run. `numbers` is what it shows, `title` its heading."""

    numbers: RunMoments
    title: str = eqx.field(static=True)

    @property
    def html(self) -> str:
        """The page, one self-contained file of 1 to 3 MB."""
        return render_page(
            "explore.html",
            title=self.title,
            numbers=self.numbers,
            warnings=warnings(self.numbers),
            beyond=rate_beyond(self.numbers),
            sampled=len(self.numbers.parameters),
            payload=Markup(as_json(payload(self.numbers))),
            specifications=Markup(as_json(panels(self.numbers))),
            library=Markup(library()),
        )


def explore(
    optimizer: AbstractOptimizer,
    task: AbstractTask,
    *,
    key: Key[Array, ""],
    steps: int = 200,
    moments: int = 48,
    parameters: int = 8,
    title: str | None = None,
) -> ExplorePage:
    """An interactive page of one run of an optimizer on one problem of a task.

        lo.explore(lo.Adam(0.1), lo.Rosenbrock(), key=jr.key(0)).save("page.html")

    A slider goes through the `steps` updates. At each position, linked panels show the update
    functions of sampled parameters, eigenvalues and learning rates of the optimizer linearized
    there at zero gradient, effective learning rates, the distribution of gradients, and the loss.
    Any optimizer and any task will do; a run that diverges is shown as far as it is finite.

    - `key`: draws the problem and the parameters shown, at most `parameters` of them.
    - `moments`: about how many positions the slider has. Eigenvalues take most of the time: with
      states of hundreds of coordinates, ask for fewer.
    - `title`: heading of the page (default: names of optimizer and task).

    The page is one file with everything inside and needs no network. Raises `ValueError` for counts
    below 1, more than 12 `parameters`, and a task whose loss is not finite at the start.
    """
    if title is not None:
        text("title", title)
    numbers = measure_run_moments(
        optimizer, task, key=key, steps=steps, moments=moments, parameters=parameters
    )
    return ExplorePage(numbers, title or f"{type(optimizer).__name__} on {task.title}")


def warnings(numbers: RunMoments) -> list[str]:
    """Sentences on a run that diverged and on Jacobians that have no modes."""
    said = []
    if numbers.diverged_at is not None:
        said.append(
            f"This run diverged: after {numbers.diverged_at} of {numbers.planned_steps} updates "
            "the loss, a gradient or a state is no longer finite. The slider ends before that."
        )
    known = np.isfinite(numbers.eigenvalues).all(axis=-1)
    if defective := int((known & ~np.isfinite(numbers.mode_rates).all(axis=-1)).sum()):
        said.append(
            f"In {defective} of {known.size} states the Jacobian is near-defective: it has "
            "eigenvalues, but no modes with learning rates of their own."
        )
    return said


def payload(numbers: RunMoments) -> dict[str, Any]:
    """What the script of the page reads. Axes stand as in `RunMoments`."""
    colors, dashes = styles(numbers)
    modes = np.stack([numbers.eigenvalues, numbers.mode_rates], axis=-1)
    thinned = np.unique(np.linspace(0, len(numbers.losses) - 1, 600).round().astype(int))
    return {
        "parameters": numbers.parameters,
        "groups": numbers.groups,
        "group_names": numbers.group_names,
        "group_sizes": numbers.group_sizes,
        "dim": numbers.dim,
        "planned_steps": numbers.planned_steps,
        "colors": colors,
        "dashes": dashes,
        "steps": numbers.steps.tolist(),
        "losses": {"steps": thinned.tolist(), "values": rounded(numbers.losses[thinned])},
        "moment_losses": rounded(numbers.losses[numbers.steps]),
        "gradients": rounded(numbers.gradients),
        "rates": rounded(numbers.rates),
        "ranges": rounded(numbers.ranges),
        "updates": rounded(numbers.updates),
        "whole_range": rounded(numbers.whole_range),
        "whole_updates": rounded(numbers.whole_updates),
        "met_updates": rounded(numbers.met_updates),
        "modes": rounded(np.stack([modes.real, modes.imag], axis=-1).reshape(*modes.shape[:-1], 4)),
        "modes_in_all": numbers.state_size,
        "log10_edges": rounded(numbers.log10_edges),
        "counts": numbers.counts.tolist(),
        "zeros": numbers.zeros.tolist(),
        "total_counts": numbers.total_counts.tolist(),
        "total_zeros": numbers.total_zeros.tolist(),
    }


def rounded(values: Any) -> Any:
    """An array as nested lists with five significant digits; None for what is not finite."""

    def shorter(value: Any) -> Any:
        if isinstance(value, list):
            return [shorter(part) for part in value]
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None

    return shorter(np.asarray(values, float).tolist())


def as_json(content: Any) -> str:
    """JSON that may stand inside a `script` element."""
    written = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c")


def library() -> str:
    """Vega, Vega-Lite and Vega-Embed, as a script that leaves `vegaEmbed` behind."""
    import altair  # here, because only a page needs them
    import vl_convert

    version = altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version).replace(
        "</script", "<\\/script"
    )
