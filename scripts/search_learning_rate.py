"""Random search of the meta learning rate for one task, on selection problems.

python scripts/search_learning_rate.py rosenbrock --training.steps 300 --candidates 8
"""

import dataclasses

from lrevopt.meta_training import search_learning_rate
from lrevopt.runs.command_line import ExperimentSettings, parse_by_task, plain_errors
from lrevopt.runs.experiment import key_stream


@dataclasses.dataclass(frozen=True)
class Settings(ExperimentSettings):
    """Random search of the meta learning rate for one task, on selection problems."""

    candidates: int = 8
    """Runs of `training.steps` meta-steps, one per learning rate."""
    low: float = 1e-4
    """Least learning rate."""
    high: float = 1e-2
    """Largest learning rate."""


def main(settings: Settings) -> None:
    """Search, and print every candidate, best first."""
    chosen = settings.experiment()
    found = search_learning_rate(
        chosen.make_task(),
        chosen.optimizer.build(key_stream("initial_weights", chosen.seed)),
        chosen.training,
        candidates=settings.candidates,
        bounds=(settings.low, settings.high),
        key=key_stream("training", chosen.seed),
    )
    order = found.scores.argsort()
    print("learning rate   selection score   skipped")
    for rate, score, skipped in zip(
        found.learning_rates[order], found.scores[order], found.skipped[order], strict=True
    ):
        print(f"{rate:13.3e} {score:17.4f} {skipped:9.0f}")


if __name__ == "__main__":
    settings = parse_by_task(Settings)
    with plain_errors():
        main(settings)
