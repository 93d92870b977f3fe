"""Optimizers on disk: the weights of a run directory, and the cells that settings can rebuild."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Key

from lrevopt import storage
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.recurrent import GRUCell, RecurrentOptimizer

CELLS: dict[str, Callable[[int, Key[Array, ""]], Any]] = {
    "gru": lambda units, key: GRUCell(units, key=key),
    "equinox_gru": lambda units, key: eqx.nn.GRUCell(1, units, key=key),
}
"""Cells that `load` can rebuild from a run's settings, by the name used in scripts."""


def save_optimizer(directory: Path | str, optimizer: AbstractOptimizer) -> None:
    """Weights of an optimizer into a run directory (`weights/`)."""
    storage.save_arrays(Path(directory) / storage.WEIGHTS, storage.tree_to_arrays(optimizer))


def load(directory: Path | str, like: AbstractOptimizer | None = None) -> AbstractOptimizer:
    """The learned optimizer of a run directory, shipped or your own.

    `like` is an optimizer of the same structure, needed only for cells of your own, which the
    directory's settings cannot rebuild. Raises `ValueError` for a directory that is missing, is
    not a run, has not finished its first stretch of training, or is damaged.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"`{directory}` is not a run directory: it does not exist.")
    if not (directory / storage.SETTINGS).is_file():
        raise ValueError(f"`{directory}` is not a run directory: it has no {storage.SETTINGS}.")
    settings = storage.load_json(directory / storage.SETTINGS)
    if not (directory / storage.WEIGHTS).is_dir():
        raise ValueError(
            f"`{directory}` holds no trained weights yet: its run was interrupted; continue it "
            f"with `--resume`."
        )
    like = _skeleton(settings, directory) if like is None else like
    return storage.arrays_to_tree(storage.load_arrays(directory / storage.WEIGHTS), like, directory)


def _skeleton(settings: dict[str, Any], directory: Path) -> AbstractOptimizer:
    """An untrained optimizer with the structure that `describe` wrote."""
    try:
        optimizer = settings["optimizer"]
        (units,) = optimizer["start"]["shape"]
        key = jr.key(0)
        kinds = {name: type(make(1, key)) for name, make in CELLS.items()}
        wanted = (optimizer["cell"]["package"], optimizer["cell"]["kind"])
        (name,) = [
            n for n, kind in kinds.items() if (storage.package_of(kind), kind.__name__) == wanted
        ]
        return RecurrentOptimizer(
            CELLS[name](units, key),
            units,
            input_scale=optimizer["input_scale"],
            output_scale=optimizer["output_scale"],
            bias=optimizer["bias"] is not None,
        )
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"`{directory}/{storage.SETTINGS}` does not describe an optimizer that can be rebuilt: "
            f"pass one of the same structure as `like`."
        ) from None
