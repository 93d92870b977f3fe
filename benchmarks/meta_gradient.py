"""One meta-gradient: what was planned, and what memory and time it takes.

    python benchmarks/meta_gradient.py two_moons --units 16 --problems 2
    python benchmarks/meta_gradient.py mnist --images.data-dir DATA
    python benchmarks/meta_gradient.py mnist --images.data-dir DATA --devices 1

By default it runs on a device for each core: problems are spread over them, or the parameters of
each problem where there are fewer. Memory is that of XLA's temporary buffers on one device, and how
far the peak of the resident memory rises over what is there before compiling. Compilation is
counted apart; the time is the least of `repeats`, and processor time is that of the same one, all
threads together.
"""

import dataclasses
import os
import resource
import time
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import tyro

import lrevopt as lo
from lrevopt.host_devices import THREADS, cores
from lrevopt.inner_loop.devices import check_mesh, on_every_device, spread_in_words
from lrevopt.meta_training.settings import Estimator
from lrevopt.runs.command_line import parse, plain_errors
from lrevopt.runs.options import Images, Task
from lrevopt.tasks.interface import drawn_parameters
from lrevopt.tasks.named import make_task

GIBIBYTE = 2**30


@dataclasses.dataclass(frozen=True)
class Settings:
    """One meta-gradient: what was planned, and what memory and time it takes."""

    task: tyro.conf.Positional[Task]
    """What the optimizer is trained on."""
    units: int = 16
    """Width of the GRU."""
    problems: int = 1
    """Problems in the batch."""
    unroll: int = 200
    """Inner updates."""
    estimator: Estimator = "exact"
    repeats: int = 2
    """Times that it is computed, after compiling."""
    devices: int | None = None
    """CPU devices, by default one for each core."""
    images: Images = Images()


def peak() -> float:
    """Peak of this process's resident memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIBIBYTE


def main(settings: Settings) -> None:
    """Plan, compile, run."""
    devices = settings.devices or cores()
    if devices > 1:
        os.environ.setdefault(THREADS, str(cores() + devices))
    jax.config.update("jax_num_cpu_devices", devices)
    task = make_task(settings.task, settings.images.kwargs(), settings.images.data_dir)
    optimizer = lo.GRUOptimizer(settings.units, key=jr.key(0), output_scale=1e-3)
    readout = -0.02 * jr.normal(jr.key(1), (settings.units,))
    optimizer = eqx.tree_at(lambda o: o.weights, optimizer, readout)
    training = lo.MetaTraining(
        unroll=settings.unroll, problems=settings.problems, estimator=settings.estimator
    )
    plan = lo.plan_memory(task, optimizer, training)
    print(plan)
    planned = plan.apply(training)
    keys = jr.split(jr.key(2), settings.problems)
    dim = drawn_parameters(task, jr.key(0)).size
    mesh = check_mesh(None, settings.problems, dim)
    print(spread_in_words(mesh, settings.problems, dim) or f"{devices} devices")

    def gradient(optimizer: Any, task: Any, keys: Any) -> Any:
        return lo.meta_gradient(optimizer, task, keys, planned, mesh)

    optimizer, task, keys = on_every_device((optimizer, task, keys), mesh)
    before, start = peak(), time.perf_counter()
    function: Any = eqx.filter_jit(gradient)
    compiled = function.lower(optimizer, task, keys).compile()
    compiling = time.perf_counter() - start
    temporary = compiled.compiled.memory_analysis().temp_size_in_bytes / GIBIBYTE
    seconds = []
    for _ in range(settings.repeats):
        start, started = time.perf_counter(), time.process_time()
        objective, _ = jax.block_until_ready(compiled(optimizer, task, keys))
        seconds.append((time.perf_counter() - start, time.process_time() - started))
    predicted = (plan.kept + plan.working) / GIBIBYTE
    least, processor = min(seconds)
    print(
        f"objective {objective:.4f}; compile {compiling:.1f} s, run {least:.2f} s ({processor:.2f} "
        f"s of processors); XLA's temporary buffers {temporary:.4f} GiB on each device, predicted "
        f"{predicted:.4f} GiB (ratio {predicted / temporary:.2f}); resident memory "
        f"{before:.2f} GiB before, {peak():.2f} GiB at the peak"
    )


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        main(settings)
