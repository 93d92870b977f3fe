"""Every timed job beside its peer, in turn, with the ratio that is asked for: `make bench`.

    python benchmarks/bench.py
    python benchmarks/bench.py --only J1-64 J5 --repeats 15

Each side of a row is a process of its own. After a warm-up the two are timed in turn, and the ratio
is the median over rounds. Compilation is counted apart. Peers are renn, the package of the paper's
authors, and for scaling the package itself on one device; what is not installed is left out. The
table goes to `benchmarks/results.md`. The exit status is 0 if every ratio holds, 1 if one does not.
Run it on a machine that does nothing else.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from lrevopt.host_devices import DEVICES, cores
from lrevopt.runs.command_line import parse, plain_errors

HERE = Path(__file__).parent


class Side(NamedTuple):
    """One process: implementation, sizes, and its number of devices (None: one a core)."""

    implementation: str
    sizes: tuple[str, ...] = ()
    devices: int | None = None


class Row(NamedTuple):
    """A job on two sides. `per` divides the ratio where the second side does more work."""

    name: str
    job: str
    peer: Side
    ours: Side
    bound: float
    per: int = 1


def _beside_renn(name: str, job: str, bound: float, *sizes: str) -> Row:
    return Row(name, job, Side("renn", sizes), Side("lrevopt", sizes), bound)


def _scaling(name: str, job: str, problems: int, *sizes: str) -> Row:
    """Time per problem on all devices over that on one, with `problems` on each device."""
    count = cores()
    return Row(
        f"{name}, {count} devices / 1", job,
        Side("lrevopt", (f"problems={problems}", *sizes), 1),
        Side("lrevopt", (f"problems={problems * count}", *sizes)), 1 / 1.5, count,
    )  # fmt: skip


ROWS = (
    _beside_renn("J1-64", "j1", 0.50, "units=64"),
    _beside_renn("J1-256", "j1", 0.65, "units=256", "inner=1"),
    _beside_renn("J2-16", "j2", 0.50, "units=16", "problems=2"),
    _beside_renn("J2-32", "j2", 0.50, "units=32", "problems=2"),
    _beside_renn("J3", "j3", 0.50),
    _beside_renn("J4", "j4", 0.05),
    _beside_renn("J5", "j5", 0.20),
    _scaling("J1-64", "j1", 32, "units=64"),
    _scaling("J2-16", "j2", 1, "units=16"),
)

SAYS = {
    "j1": "meta-step, linear regression",
    "j2": "meta-step, two moons",
    "j3": "evaluate a GRU 64 on 64 problems",
    "j4": "fixed points from 500 states",
    "j5": "2,500 momentum settings on 64 problems",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time every job beside its peer, and write the table."""

    only: tuple[str, ...] = ()
    """Names of rows, all by default."""
    repeats: int = 7
    """Rounds in which the two sides are timed in turn."""
    output: Path = HERE / "results.md"
    """Where the table is written, if no row is left out."""


def main(settings: Settings) -> int:
    """Run the rows; 0 if every ratio holds."""
    chosen = [row for row in ROWS if not settings.only or row.name in settings.only]
    if not chosen:
        raise ValueError(f"`only` must be among {', '.join(r.name for r in ROWS)}, "
                         f"got {', '.join(settings.only)}.")  # fmt: skip
    lines = ["| job | | time | peer | ratio | asked | |", "|---|---|---|---|---|---|---|"]
    print(*lines, sep="\n")
    missed, left_out = [], []
    for row in chosen:
        if not _installed(row.peer.implementation):
            left_out.append(row.name)
            continue
        line, holds = _measured(row, settings.repeats)
        lines.append(line)
        print(line, flush=True)
        missed += [] if holds else [row.name]
    notes = [f"Left out, because the peer is not installed: {', '.join(left_out)}."] * bool(
        left_out
    )
    notes += [f"Missed: {', '.join(missed)}." if missed else "Every ratio holds."]
    print(*notes, sep="\n")
    if len(lines) == len(ROWS) + 2:
        settings.output.write_text("\n".join([_head(), *lines, "", *notes, ""]))
    return 1 if missed else 0


def _installed(implementation: str) -> bool:
    try:
        importlib.metadata.version(implementation)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _measured(row: Row, repeats: int) -> tuple[str, bool]:
    """The line of a row, and whether its ratio holds."""
    sides = [_start(row.job, side) for side in (row.peer, row.ours)]
    times: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for side, found in zip(sides, times, strict=True):
            found.append(float(_asked(side, "go")))
    peer, ours = (json.loads(_asked(side, "end")) for side in sides)
    ratio = statistics.median(b / a for a, b in list(zip(*times, strict=True))[1:]) / row.per
    holds, notes = ratio <= row.bound, ""
    if row.job == "j4":
        worst = ours["value"]["q100"]
        holds, notes = holds and worst <= 1e-20, f"; worst q {worst:.1e}"
    if row.job == "j5":
        same = all(ours["value"][name] == peer["value"][name] for name in ("lr", "beta"))
        holds, notes = holds and same, f"; {'same' if same else 'another'} winner"
    return (
        f"| {row.name} | {SAYS[row.job]} | {_shown(ours)} | {_shown(peer)} | {ratio:.2f} | "
        f"{row.bound:.2f} | {'holds' if holds else 'MISSED'}{notes} |"
    ), holds


def _start(job: str, side: Side) -> subprocess.Popen[str]:
    environment = os.environ | ({DEVICES: str(side.devices)} if side.devices else {})
    command = [sys.executable, str(HERE / "common.py"), job, side.implementation, *side.sizes]
    process = subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if _line(process) != "ready":
        raise RuntimeError(f"{side.implementation} does not run {job}.")
    return process


def _asked(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return _line(process)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _shown(record: dict[str, Any]) -> str:
    seconds, compiling = record["seconds"], record["compile_s"]
    shown = f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    compiled = "" if compiling is None else f", compile {compiling:.1f} s"
    return f"{shown}{compiled}, {record['peak_mib']:.0f} MiB"


def _head() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "renn"))
    return (
        "# Speed beside peers\n\n"
        "Written by `make bench`. Time of one job after compilation, and peak resident memory of "
        "its process; the ratio is the median over rounds in which both sides\n"
        "are timed in turn. Rows of several devices have as many problems on each device as on "
        "one, and their\nratio is of times per problem.\n\n"
        f"{platform.machine()}, {cores()} cores; Python {platform.python_version()}, {versions}.\n"
    )


if __name__ == "__main__":
    chosen = parse(Settings)
    with plain_errors():
        sys.exit(main(chosen))
