"""Take one mechanism of a run's learned optimizer away after the other, and see what it costs.

python scripts/intervene.py results/rosenbrock --problems 256
"""

import dataclasses
from pathlib import Path

import tyro

from lrevopt import storage
from lrevopt.certificates import certificate_lines, certify
from lrevopt.optimizers import saved
from lrevopt.runs.analyze import analysed_problems
from lrevopt.runs.command_line import parse, plain_errors
from lrevopt.runs.experiment import key_stream, load_task, tested_problems
from lrevopt.studies import gradient_replay, interventions


@dataclasses.dataclass(frozen=True)
class Settings:
    """Take one mechanism of a run's learned optimizer away after the other: what does it cost?"""

    run: tyro.conf.Positional[Path]
    """Folder of a run; gets `interventions.npz`, `interventions.csv`, `certificates.npz` and, for
    parameters with groups, `gradient_replay.npz`."""
    output: Path | None = None
    """Another folder that gets them instead."""
    problems: int | None = None
    """Test problems (default: 256, or 64 of networks)."""
    steps: int = 200
    """Inner updates."""
    data_dir: Path | None = None
    """Folder with MNIST's files, for a run on MNIST (default: $LREVOPT_DATA, the cache)."""
    seed: int = 0
    """Of the problems, those of the analysis and those of the test."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        name, task = load_task(settings.run, settings.data_dir)
        output, steps = settings.output or settings.run, settings.steps
        opt, seen = saved.load(settings.run), analysed_problems(task)
        keys = [key_stream(stream, settings.seed) for stream in ("analysis", "test")]
        tested = tested_problems(name) if settings.problems is None else settings.problems
        rest_analysis = interventions.analyze_rest(
            opt, task, key=keys[0], problems=seen, steps=steps
        )
        proofs = certify(opt, rest_analysis.found)
        storage.save_record(output / "certificates.npz", proofs)
        print("\n".join(certificate_lines(proofs)), flush=True)
        record = interventions.intervene(
            opt, task, key=keys[1], problems=tested, steps=steps, rest_analysis=rest_analysis
        )
        storage.save_record(output / "interventions.npz", record)
        table = interventions.intervention_table(record)
        storage.write_atomically(output / "interventions.csv", table)
        print(record, flush=True)
        if len(task.parameter_groups) > 1:
            replay = gradient_replay.measure_gradient_replay(opt, task, key=keys[0], steps=steps)
            storage.save_record(output / "gradient_replay.npz", replay)
            print("\n".join(gradient_replay.gradient_replay_lines(replay)))
