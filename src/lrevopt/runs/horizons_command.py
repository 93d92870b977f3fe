"""The command `lrevopt horizons`."""

import dataclasses
from pathlib import Path

from lrevopt.runs.options import RunSettings


@dataclasses.dataclass(frozen=True)
class Horizons(RunSettings):
    """Run an optimizer and the tuned baselines for more updates than it was trained for.

    A record of earlier horizons is replaced; if other settings made it, that is said first.
    """

    horizons: tuple[int, ...] = (200, 500, 1000, 2000)
    """Numbers of updates after which meta-objectives are taken."""
    against: tuple[str, ...] | None = None
    """Tuned baselines that run as well, by name (default: all; `--against` alone: none)."""
    problems: int | None = None
    """Number of test problems (default: 256, or 64 on networks)."""
    baselines: Path | None = None
    """Folder whose tuned baselines to use, if the run has none of its own."""

    def main(self) -> None:
        """Run, save, say how each stands."""
        from lrevopt.runs.horizons import horizons_run

        horizons_run(
            self.open(max(self.horizons, default=1)), horizons=self.horizons,
            against=self.against, problems=self.problems, seed=self.seed,
            baselines=self.baselines,
        )  # fmt: skip
