"""Write the front page of all shipped runs, `results/index.html`, from what is saved there.

python scripts/front_page.py
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.paper.claims.saved_runs import claims_of_all
from lrevopt.paper.front_page import RESULTS, front_page_of
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Write the front page of all runs in a folder, `index.html`, from what is saved there."""

    results: tyro.conf.Positional[Path] = RESULTS
    """Folder with a run per task, named as the task, and `figures/`; gets `index.html`."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        print(front_page_of(settings.results, claims_of_all(settings.results)))
