"""Two processes that compute one thing: same numbers, one end for all, and a run that goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import numpy as np
import on_hosts
import pytest

import lrevopt as lo
from lrevopt.runs.hosts import Hosts, distributed

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"LREVOPT_DEVICES": "2", "JAX_ENABLE_X64": "1"}
LIMIT = 400
"""Seconds that a pair of processes may take."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def pair(commands, folder=None, **environment):
    """Two processes with these commands, their outputs in files `out0` and so on."""
    processes = []
    for number, words in enumerate(commands):
        where = Path(folder or ".")
        with (where / f"out{number}").open("w") as out, (where / f"err{number}").open("w") as err:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *words], stdout=out, stderr=err, cwd=where,
                    env=ENVIRONMENT | environment,
                )
            )  # fmt: skip
    return processes


def ended(processes, limit=LIMIT):
    """Exit codes of processes, which are killed where they take too long."""
    until = time.monotonic() + limit
    try:
        return [process.wait(max(1.0, until - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()


def lines(folder, name):
    return (folder / name).read_text().replace("\r", "\n").splitlines()


@pytest.mark.slow
def test_numbers_agree_on_devices_and_processes(tmp_path):
    """1, 2 and 4 devices of one process, and two processes with two devices each."""
    port = str(free_port())
    script = str(HERE / "on_hosts.py")
    processes = pair([[script, port, "0"], [script, port, "1"]], tmp_path, XLA_FLAGS="")
    one = on_hosts.measured(lo.problem_mesh(1))
    meshes = {f"{n} devices": on_hosts.measured(lo.problem_mesh(n)) for n in (2, 4)}
    assert ended(processes) == [0, 0], lines(tmp_path, "err0") + lines(tmp_path, "err1")
    for number in (0, 1):
        (said,) = [line for line in lines(tmp_path, f"out{number}") if line.startswith("FOUND ")]
        meshes[f"process {number}"] = json.loads(said.removeprefix("FOUND "))
    for where, found in meshes.items():
        for name, values in one.items():
            scale = np.abs(values).max()
            np.testing.assert_allclose(
                found[name], values, rtol=0, atol=1e-12 * scale, err_msg=f"{where}: {name}"
            )


SMALL = [
    "-m", "lrevopt", "train", "linear_regression", "--optimizer.units", "3", "--training.unroll",
    "4", "--training.problems", "4", "--training.selection-problems", "2",
    "--training.snapshot-every", "50", "--training.no-early-snapshots", "--output", "run",
]  # fmt: skip
FLAGS = on_hosts.FLAGS


def trainers(folder, *more, steps):
    """Two processes that train one run together."""
    shared = [*SMALL, "--training.steps", str(steps), *more]
    where = ["--distributed", "--hosts.coordinator", f"127.0.0.1:{free_port()}"]
    where += ["--hosts.processes", "2", "--hosts.process"]
    return pair([[*shared, *where, k] for k in ("0", "1")], folder, XLA_FLAGS=FLAGS)


def begun(folder, limit=LIMIT):
    """Wait until a run has saved a state after its first meta-step."""
    until = time.monotonic() + limit
    while not list(folder.glob("run/checkpoints/step_*")):
        assert time.monotonic() < until, lines(folder, "err0") + lines(folder, "err1")
        time.sleep(0.2)


def alone(folder, *more, steps):
    """The same run in one process with one device."""
    words = [*SMALL, "--training.steps", str(steps), *more]
    (process,) = pair([words], folder, XLA_FLAGS=FLAGS, LREVOPT_DEVICES="1")
    return ended([process])


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path, signalled):
    """They save, end with the signal's code, and the run goes on, here in one process."""
    processes = trainers(tmp_path, "--save-every", "0.2", steps=20000)
    begun(tmp_path)
    processes[signalled].send_signal(signal.SIGTERM)
    assert ended(processes) == [128 + signal.SIGTERM] * 2, lines(tmp_path, "err1")
    assert lines(tmp_path, "out0")[-1].startswith("stopped (SIGTERM); continue with the same")
    assert lines(tmp_path, "out1") == []
    history = lo.Run(tmp_path / "run").history
    assert history is not None
    taken = int(history.steps)
    assert 0 < taken < 20000
    assert (tmp_path / "run" / "checkpoints" / f"step_{taken:08d}").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_in_one_sentence(tmp_path, killed):
    """Within a minute, with exit code 1; and the run goes on to the same end."""
    processes = trainers(tmp_path, "--save-every", "0.2", steps=300)
    begun(tmp_path)
    processes[killed].kill()
    began = time.monotonic()
    other = processes[1 - killed]
    assert other.wait(LIMIT) == 1
    assert time.monotonic() - began < 60
    processes[killed].wait()
    said = [line for line in lines(tmp_path, f"err{1 - killed}") if line.startswith("error: ")]
    assert len(said) == 1
    assert said[0].startswith("error: another process of this run has ended or cannot be reached")
    assert not [line for line in lines(tmp_path, f"err{1 - killed}") if "stack trace" in line]
    assert ended(trainers(tmp_path, "--resume", steps=300)) == [0, 0]
    (tmp_path / "alone").mkdir()
    assert alone(tmp_path / "alone", steps=300) == [0]
    runs = [lo.Run(folder / "run") for folder in (tmp_path, tmp_path / "alone")]
    optimizers = [eqx.filter(run.optimizer, eqx.is_array) for run in runs]
    assert eqx.tree_equal(*optimizers, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_seeds_in_two_processes(tmp_path):
    """Members are spread over processes, and saved by the first."""
    assert ended(trainers(tmp_path, "--seeds", "4", steps=3)) == [0, 0], lines(tmp_path, "err0")
    assert ended(trainers(tmp_path, "--seeds", "4", "--resume", steps=3)) == [0, 0]
    (tmp_path / "alone").mkdir()
    assert alone(tmp_path / "alone", "--seeds", "4", steps=3) == [0]
    for member in range(4):
        found, wanted = (
            eqx.filter(lo.load(folder / "run" / f"member_{member:03d}"), eqx.is_array)
            for folder in (tmp_path, tmp_path / "alone")
        )
        assert eqx.tree_equal(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        (Hosts(), "`distributed` needs `hosts.coordinator`, `hosts.processes` and `hosts.process`"),
        (Hosts("a:1"), "`hosts.processes` must be given with the others"),
        (Hosts("a", 2, 0), "`hosts.coordinator` must be name:port, got 'a'"),
        (Hosts("a:1", 0, 0), "`hosts.processes` must be an integer of at least 1, got 0"),
        (Hosts("a:1", 2, 2), "`hosts.process` must be below 2 processes, got 2"),
        (Hosts("a:1", 2, -1), "`hosts.process` must be an integer of at least 0, got -1"),
        (Hosts("a:1", 2, 0), "`distributed` must be left out in a process that has imported JAX"),
    ],
)
def test_refusals(monkeypatch, hosts, said):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError, match=said):
        distributed(lambda: 0, hosts)


def test_the_environment_says_where(monkeypatch):
    for name, value in {
        "COORDINATOR_ADDRESS": "b:2",
        "NUM_PROCESSES": "3",
        "PROCESS_ID": "1",
    }.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    found = Hosts(process=2).arguments()
    assert (found["coordinator_address"], found["num_processes"], found["process_id"]) == (
        "b:2", 3, 2,
    )  # fmt: skip
    monkeypatch.setenv("JAX_NUM_PROCESSES", "many")
    with pytest.raises(ValueError, match="`JAX_NUM_PROCESSES` must be a number, got 'many'"):
        Hosts().arguments()


def test_slurm_is_enough(monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert Hosts().arguments() == {}
