"""Training an optimizer on how well it optimizes: by meta-gradients, or by a search without any."""

from pathlib import Path

from jax.sharding import Mesh
from jaxtyping import Array, Key

from lrevopt.checks import random_key
from lrevopt.meta_training.evolution import Evolving
from lrevopt.meta_training.loop import Training, check_running, identity, train_on
from lrevopt.meta_training.records import MetaTrainingRun
from lrevopt.meta_training.run_directory import RunDirectory
from lrevopt.meta_training.settings import MetaTraining
from lrevopt.meta_training.training_checks import check_training
from lrevopt.optimizers.interface import AbstractOptimizer
from lrevopt.tasks.interface import AbstractTask


def meta_train(
    task: AbstractTask,
    optimizer: AbstractOptimizer,
    settings: MetaTraining,
    *,
    key: Key[Array, ""],
    directory: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_every: float = 30.0,
    memory_limit: float | None = None,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> MetaTrainingRun:
    """Train `optimizer` on problems of `task`; all its floating-point leaves are trained.

    `key` is split into the streams of training and of selection problems; test problems must
    come from another key. With a `directory`, settings and weights are kept there and the run
    can be continued with `resume`: the result has the same bits as without the interruption
    (on the same machine and number of threads). The whole state is saved every `save_every`
    seconds. The run saves and stops early after `time_limit` seconds (and one step at least), on
    SIGINT and on SIGTERM: `history.outcome` says so, which whoever goes on from it should read.

    `micro_batch` and `checkpoint_every`, where `settings` leave them open, are planned so that
    the run fits into `memory_limit` GiB (see `plan_memory`). The plan is printed with `progress`,
    and kept for resumption.

    Problems are spread over the devices of `mesh` (default: see `problem_mesh`), which share a
    micro-batch. Where there are fewer problems than devices, the parameters of each problem are
    spread, if they are many; the plan says so. Results depend on the number of devices only by
    round-off, and a run may be resumed on another number of them.

    With `settings.estimator` "cma" the optimizer is searched without gradients (see `evolution`);
    `memory_limit` then bounds the runs that go on side by side, unless one alone takes more.

    Raises `ValueError` for a directory that holds another run (unless `overwrite`), that another
    process writes into, for one to resume that holds none, for a damaged checkpoint, times that are
    not positive, an optimizer or task that does not fit (see `unroll`), first losses of selection
    problems that are not all finite and above 0, or a memory limit that nothing fits into.
    """
    check_running(
        time_limit, save_every, memory_limit, resume=resume, overwrite=overwrite, progress=progress
    )
    key = random_key("key", key)
    check_training(task, optimizer, settings, key)
    folder = RunDirectory(directory, identity(task, optimizer, settings, key))
    folder.check_same()
    with folder.claimed():
        kind = Evolving if settings.estimator == "cma" else Training
        training = kind.prepare(
            task, optimizer, settings, folder, key=key, resume=resume, overwrite=overwrite,
            memory_limit=memory_limit, report_plan=progress, mesh=mesh,
        )  # fmt: skip
        outcome = train_on(
            training, time_limit=time_limit, save_every=save_every, progress=progress
        )
        return training.finish(outcome)
