"""Check the equations of appendix C on a learned optimizer, as printed and corrected.

python scripts/appendix_c.py results/rosenbrock
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.paper.appendices.stage import appendix_c
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Check the equations of appendix C on a learned optimizer, as printed and corrected."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    steps: int = 200
    """Random gradients that it is fed."""
    scale: float = 1e-3
    """Their standard deviation, on which only equation 4 depends."""
    seed: int = 0
    """Of these gradients."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        found = appendix_c(
            settings.run, steps=settings.steps, scale=settings.scale, seed=settings.seed
        )
        print(f"{'equation':14} {'form':11} residual  formula")
        for one in found.equations:
            print(f"{one.name:14} {one.form:11} {one.residual:8.1e}  {one.formula}")
            print(f"{'':37}{one.remark}")
