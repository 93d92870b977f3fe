"""Commands interrupted in processes of their own, continued, and compared with undisturbed ones.

    python tests/interrupting.py FOLDER [STAGE ...]

A process that has imported everything and computed nothing forks one child for each command. A
signal arrives either before the k-th file is renamed into place, when temporary files are there, or
at some moment of the run.
"""

import importlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrevopt import storage
from lrevopt.__main__ import main
from lrevopt.storage.files import LEFT_FILE, LEFT_FOLDER
from lrevopt.storage.packed import read_entries

SIZES = ["--optimizer.units", "2", "--training.steps", "8", "--training.unroll", "4",
         "--training.problems", "2", "--training.selection-problems", "2"]  # fmt: skip
TUNING = ["--tuning.settings", "12", "--tuning.problems", "2", "--tuning.fresh-problems", "2",
          "--tuning.finalists", "2", "--tuning.steps", "4"]  # fmt: skip
COUNTS = ["--problems", "2", "--steps", "4"]
MEMBERS = ["--problems", "2", "--test-problems", "2", "--steps", "4", "--training.unroll", "4",
           "--training.problems", "2", "--training.selection-problems", "2"]  # fmt: skip
RUN = "linear_regression"
BOX: dict[str, Any] = {
    "numbers": {"learning_rate": 0.1, "momentum": 0.5}, "held": [], "saturation_of": None,
    "adaptation_of": None, "floor_outside": False,
}  # fmt: skip
"""A white box of two numbers, in `box.json`."""

TRAIN = ["train", "linear_regression", "--output", RUN, *SIZES]

STAGES: dict[str, list[str]] = {
    "train": TRAIN,
    "checkpoint": [*TRAIN, "--save-every", "1e-3", "--overwrite"],
    "tune": ["tune", "linear_regression", "--output", RUN, *TUNING],
    "evaluate": ["evaluate", RUN, *COUNTS],
    "horizons": ["horizons", RUN, "--horizons", "2", "4", "--problems", "2"],
    "analyze": ["analyze", RUN, *COUNTS],
    "scorecard": ["scorecard", "--run", RUN, *COUNTS],
    "intervene": ["intervene", RUN, *COUNTS],
    "figures": ["figures", RUN],
    "report": ["report", RUN],
    "transfer": [
        "transfer", "--runs", ".", "--output", "transfer", "--measuring.problems", "2",
        "--measuring.steps", "4", "--measuring.scales", "0.1", "1", "--measuring.horizons", "2",
        "4", "--measuring.dimensions", "2", "3", "--measuring.analysed", "1",
    ],
    "claims": ["claims", "."],
    "front-page": ["front-page", "."],
    "tune-scales": [
        "tune-scales", RUN, "--output", "scaled", "--output-factors", "0.7", "1", *COUNTS,
    ],
    "gallery": ["gallery", RUN, "--output", "gallery", "--names", "adam", "sgd", *COUNTS],
    "distill": [
        "distill", RUN, "--output", "distilled", "--studies", "path", "parts", "--white-box",
        "box.json", "--starts", "1", "--candidates", "2", "--screening-problems", "2", "--tried",
        "1", "--seeds", "1", "--numbers", "2", "--training-steps", "2", "--training-problems", "2",
        "--selection-problems", "2", *COUNTS,
    ],
    "universality": [
        "universality", "--tasks", RUN, "--baselines", RUN, "--output", "universality", "--cells",
        "vanilla", "--seeds", "2", "--units", "2", *MEMBERS, "--training.steps", "2",
        "--clipping.settings", "4", "--clipping.problems", "2", "--clipping.steps", "4",
        "--clipping.finalists", "2", "--clipping.fresh-problems", "2",
    ],
    "factorial": [
        "factorial", "--tasks", RUN, "--baselines", RUN, "--output", "factorial", "--widths", "2",
        "--initialisations", "scaled", "--estimators", "exact", "--meta-steps", "2", "4",
        "--seeds", "1", *MEMBERS,
    ],
    "reproduce": [
        "reproduce", "linear_regression", "--output", "all", *SIZES, *TUNING, "--test-problems",
        "2", "--no-scorecard", "--no-interventions",
    ],
}  # fmt: skip
"""Commands in an order in which each has what it needs."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

ONCE = ("reproduce", "gallery", "distill", "universality", "factorial")
"""Stages interrupted once by each signal: long ones."""

TRAINING = ("train", "reproduce", "universality", "factorial")
"""Commands that leave snapshots."""

OF_TRAINING = ("meta-step", "memory plan", "runs problems", " at once")
"""What lines of training's own hold: its progress bar, its plan, its devices."""

