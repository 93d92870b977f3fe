"""The front page of all runs in one folder, from what is saved there."""

from collections.abc import Sequence
from pathlib import Path

from lrevopt import storage
from lrevopt.paper.claims import Row
from lrevopt.paper.figures.registry import FIGURES
from lrevopt.paper.figures.specs import FigureText
from lrevopt.paper.front_page_content import render_front_page
from lrevopt.paper.tasks import TITLES, title_of
from lrevopt.plots.gallery import GALLERY_CAPTION
from lrevopt.plots.transfers import SWEEPS_CAPTION, TRANSFER_CAPTION
from lrevopt.runs.contents import runs_by_task
from lrevopt.runs.pages import Picture
from lrevopt.studies.gallery import Gallery

RESULTS = Path("results")
"""Where shipped runs lie, from the root of the repository."""

FIGURES_FOLDER = "figures"
"""Folder of figures, beside or inside runs."""


def shipped_runs(results: Path, argument: str = "results") -> list[Path]:
    """Folders of runs in `results`, named as their tasks are, in the paper's order.

    Raises `ValueError`, naming `argument`, if there is none.
    """
    runs = [results / task for task in TITLES if (results / task / storage.SETTINGS).is_file()]
    if not runs:
        names = list(TITLES)
        raise ValueError(
            f"`{argument}` must be a folder with a run in {', '.join(names[:-1])} or {names[-1]}, "
            f"got `{results}`."
        )
    return runs


def front_page_of(results: Path, claims: Sequence[Row] = ()) -> Path:
    """Write `index.html` into a folder of runs, with what they have so far; its path.

    Figures are those in its folder `figures`, as `draw_figures` left them. Raises `ValueError` if
    there is no run, or the folder cannot be written.
    """
    folders = shipped_runs(results)
    page = render_front_page(
        runs_by_task(folders),
        documents=_documents(results),
        notes=[*_gaps(folders), *_undrawn(results)],
        claims=claims,
        figures=_pictures(results),
        gallery=_gallery(results),
        microscope=_microscope(results),
        root=results,
    )
    with storage.claimed(results):
        storage.write_atomically(results / "index.html", page)
    return results / "index.html"


def _documents(results: Path) -> list[tuple[str, str]]:
    known = {
        "README.md": "what is shipped, every training run, and the commands",
        "claims.md": "the paper's sentences, measured, as text",
        "transfer/matrix.csv": "every optimizer on every task, in numbers",
        "universality/universality.md": "the sentences on populations of four cells",
        "universality/two_moons/universality.md": "the sentences on twenty GRUs on two moons",
        "factorial/factorial.md": "what each sentence needs: initialisation, width, meta-steps",
    }
    return [(words, name) for name, words in known.items() if (results / name).is_file()]


def _gaps(runs: list[Path]) -> list[str]:
    """What is not there of the paper's tasks, a sentence each."""
    stages = {
        "evaluation.npz": "not compared with tuned baselines",
        "mechanisms.npz": "not taken apart",
    }
    by_task = {run.name: run for run in runs}
    sentences = []
    for task in TITLES:
        if task not in by_task:
            sentences.append(f"{title_of(task)}: there is no run.")
            continue
        lacking = [said for file, said in stages.items() if not (by_task[task] / file).is_file()]
        if lacking:
            sentences.append(f"{title_of(task)}: an optimizer is there, {' and '.join(lacking)}.")
    return sentences


def _undrawn(results: Path) -> list[str]:
    """Which of the paper's figures are not there, in one sentence if any."""
    there = {picture.spec.name for picture in _pictures(results)}
    numbered = [spec for spec in FIGURES if isinstance(spec.number, int)]
    labels = [str(spec.number) for spec in numbered if spec.name not in there]
    return [f"Figures not drawn: {', '.join(labels)}."] if labels else []


def _pictures(results: Path) -> list[Picture]:
    """Figures that lie in the folder of figures, each with its other files."""
    pictures = []
    for spec in FIGURES:
        png = results / FIGURES_FOLDER / f"{spec.name}.png"
        if png.is_file():
            pictures.append(Picture(spec, png, _beside(png, results)))
    return pictures


def _beside(png: Path, results: Path) -> list[str]:
    """Links to what lies beside a figure under its name."""
    kinds = (".svg", ".npz", ".csv", ".txt")
    files = [png.with_suffix(kind) for kind in kinds]
    return [file.relative_to(results).as_posix() for file in files if file.is_file()]


def _gallery(results: Path) -> Gallery | None:
    record = results / "gallery" / "gallery.npz"
    return storage.load_record(Gallery, record) if record.is_file() else None


MICROSCOPE = {
    "gallery/gallery.png": FigureText(
        "gallery", "Well-known optimizers under the microscope", GALLERY_CAPTION
    ),
    "transfer/figure_transfer.png": FigureText(
        "transfer", "Performance on other tasks", TRANSFER_CAPTION
    ),
    "transfer/figure_sweeps.png": FigureText(
        "sweeps", "Other scales of the gradient, and other lengths", SWEEPS_CAPTION
    ),
}
"""Figures that scripts leave in folders beside runs."""


def _microscope(results: Path) -> list[Picture]:
    pngs = {name: results / name for name in MICROSCOPE}
    return [
        Picture(MICROSCOPE[name], png, _beside(png, results))
        for name, png in pngs.items()
        if png.is_file()
    ]
