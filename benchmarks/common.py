"""What the timed jobs share: a case and how it is measured, and inputs that are the same for all.

A worker process holds one implementation of one job: `python benchmarks/common.py j1 lrevopt
units=64`. It prints `ready`, then the seconds of one more repeat for each line `go`, and a record
in JSON for the line `end`. `benchmarks/bench.py` drives two of them in turn.
"""

import dataclasses
import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

JOBS: dict[str, dict[str, Any]] = {
    "j1": {"units": 64, "problems": 32, "steps": 200, "inner": 3},
    "j2": {"units": 16, "problems": 1, "steps": 200, "inner": 1},
    "j3": {"problems": 64, "steps": 200, "inner": 5},
    "j4": {"states": 500, "steps": 1000},
    "j5": {"settings": 2500, "problems": 64, "steps": 200},
}
"""Sizes of each job; `inner` is the number of repetitions in one timing."""

IMPLEMENTATIONS = {"lrevopt": "peer_jobs", "renn": "renn_jobs"}
"""Modules with a function for each job."""


@dataclasses.dataclass
class Case:
    """One job, ready to run: `run` blocks until it is done and returns numbers to report."""

    run: Callable[[], Any]
    per_repeat: int = 1
    compile_s: float | None = None
    temp_mib: float | None = None
    notes: dict[str, float] = dataclasses.field(default_factory=dict)


def aot(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """The compiled function, seconds of tracing and compiling, MiB of XLA's temporary buffers."""
    import jax

    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    assert memory is not None  # of every backend that the benchmarks run on
    return compiled, seconds, memory.temp_size_in_bytes / 2**20


def meta_loop_case(step: Callable[..., Any], state: Any, per_repeat: int) -> Case:
    """A case for `step(i, state) -> (loss, state)`, which goes on from repeat to repeat."""
    import jax
    import jax.numpy as jnp

    compiled, seconds, temporary = aot(step, jnp.int32(0), state)
    reached = SimpleNamespace(state=state, step=0)

    def run() -> dict[str, float]:
        for _ in range(per_repeat):
            loss, reached.state = compiled(jnp.int32(reached.step), reached.state)
            reached.step += 1
        jax.block_until_ready(reached.state)
        return {"loss": float(loss)}

    return Case(run, per_repeat, seconds, temporary)


def quadratic_batch(seed: int, problems: int, dim: int = 5) -> tuple[np.ndarray, ...]:
    """Starts, H, v and offsets of 1/2 x'Hx + v'x + offset, eigenvalues 10^U(-3, 0), minimum 0."""
    rng = np.random.default_rng(seed)
    eigenvalues = 10 ** rng.uniform(-3.0, 0.0, (problems, dim))
    basis, _ = np.linalg.qr(rng.normal(size=(problems, dim, dim)))
    hessians = np.einsum("bij,bj,bkj->bik", basis, eigenvalues, basis)
    linear = rng.normal(size=(problems, dim))
    lowest = np.linalg.solve(hessians, -linear[..., None])[..., 0]
    offsets = -0.5 * np.einsum("bi,bij,bj->b", lowest, hessians, lowest)
    offsets -= np.einsum("bi,bi->b", linear, lowest)
    starts = rng.normal(size=(problems, dim))
    return tuple(part.astype("float32") for part in (starts, hessians, linear, offsets))


def load_gru() -> dict[str, np.ndarray]:
    """A GRU of 64 units trained on quadratics: weights W, A, b of the gates z, r, c, and h0, w, c.

    z = sig(Az g + Wz h + bz), r = sig(Ar g + Wr h + br), n = tanh(Ac g + Wc (r h) + bc),
    h' = z h + (1 - z) n, and the update is w . h' + c.
    """
    return dict(np.load(Path(__file__).with_name("gru64.npz")))


def visited_states(gru: dict[str, np.ndarray], count: int, seed: int = 11) -> np.ndarray:
    """States that the GRU goes through on one quadratic."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    x, hessian, linear, _ = (part[0] for part in quadratic_batch(seed, 1))
    states, visited = np.repeat(gru["h0"][None], 5, 0), []
    for _ in range(count // 5):
        visited.append(states)
        g = (hessian @ x + linear)[:, None]
        z = sigmoid(g * gru["Az"] + states @ gru["Wz"].T + gru["bz"])
        r = sigmoid(g * gru["Ar"] + states @ gru["Wr"].T + gru["br"])
        n = np.tanh(g * gru["Ac"] + (r * states) @ gru["Wc"].T + gru["bc"])
        states = z * states + (1 - z) * n
        x = x + states @ gru["w"] + gru["c"]
    return np.concatenate(visited).astype("float32")


def search_settings(count: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Random learning rates and momenta, log-uniform as in the paper's search."""
    rng = np.random.default_rng(seed)
    rates, rests = 10 ** rng.uniform(-5, 1, count), 10 ** rng.uniform(-3, 0, count)
    return rates.astype("float32"), (1 - rests).astype("float32")


def serve(case: Case) -> None:
    """Answer lines of standard input until `end`; the first repeat is a warm-up."""
    wall, cpu, value = [], [], None
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() != "go":
            break
        cpu_start, start = time.process_time(), time.perf_counter()
        value = case.run()
        wall.append((time.perf_counter() - start) / case.per_repeat)
        cpu.append((time.process_time() - cpu_start) / case.per_repeat)
        print(wall[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = {
        "seconds": statistics.median(wall[1:]), "cpu_seconds": statistics.median(cpu[1:]),
        "compile_s": case.compile_s, "temp_mib": case.temp_mib, "peak_mib": peak, "value": value,
        "notes": case.notes,
    }  # fmt: skip
    print(json.dumps(record), flush=True)


def main(job: str, implementation: str, *sizes: str) -> None:
    """Build the case of one implementation and serve it. `sizes` are such as units=64."""
    chosen = JOBS[job] | {name: int(value) for name, value in (s.split("=") for s in sizes)}
    module = importlib.import_module(IMPLEMENTATIONS[implementation])
    serve(getattr(module, job)(SimpleNamespace(**chosen)))


if __name__ == "__main__":
    sys.modules["common"] = sys.modules["__main__"]  # one class `Case`, whoever imports it
    main(*sys.argv[1:])
