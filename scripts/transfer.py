"""Every shipped optimizer and every tuned baseline on every task, and sweeps of one thing.

python scripts/transfer.py                              # of results/, into results/transfer
python scripts/transfer.py --runs runs --output away    # of runs of your own

What is there already is not measured again, so that an interrupted call goes on, and a complete
one only draws.
"""

import dataclasses
from pathlib import Path

from lrevopt.paper.transfer import TransferSettings, transfer
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every shipped optimizer and every tuned baseline on every task, and sweeps of one thing."""

    runs: Path = Path("results")
    """Folder of runs, named as their tasks are, each with tuned baselines."""
    output: Path | None = None
    """Folder that gets numbers, tables and figures (default: `transfer` in the folder of runs)."""
    data_dir: Path | None = None
    """Folder with MNIST's files (default: $LREVOPT_DATA, the user's cache, a download)."""
    measuring: TransferSettings = TransferSettings()


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        output = settings.output or settings.runs / "transfer"
        transfer(settings.runs, output, settings.measuring, data_dir=settings.data_dir)
