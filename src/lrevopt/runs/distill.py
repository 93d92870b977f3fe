"""A stage: the optimizer of a run as a white box of a few numbers, and what each part is worth."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from lrevopt import storage
from lrevopt.checks import instance, one_of, positive_integer
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import AbstractOptimizer, WhiteBox, saved
from lrevopt.optimizers.white_box_documents import document_of
from lrevopt.plots.distillation import path as figure_path
from lrevopt.plots.distillation import waterfall
from lrevopt.plots.style import render
from lrevopt.runs.contents import Run
from lrevopt.runs.evaluate import on_network, tested_problems
from lrevopt.runs.experiment import key_stream
from lrevopt.runs.tune import Say, load_tuning, tuned_baselines
from lrevopt.studies import distillation
from lrevopt.studies.distillation import (
    BOX_TRAINING,
    NETWORK_BOX_TRAINING,
    Attribution,
    BoxTraining,
    Distillation,
    Distilling,
    WhiteBoxPath,
    default_box,
    latex_text,
    optax_text,
)
from lrevopt.studies.distillation.contestants import check_free, check_parts
from lrevopt.studies.distillation.removals import all_free
from lrevopt.tasks import AbstractTask
from lrevopt.text import Table, csv_text

DRAWN = ("objectives", "learned", "baseline", "start_scores")
"""Arrays of attributions that are kept with six digits."""

Study = Literal["fit", "path", "elimination", "parts"]

STUDIES: tuple[Study, ...] = get_args(Study)
"""Fit to what the learned optimizer does; ever more numbers; ever fewer; worth of each part."""

DEFAULT_STUDIES: tuple[str, ...] = ("fit", "path", "parts")

NETWORK_DISTILLING = Distilling(
    starts=2, candidates=16, iterations=60, refinement=10, problems=2, test_problems=64
)
"""Settings of the fit on networks, where runs take long; the fit to losses needs most of them."""


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """What a distillation consists of. Raises `ValueError` as its parts do."""

    studies: tuple[str, ...] = DEFAULT_STUDIES
    """Which of fit, path, elimination and parts."""
    distilling: Distilling = Distilling()
    """Settings of the fit."""
    boxes: BoxTraining = BOX_TRAINING
    """How white boxes are trained."""
    seeds: int = 3
    """Repetitions of the study of parts."""
    numbers: int = 8
    """Numbers at which the path ends."""
    problems: int | None = None
    """Number of test problems (default: 256, or 64 on networks)."""
    seed: int = 0
    """Seed of all problems and starts."""

    def __post_init__(self) -> None:
        if not self.studies or len(set(self.studies)) < len(self.studies):
            raise ValueError(
                f"`studies` must be different names, at least one, got {self.studies!r}."
            )
        for name in self.studies:
            one_of("studies", name, STUDIES)
        for name in ("seeds", "numbers"):
            positive_integer(name, getattr(self, name))
        if self.problems is not None:
            positive_integer("problems", self.problems)

    @classmethod
    def for_task(cls, task: AbstractTask) -> "DistillSettings":
        """Defaults of a task: on networks fewer problems, starts and steps."""
        if not on_network(task):
            return cls()
        return cls(distilling=NETWORK_DISTILLING, boxes=NETWORK_BOX_TRAINING, seeds=1)


def distill_run(
    run: Run,
    output: Path,
    settings: DistillSettings | None = None,
    *,
    white_box: WhiteBox | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Distil a run's optimizer, and write records, tables and figures into the folder `output`.

    `settings` are those of the task by default (`DistillSettings.for_task`). `white_box` has the
    parts and held numbers of the fit, of the elimination and of the study of parts. These two start
    from its numbers, too; the last, after a fit, from those of the fit. By default it has a real
    and a complex mode, saturation, adaptation, schedule and agreement, and the study of parts
    starts at random alone. Records come back by study. A call that was interrupted goes on where it
    stopped: with the same command, white boxes that were trained are not trained again.

    Fits use problems of the stream of analyses, training that of tuning, and scores those of the
    test. Raises `ValueError` for what is no white box, a run without weights or tuned baselines,
    and an `output` that holds a run, or was made with other settings.
    """
    box = default_box() if white_box is None else white_box
    task, optimizer = run.task, saved.load(run.folder)
    settings = settings or DistillSettings.for_task(task)
    baselines = tuned_baselines(load_tuning(run.folder, task))
    problems = settings.problems or tested_problems(task)
    _check(box, task, settings, problems)
    facts = dataclasses.asdict(settings) | {
        "problems": problems, "task": storage.describe(task), "white_box": document_of(box),
        "optimizer": storage.digest_of(optimizer),
    }  # fmt: skip
    common: dict[str, Any] = {
        "key": key_stream("tuning", settings.seed), "baselines": baselines, "problems": problems,
        "test_key": key_stream("test", settings.seed), "settings": settings.boxes,
    }  # fmt: skip
    found: dict[str, Any] = {}
    storage.check_output(output, facts)
    values = {"values": storage.digest_of_contents((optimizer, baselines))}
    with storage.claimed(output), storage.resumable(output, "distill", facts | values):
        storage.save_json(output / storage.SETTINGS, facts | {"versions": storage.versions()})
        if "fit" in settings.studies:
            found["fit"] = _fit(optimizer, box, run, settings, baselines)
            _write(output, "distillation", found["fit"], say)
        paths = {
            "path": partial(
                distillation.grow_path, optimizer, task, numbers=settings.numbers, **common),
            "elimination": partial(distillation.prune_path, optimizer, box, task, **common),
        }  # fmt: skip
        for name in [name for name in paths if name in settings.studies]:
            found[name] = storage.part(name, WhiteBoxPath, paths[name])
            _write_path(output, name, found[name], settings.numbers, say)
        if "parts" in settings.studies:
            start = found["fit"].white_box if "fit" in found else white_box
            make = partial(
                distillation.attribute, optimizer, box, task, seeds=settings.seeds,
                distilled=start, **common)  # fmt: skip
            found["parts"] = storage.six_digits(storage.part("parts", Attribution, make), *DRAWN)
            _write(output, "attribution", found["parts"], say, waterfall)
    return found


