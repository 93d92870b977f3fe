"""Draw the figures of a run and write its report, from saved numbers.

python scripts/report.py results/rosenbrock
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.paper.reproduce import figures_and_report
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw the figures of a run and write its report, from saved numbers."""

    run: tyro.conf.Positional[Path]
    """Folder of a run that was tuned, evaluated and analysed; gets `figures/` and `report.html`."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        print(figures_and_report(settings.run))
