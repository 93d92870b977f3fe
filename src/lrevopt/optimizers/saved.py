"""Optimizers on disk: the weights of run directories, and those that come with the package."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Key

from lrevopt import specs, storage
from lrevopt.checks import shown
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.optimizers.named import make_optimizer
from lrevopt.optimizers.recurrent import GRUCell, RecurrentOptimizer
from lrevopt.optimizers.shipped_files import SHIPPED
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import described_box

CELLS: dict[str, Callable[[int, Key[Array, ""]], Any]] = {
    "gru": lambda units, key: GRUCell(units, key=key),
    "equinox_gru": lambda units, key: eqx.nn.GRUCell(1, units, key=key),
}
"""Cells that `load` can rebuild from a run's settings, by the name used in scripts."""

SPEC = "optimizer_spec"
"""Entry of a run's settings: the name of its optimizer and the arguments it was made with."""


def save_optimizer(directory: Path | str, optimizer: AbstractOptimizer) -> None:
    """Weights of an optimizer into a run directory (`weights.npz`)."""
    directory = Path(directory)
    storage.write_atomically(directory / storage.WEIGHTS, weights_bytes(optimizer))
    storage.remove(directory / storage.OLD_WEIGHTS)


def weights_bytes(optimizer: AbstractOptimizer) -> bytes:
    """What `save_optimizer` writes."""
    described = {"optimizer": storage.describe(optimizer)}
    return storage.npz_bytes(storage.tree_to_arrays(optimizer), described)


def load_weights(directory: Path | str) -> dict[str, np.ndarray]:
    """Weights of a run directory by their path in the optimizer; none where there are none yet.

    Raises `ValueError` for damaged ones.
    """
    directory = Path(directory)
    if (directory / storage.WEIGHTS).is_file():
        return storage.load_npz(directory / storage.WEIGHTS)
    old = directory / storage.OLD_WEIGHTS
    return storage.load_arrays(old) if old.is_dir() else {}


def holds(directory: Path | str, optimizer: AbstractOptimizer) -> bool:
    """Whether the weights in a run directory are those of this optimizer, to the bit.

    Its description counts as well, where the directory has it beside the weights.
    """
    file = Path(directory) / storage.WEIGHTS
    try:
        before = load_weights(directory)
        described = (storage.load_source(file) or {}) if file.is_file() else {}
    except ValueError:  # damaged
        return False
    now = json.loads(json.dumps(storage.describe(optimizer)))
    if _differing(described.get("optimizer", {}), now):
        return False
    after = storage.tree_to_arrays(optimizer)
    return after.keys() == before.keys() and all(
        np.array_equal(array, before[name]) for name, array in after.items()
    )


def shipped() -> tuple[str, ...]:
    """Names of the learned optimizers that come with the package: the paper's tasks."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.npz")))


def load(source: Path | str, like: AbstractOptimizer | None = None) -> AbstractOptimizer:
    """The optimizer of a run directory, or one that comes with the package.

    - `source`: folder of a run, or a name among `shipped()`. A folder that exists comes first.
    - `like`: an optimizer of the same structure, needed only where the settings of the run cannot
      rebuild it: for cells of your own in a run that no command of the package has begun.

    Raises `ValueError` for a folder that is missing, is not a run, has not finished its first
    stretch of training, or is damaged, and for an unknown name.
    """
    settings, directory = load_settings(source), Path(source)
    file = directory / storage.WEIGHTS if directory.exists() else SHIPPED / f"{source}.npz"
    weights = load_weights(directory) if directory.exists() else storage.load_npz(file)
    if not weights and isinstance(settings.get("members"), list):
        raise ValueError(
            f"`{directory}` holds the members of a population: name one of them, such as "
            f"`{directory / 'member_000'}`."
        )
    if not weights and "optimizer" not in settings:
        raise ValueError(
            f"`{directory}` is not the run of a training: its {storage.SETTINGS} describes no "
            f"optimizer."
        )
    if not weights:
        raise ValueError(
            f"`{directory}` holds no trained weights yet: its run was interrupted; continue it "
            f"with `--resume`."
        )
    if like is not None:
        return storage.arrays_to_tree(weights, like, directory)
    found = storage.arrays_to_tree(weights, _skeleton(settings, directory), directory)
    if file.is_file():
        _check_described(settings.get("optimizer", {}), file)
    return found


def _check_described(optimizer: Mapping[str, Any], file: Path) -> None:
    """Raise `ValueError` if weights were saved with another optimizer than settings describe."""
    ours = (storage.load_source(file) or {}).get("optimizer")
    other = _differing(ours, optimizer) if isinstance(ours, dict) else []
    if other:
        raise ValueError(
            f"`{file}` holds the weights of another optimizer than `{storage.SETTINGS}` beside it "
            f"describes (different: {', '.join(other)})."
        )


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of entries that both have, with different values; versions may differ in the rest."""
    found = []
    for name in sorted(first.keys() & second.keys()):
        pair = first[name], second[name]
        if all(isinstance(value, dict) for value in pair):
            found += [f"{name}.{inner}" for inner in _differing(*pair)]
        elif pair[0] != pair[1]:
            found.append(name)
    return found