def _check(box: WhiteBox, task: AbstractTask, settings: DistillSettings, problems: int) -> None:
    """Raise `ValueError` for a white box that a study cannot take, or what does not fit."""
    instance("white_box", box, WhiteBox, "a `WhiteBox`")
    runs = settings.seeds * 2 ** len(box.parts)
    check_runs(task, problems=problems, steps=settings.boxes.training.unroll, optimizers=runs)
    if "fit" in settings.studies:
        check_free(box)
    if "elimination" in settings.studies:
        all_free(box)
    if "parts" in settings.studies:
        check_parts(box)


def _fit(
    optimizer: AbstractOptimizer,
    box: WhiteBox,
    run: Run,
    settings: DistillSettings,
    baselines: dict[str, AbstractOptimizer],
) -> Distillation:
    """The fit to what the learned optimizer does."""
    return storage.part(
        "fit", Distillation,
        lambda: distillation.distill(
            optimizer, box, run.task, key=key_stream("analysis", settings.seed),
            baselines=baselines, settings=settings.distilling),
    )  # fmt: skip


def _write(output: Path, name: str, record: Any, say: Say, draw: Any = None) -> None:
    """A record with its table; then what is drawn of it, so that it is safe if drawing fails."""
    table: Table = record.table()
    files: dict[Path, str | bytes] = {
        output / f"{name}.npz": storage.record_bytes(record),
        output / f"{name}.csv": csv_text(table.heads, table.rows),
        output / f"{name}.txt": f"{table}\n",
    }
    pictures = {kind: output / f"{name}.{kind}" for kind in ("png", "svg")}

    def remove_pictures() -> None:
        for path in pictures.values():
            storage.remove(path)

    storage.replace_together(files, remove_pictures)
    say(str(record))
    if draw is not None:
        figure = draw(record)
        storage.replace_together({path: render(figure, kind) for kind, path in pictures.items()})


def _write_path(output: Path, name: str, record: WhiteBoxPath, numbers: int, say: Say) -> None:
    """A path with its table and figure, and its best white box of at most so many numbers."""
    _write(output, name, record, say, figure_path)
    stem = "distilled" if name == "path" else f"distilled_by_{name}"
    _write_box(output, stem, record.white_box(numbers), say)


def _write_box(output: Path, stem: str, box: WhiteBox, say: Say) -> None:
    """A white box as JSON, as optax and as LaTeX."""
    text = optax_text(box)
    storage.replace_together({
        output / f"{stem}.json": storage.json_text(document_of(box)),
        output / f"{stem}.py": text,
        output / f"{stem}.tex": latex_text(box),
    })  # fmt: skip
    say(text)
