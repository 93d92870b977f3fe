"""A stage: what each mechanism of an optimizer is worth, and what is proved about it."""

from pathlib import Path

from lrevopt import storage
from lrevopt.certificates import Certificates, certificate_lines, certify
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import at_parameter, saved
from lrevopt.runs.analyze import analysed_problems
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import tested_problems
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune import Say
from lrevopt.runs.writing import write
from lrevopt.studies import gradient_replay, interventions
from lrevopt.studies.interventions import INTERVENTIONS, Interventions


def intervene_run(
    run: Run,
    *,
    output: Path | None = None,
    problems: int | None = None,
    steps: int = 200,
    seed: int = 0,
    say: Say = print,
) -> Interventions:
    """Certify the fixed points, measure the cost of removing each mechanism, and save both.

    - `output`: another folder that gets the records instead of the run's.
    - `problems`: test problems, by default as many as `tested_problems` says.
    - `steps`: updates in each run.
    - `seed`: of the problems, those of the analysis and those of the test.

    What was run when a call was interrupted is not run again. Where parameters have groups,
    recorded gradients are replayed as well. An optimizer that takes x is analysed at x = 0, and its
    runs use the parameters that they meet. Raises `ValueError` for a run without weights, or an
    optimizer that diverges on every problem.
    """
    task, folder = run.task, output or run.folder
    analysis_key, test_key = (key_stream(stream, seed) for stream in ("analysis", "test"))
    tested = tested_problems(task) if problems is None else problems
    check_runs(task, problems=tested, steps=steps, optimizers=1 + len(INTERVENTIONS))
    optimizer, seen = saved.load(run.folder), analysed_problems(task)
    facts = {"problems": tested, "steps": steps, "seed": seed, "task": storage.describe(task)}
    with storage.claimed(folder), storage.resumable(folder, "intervene", facts):
        rest_analysis = interventions.analyze_rest(
            optimizer, task, key=analysis_key, problems=seen, steps=steps
        )
        proofs = storage.part(
            "proofs", Certificates,
            lambda: certify(at_parameter(optimizer, 0.0), rest_analysis.found), of=optimizer,
        )  # fmt: skip
        write(folder, "certificates", proofs)
        say("\n".join(certificate_lines(proofs)))
        record = interventions.intervene(
            optimizer, task, key=test_key, problems=tested, steps=steps,
            rest_analysis=rest_analysis,
        )  # fmt: skip
        write(folder, "interventions", record, csv=interventions.intervention_table(record))
        say(str(record))
        if len(task.parameter_groups) > 1:
            replay = storage.part(
                "gradient replay", gradient_replay.GradientReplay,
                lambda: gradient_replay.measure_gradient_replay(
                    optimizer, task, key=analysis_key, steps=steps
                ), of=optimizer,
            )  # fmt: skip
            replay = storage.six_digits(replay, "rates")
            write(folder, "gradient_replay", replay)
            say("\n".join(gradient_replay.gradient_replay_lines(replay)))
    return record