def load_settings(source: Path | str) -> dict[str, Any]:
    """Settings of a run directory, or of the run of an optimizer that comes with the package.

    Raises `ValueError` for a folder that is missing or is not a run, and for an unknown name.
    """
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"`source` must be the folder of a run, or the name of a shipped optimizer, got "
            f"{shown(source)}."
        )
    if not str(source):  # which `Path` takes for the working folder
        raise ValueError("`source` must be the folder of a run or a shipped name, got ''.")
    directory = Path(source)
    if str(source) in shipped() and not directory.exists():
        return storage.load_settings(SHIPPED / f"{source}.json")
    if not os.path.isdir(directory):  # unlike `Path.is_dir`, also for names that are too long
        why = "it is a file" if os.path.isfile(directory) else "it does not exist"
        raise ValueError(
            f"`{directory}` is not a run directory: {why}. Shipped optimizers are "
            f"{', '.join(shipped())}."
        )
    if not (directory / storage.SETTINGS).is_file():
        raise ValueError(f"`{directory}` is not a run directory: it has no {storage.SETTINGS}.")
    return storage.load_settings(directory)


def _skeleton(settings: Mapping[str, Any], directory: Path) -> AbstractOptimizer:
    """An optimizer with the structure that settings tell of."""
    optimizer = settings.get("optimizer", {})
    if SPEC in settings and not specs.is_box(settings[SPEC]["spec"]):
        spec = settings[SPEC]
        made = make_optimizer(spec["spec"], spec["kwargs"], key=jr.key(0))
        if isinstance(made, RecurrentOptimizer):  # a search may have changed its scales
            scales = {name: optimizer[name] for name in ("input_scale", "output_scale")}
            bias = made.bias is not None
            return RecurrentOptimizer(made.cell, made.start.size, bias=bias, **scales)
        return made
    key = jr.key(0)
    try:
        if (optimizer["package"], optimizer["kind"]) == _kind(WhiteBox):
            return described_box(optimizer)
        (units,) = optimizer["start"]["shape"]
        kinds = {name: type(make(1, key)) for name, make in CELLS.items()}
        wanted = (optimizer["cell"]["package"], optimizer["cell"]["kind"])
        (name,) = [n for n, kind in kinds.items() if _kind(kind) == wanted]
        scales = {name: optimizer[name] for name in ("input_scale", "output_scale")}
        # Shapes alone: however many units a damaged file asks for, none is drawn.
        return eqx.filter_eval_shape(
            lambda: RecurrentOptimizer(
                CELLS[name](units, key), units, bias=optimizer["bias"] is not None, **scales
            )
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"`{directory}/{storage.SETTINGS}` does not describe an optimizer that can be rebuilt: "
            f"pass one of the same structure as `like`."
        ) from None


def _kind(kind: type) -> tuple[str, str]:
    """Package and name of a class, as settings have them."""
    return storage.package_of(kind), kind.__name__
