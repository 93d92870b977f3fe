"""What comes with each figure: the numbers that it draws, and how to read it.

    figure_03.npz    arrays `task/field`, fields as in the record they come from
    figure_03.txt    title, caption, and the shape of each array

Figures of one record that is not kept by task (2, 14, 15, training) have `field` alone.
Floating-point numbers are rounded to single precision, which is finer than any figure shows and
half the size. Figures are redrawn from the records of their runs, which stay whole.
"""

import io
import textwrap
from pathlib import Path

import numpy as np

from lrevopt.paper.figures.specs import FigureSpec, Runs
from lrevopt.plots.panel import Arrays
from lrevopt.storage import write_atomically
from lrevopt.text import WIDTH


def drawn_numbers(spec: FigureSpec, runs: Runs) -> Arrays:
    """The numbers that a figure draws, by `task/field`; none for a schematic.

    Floating-point arrays are in single precision, where numbers beyond 3.4e38 are infinite.
    """
    return {name: _single(array) for name, array in spec.numbers(runs).items()}


def _single(array: np.ndarray) -> np.ndarray:
    kinds = {"f": np.float32, "c": np.complex64}
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(kinds.get(array.dtype.kind, array.dtype))


def caption_text(spec: FigureSpec, arrays: Arrays) -> str:
    """Title, caption, and which numbers come with the figure, in lines of 100 characters."""
    paragraphs = [f"{spec.label}: {spec.title}", textwrap.fill(spec.caption, WIDTH)]
    if arrays:
        said = (
            f"Numbers drawn, in {spec.name}.npz (read them with numpy.load), in single precision:"
        )
        widest = max(map(len, arrays))
        rows = [f"    {name:{widest}}  {_shape(array)}" for name, array in arrays.items()]
        paragraphs.append("\n".join([said, "", *rows]))
    else:
        paragraphs.append("It draws no numbers.")
    return "\n\n".join(paragraphs) + "\n"


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "one number"


def save_figure_data(spec: FigureSpec, runs: Runs, directory: Path | str) -> list[Path]:
    """Write `figure_NN.txt` and, unless it is a schematic, `figure_NN.npz`; their paths.

    The same numbers give the same bytes. Raises `ValueError` for a folder that cannot be written.
    """
    arrays = drawn_numbers(spec, runs)
    stem = Path(directory) / spec.name
    caption = stem.with_suffix(".txt")
    write_atomically(caption, caption_text(spec, arrays))
    if not arrays:
        return [caption]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # names are strings
    write_atomically(stem.with_suffix(".npz"), buffer.getvalue())
    return [caption, stem.with_suffix(".npz")]