VARYING = ("report.html", "history.npz", "checkpoints", "snapshots")
"""What holds times, or is a folder of Orbax's; compared by content or not at all."""


def forked(folder: Path, words: Sequence[str], before: Callable[[], None]) -> tuple[int, str]:
    """Exit code and standard error of a command in a folder; minus the signal that killed it."""
    log = folder / ".stderr"
    child = os.fork()
    if not child:
        code = 99
        try:
            os.chdir(folder)
            for number, name in ((1, "/dev/null"), (2, str(log))):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            before()
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    said = log.read_text()
    log.unlink()
    return os.waitstatus_to_exitcode(status), said


def undisturbed() -> None:
    """No signal."""


def at_file(count: int, number: int) -> Callable[[], None]:
    """A signal before the file of this count is renamed into place."""

    def prepare() -> None:
        rename, left = os.replace, [count]

        def replace(*paths: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
            rename(*paths)

        os.replace = replace  # type: ignore[assignment]

    return prepare


def after(seconds: float, number: int) -> Callable[[], None]:
    """A signal some time after the command has begun."""

    def prepare() -> None:
        target = os.getpid()
        if not os.fork():
            time.sleep(seconds)
            os.kill(target, number)
            os._exit(0)

    return prepare


def counting(file: Path) -> Callable[[], None]:
    """Write down how many files are renamed into place."""

    def prepare() -> None:
        rename, done = os.replace, [0]

        def replace(*paths: str) -> None:
            rename(*paths)
            done[0] += 1
            file.write_text(str(done[0]))

        os.replace = replace  # type: ignore[assignment]

    return prepare


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    """What is there only while something runs."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if LEFT_FILE.fullmatch(path.name) or LEFT_FOLDER.fullmatch(path.name)
        or path.name in (storage.LOCK, storage.UNFINISHED)
    ]  # fmt: skip


def differences(folder: Path, reference: Path) -> list[str]:
    """Files that are not to the byte, or not to the number, as they are in the other folder."""
    ours, theirs = files(folder), files(reference)

    def steady(name: str) -> bool:
        return not any(part in VARYING for part in Path(name).parts)

    different = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if steady(name)
        and (name not in ours or name not in theirs
             or ours[name].read_bytes() != theirs[name].read_bytes())
    ]  # fmt: skip
    for path in reference.rglob("history.npz"):
        pair = [read_entries(at / path.relative_to(reference))[0] for at in (folder, reference)]
        different += [
            f"{path.name} {name}"
            for name in pair[1].keys() - {"seconds"}
            if not np.array_equal(pair[0][name], pair[1][name], equal_nan=name != "outcome")
        ]
    return different


def same_snapshots(folder: Path, reference: Path) -> bool:
    """Whether snapshots hold the same numbers, read by a process of their own."""
    if not (child := os.fork()):
        same = True
        for path in reference.rglob("snapshots"):
            ours, theirs = (
                storage.load_arrays(at / path.relative_to(reference)) for at in (folder, reference)
            )
            same &= all(np.array_equal(array, ours[name]) for name, array in theirs.items())
        os._exit(not same)
    return os.waitpid(child, 0)[1] == 0


def unsound(folder: Path) -> list[str]:
    """Files that cannot be read after an interruption."""
    found = []
    for name, path in files(folder).items():
        if path.suffix == ".npz" and not path.name.startswith("."):
            try:
                read_entries(path)
            except ValueError as error:
                found.append(f"{name}: {error}")
    return found


def continued(folder: Path, words: Sequence[str]) -> Sequence[str]:
    """The command that goes on: the same, for training with --resume where it has begun."""
    begun = (folder / RUN / storage.SETTINGS).is_file()
    if words[0] == "train":
        plain = [word for word in words if word != "--overwrite"]
        return [*plain, "--resume"] if begun else words
    return words


def judged(folder: Path, words: Sequence[str], number: int, outcome: tuple[int, str]) -> list[str]:
    """What is wrong with the folder and the words of a command that a signal ended."""
    code, said = outcome
    expected = -number if number == signal.SIGKILL else 128 + number
    wrong = [] if code == expected else [f"exit code {code}"]
    lines = [line for line in said.split("\n") if line.strip()]
    lines = [line for line in lines if not any(word in line for word in OF_TRAINING)]
    if len(lines) > 1 or "Traceback" in said:
        wrong.append(f"{len(lines)} lines: {' | '.join(lines)[-400:]}")
    return wrong + unsound(folder)


def interrupted(
    folder: Path, words: Sequence[str], reference: Path, number: int, when: Callable[[], None]
) -> list[str] | None:
    """What went wrong; `None` if the command had ended before the signal came."""
    outcome = forked(folder, words, when)
    if outcome[0] == 0:
        return None
    wrong = judged(folder, words, number, outcome)
    code, said = forked(folder, continued(folder, words), undisturbed)
    if code:
        return [*wrong, f"continued: exit code {code}, {said[-300:]}"]
    wrong += [f"left: {name}" for name in leftovers(folder)]
    if words[0] in TRAINING and not same_snapshots(folder, reference):
        wrong.append("different: snapshots")
    return wrong + [f"different: {name}" for name in differences(folder, reference)]


def import_everything() -> None:
    """All that commands import on the way, so that children start at once."""
    names = [
        "lrevopt.paper.commands", "lrevopt.runs.commands", "lrevopt.paper.reproduce",
        "lrevopt.paper.transfer", "lrevopt.paper.figures.drawing", "lrevopt.runs.scorecard",
        "lrevopt.runs.intervene", "lrevopt.runs.distill", "lrevopt.runs.gallery",
        "lrevopt.runs.tune_scales", "lrevopt.paper.universality", "lrevopt.paper.factorial",
        "lrevopt.paper.front_page", "orbax.checkpoint", "scipy.stats", "scipy.optimize",
    ]  # fmt: skip
    for name in names:
        importlib.import_module(name)


def run_all(
    root: Path, stages: Sequence[str] = tuple(STAGES), seed: int = 4, rounds: int = 2
) -> tuple[int, int]:
    """Interrupt these stages by every signal; how many were tried, and how many were good."""
    dice, tried, good = random.Random(seed), 0, 0
    now = root / "now"
    now.mkdir(parents=True)
    storage.save_json(now / "box.json", BOX)
    for stage, words in STAGES.items():
        if stage not in stages:
            code, said = forked(now, words, undisturbed)
            assert code == 0, said
            continue
        base, reference, count = root / f"{stage}_base", root / f"{stage}_after", root / "count"
        shutil.copytree(now, base)
        forked(now, words, undisturbed)  # so that programs are compiled, and times are fair
        shutil.rmtree(now)
        shutil.copytree(base, now)
        start = time.monotonic()
        code, said = forked(now, words, counting(count))
        seconds, renamed = time.monotonic() - start, int(count.read_text())
        assert code == 0, said
        shutil.copytree(now, reference)
        for number in SIGNALS:
            for place in range(1 if stage in ONCE else rounds):
                for attempt in range(6):  # a moment after the end is none
                    when = at_file(dice.randint(1, renamed), number)
                    if place % 2 and attempt < 4:
                        seconds *= 0.9
                        when = after(dice.uniform(0, seconds), number)
                    folder = root / "case"
                    shutil.copytree(base, folder)
                    wrong = interrupted(folder, words, reference, number, when)
                    shutil.rmtree(folder)
                    if wrong is not None:
                        break
                tried, good = tried + 1, good + (wrong == [])
                name = signal.Signals(number).name
                print(f"{stage} {name}: {'; '.join(wrong) if wrong else wrong}", flush=True)
        for used in (base, reference):
            shutil.rmtree(used)
    return tried, good


if __name__ == "__main__":
    import_everything()
    total, fine = run_all(Path(sys.argv[1]), sys.argv[2:] or tuple(STAGES))
    print(f"interruptions: {total} tried, {fine} good")
    sys.exit(fine < total)
