"""The optimizers that come with the package, copied from the runs in `results/`."""

import shutil
from pathlib import Path

from lrevopt import storage
from lrevopt.optimizers import saved
from lrevopt.optimizers.shipped_files import SHIPPED
from lrevopt.paper.front_page import shipped_runs
from lrevopt.runs.contents import Run


def ship(results: Path, folder: Path = SHIPPED) -> list[str]:
    """Copy weights and settings of the runs in `results` into the package; their names.

    Raises `ValueError` for a folder without runs, or a run without weights.
    """
    names = []
    for run in shipped_runs(results):
        saved.load(run)
        storage.writable_directory(folder)
        shutil.copyfile(run / storage.WEIGHTS, folder / f"{run.name}.npz")
        storage.save_json(folder / f"{run.name}.json", Run(run).settings)
        names.append(run.name)
    return names
