"""Choose the snapshot of a run that is momentum, and take it apart (paper, appendix B).

python scripts/appendix_b.py runs/momentum_like --output results/linear_regression/appendix_b
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt.paper.appendices.stage import appendix_b
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choose the snapshot of a run that is momentum, and take it and its history apart."""

    run: tyro.conf.Positional[Path]
    """Folder of a run on linear regression, with its snapshots."""
    output: Path
    """Folder that gets the snapshot, `momentum_mimic.npz` and `meta_dynamics.npz`."""
    baselines: Path = Path("results/linear_regression")
    """Folder of a run with tuned baselines on linear regression."""
    problems: int = 64
    """Problems on which states are visited."""
    test_problems: int = 256
    """Problems of the loss curves."""
    steps: int = 200
    """Inner updates."""
    seed: int = 0
    """Of these problems."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        mimic, _ = appendix_b(
            settings.run,
            settings.baselines,
            settings.output,
            problems=settings.problems,
            test_problems=settings.test_problems,
            steps=settings.steps,
            seed=settings.seed,
        )
        for name, reference in (("optimum", mimic.optimum), ("tuned", mimic.tuned)):
            away = ", ".join(
                f"{key} {share:+.1%}" for key, share in mimic.distances(reference).items()
            )
            print(f"dominant mode against {name} momentum: {away}")
        together = ", ".join(f"{key} {value:.4g}" for key, value in mimic.together.items())
        print(f"all modes together: {together}")
        print(f"first principal component: {mimic.explained_variance[0]:.1%} of the variance")
        print(f"one mode alone against the whole: {mimic.gap('one_mode', 'learned'):.3f} decades")
