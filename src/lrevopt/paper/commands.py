"""The commands about the paper: everything for one task, its figures, its sentences, its page."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from lrevopt.meta_training.settings import MetaTraining, PopulationEstimator
from lrevopt.paper import experiments
from lrevopt.runs.command_line import exit_code
from lrevopt.runs.experiment import Named
from lrevopt.runs.options import RunSettings, TrainingSettings
from lrevopt.tuning.settings import Tuning

RESULTS = Path("results")
"""Where shipped runs lie, from the root of the repository."""


@dataclasses.dataclass(frozen=True)
class Reproduce(TrainingSettings):
    """Run all stages on one task: train, tune, evaluate, analyse, intervene, draw, and report."""

    tuning: Tuning = Tuning()
    test_problems: int | None = None
    """Problems of the evaluation, which neither training nor tuning has seen (default: 256, or 64
    of networks)."""
    as_is: bool = False
    """Take the optimizer as it is, without training, also if it is made by module:factory."""
    scorecard: bool = True
    """Measure the scorecard."""
    interventions: bool = True
    """Remove each mechanism, and prove what can be proved."""
    output: Path | None = None
    """Folder of the run (default: runs/<task>)."""

    def main(self) -> int:
        """Run all stages into one folder."""
        from lrevopt.paper.reproduce import Plan, reproduce
        from lrevopt.runs.suggested import experiment_to_train
        from lrevopt.tasks.named import short_name

        output = self.output or Path("runs", short_name(self.task))
        chosen = experiment_to_train(self, output)
        known = isinstance(chosen.optimizer, Named) and not chosen.optimizer.trainable
        plan = Plan(
            tuning=self.tuning, test_problems=self.test_problems, trained=not (self.as_is or known),
            scorecard=self.scorecard, interventions=self.interventions,
        )  # fmt: skip
        return exit_code(reproduce(chosen, output, plan, **self.running()))


@dataclasses.dataclass(frozen=True)
class Report(RunSettings):
    """Draw the figures of a run and write its report, from saved numbers."""

    def main(self) -> None:
        """Draw, write, print the path of the report."""
        from lrevopt.paper.reproduce import figures_and_report

        print(figures_and_report(self.open()))


@dataclasses.dataclass(frozen=True)
class Figures:
    """Draw figures from saved numbers, without training, each with its numbers and its caption."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs, one per task: the columns of the figures (default: all in `results/`)."""
    output: Path | None = None
    """Folder that gets `figure_NN.png`, `.svg`, `.npz` and `.txt` (default: `results/figures`,
    or `figures` in the folder of a single run)."""
    figure: int | str | None = None
    """Only the figure of this number, as in the paper, or of this name, such as training."""

    def folder(self) -> Path:
        """Where figures go. Raises `ValueError` if several runs leave that open."""
        if self.output is None and len(self.runs) > 1:
            raise ValueError(f"`output` must name a folder for figures of {len(self.runs)} runs.")
        parent = self.runs[0] if self.runs else RESULTS
        return parent / "figures" if self.output is None else self.output

    def main(self) -> None:
        """Draw, save, print what was drawn."""
        folder = self.folder()
        from lrevopt.paper.figures.drawing import draw_figures
        from lrevopt.paper.front_page import shipped_runs

        for spec, path in draw_figures(self.runs or shipped_runs(RESULTS), folder, self.figure):
            print(f"{path}  {spec.label}: {spec.title}")


@dataclasses.dataclass(frozen=True)
class Claims:
    """Measure the paper's sentences on saved runs, print the table and save it."""

    results: tyro.conf.Positional[Path] = RESULTS
    """Folder of runs named by their task; gets `claims.md` and `claims.csv`."""

    def main(self) -> None:
        """Measure, save, print the table."""
        import collections

        from lrevopt.paper.claims.saved_runs import write_claims

        rows = write_claims(self.results)
        for row in rows:
            seeds = f"  (seeds: {row.seeds})" if row.seeds else ""
            print(f"{row.claim:24} {row.task:18} {row.outcome:12} {row.value}{seeds}")
        counts = collections.Counter(row.outcome for row in rows)
        print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


@dataclasses.dataclass(frozen=True)
class FrontPage:
    """Write the front page of all runs in a folder, `index.html`, from what is saved there."""

    results: tyro.conf.Positional[Path] = RESULTS
    """Folder with a run per task, named as the task, and `figures/`; gets `index.html`."""

    def main(self) -> None:
        """Write the page, print its path."""
        from lrevopt.paper.claims.saved_runs import claims_of_all
        from lrevopt.paper.front_page import front_page_of

        print(front_page_of(self.results, claims_of_all(self.results)))


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Evaluate every shipped optimizer and tuned baseline on tasks and scales not trained for."""

    runs: Path = RESULTS
    """Folder of runs, named as their tasks are, each with tuned baselines."""
    output: Path | None = None
    """Folder that gets numbers, tables and figures (default: `transfer` in the folder of runs)."""
    data_dir: Path | None = None
    """Folder with MNIST's files (default: $LREVOPT_DATA, the user's cache, a download)."""
    white_boxes: tuple[str, ...] = ()
    """White boxes to measure as well: tasks that the package has one for, such as rosenbrock, or
    task=file for the JSON file of another one."""
    measuring: experiments.TransferSettings = experiments.TransferSettings()

    def main(self) -> None:
        """Measure what is not there yet, draw."""
        from lrevopt.paper.transfer import transfer

        output = self.output or self.runs / "transfer"
        transfer(
            self.runs, output, self.measuring, white_boxes=self.white_boxes, data_dir=self.data_dir
        )


@dataclasses.dataclass(frozen=True)
class Universality:
    """Train populations of several recurrent cells, and count how many show each mechanism."""

    tasks: tuple[str, ...] = ("linear_regression", "rosenbrock")
    """Tasks of the paper. Networks are a study of their own: other settings suit them."""
    cells: tuple[str, ...] = ("gru", "equinox_gru", "vanilla", "lstm")
    """Recurrent cells, of those four, or module:factory of an optimizer that takes `units`,
    `input_scale`, `output_scale` and `key`."""
    seeds: int = 20
    """Members of each population."""
    units: int = 8
    """Width of the cells."""
    training: MetaTraining = experiments.POPULATION_TRAINING
    clipping: Tuning = experiments.CLIPPING_TUNING
    baselines: tuple[Path, ...] = ()
    """For each task, a folder with its tuned baselines (default: that in `results/`)."""
    problems: int = 64
    """Problems on which a member is taken apart: as many as `analyze` takes, since verdicts on few
    draws of a heavy-tailed task differ (on networks 8)."""
    test_problems: int = 256
    """Problems on which meta-objectives are measured (on networks 32)."""
    steps: int = 200
    """Inner updates of these runs; `--clipping.steps` says on how many clipped descent is tuned."""
    output: Path = Path("runs/universality")
    """Folder that gets a folder for each population, record, tables and figures."""
    time_limit: float | None = None
    """Seconds after which the training of a population saves and stops."""
    seed: int = 0
    """Of the first member, and of all problems."""

    def suited(self) -> "Universality":
        """The study of these tasks with what suits them."""
        if not _networks(self.tasks):
            return Universality(self.tasks)
        return Universality(
            self.tasks, training=experiments.NETWORK_POPULATION_TRAINING,
            clipping=experiments.NETWORK_CLIPPING_TUNING, problems=8, test_problems=32,
        )  # fmt: skip

    def main(self) -> int:
        """Train, measure, draw; the same command goes on after an interruption."""
        _check_alike(self.tasks)
        from lrevopt.paper.universality import UniversalitySettings, universality

        names = {field.name for field in dataclasses.fields(UniversalitySettings)}
        settings = UniversalitySettings(**{name: getattr(self, name) for name in names})
        baselines = _baselines(self.tasks, self.baselines)
        record, outcome = universality(self.output, baselines, settings, time_limit=self.time_limit)
        if record is None:
            print(f"stopped ({outcome}); the same command goes on")
        else:
            print(record)
            print(f"written to {self.output}")
        return exit_code(outcome)


@dataclasses.dataclass(frozen=True)
class Factorial:
    """Train optimizers at crossed levels of four factors: what each of the paper's sentences needs.

    Factors are initialisation, width, number of meta-steps (snapshots of one run) and estimator of
    the meta-gradient.
    """

    tasks: tuple[str, ...] = ("linear_regression", "rosenbrock")
    """Tasks of the paper. Networks are a study of their own: other levels and settings suit
    them."""
    initialisations: tuple[Literal["unit", "scaled"], ...] = ("unit", "scaled")
    """Deviation of the initial input weights: 1 (unit), or 1 / sqrt(units) (scaled), as the authors
    draw them."""
    widths: tuple[int, ...] = (16, 64, 256)
    """Units of the GRU."""
    meta_steps: tuple[int, ...] = (500, 2000, 5000)
    """Numbers of meta-steps after which a run is looked at."""
    estimators: tuple[PopulationEstimator, ...] = ("exact", "first_order")
    """Estimators of the meta-gradient."""
    leave_out: tuple[str, ...] = ()
    """Cells that are not made, as a width and a number of meta-steps: 256x5000."""
    seeds: int = 3
    """Training seeds of each cell."""
    training: MetaTraining = experiments.FACTORIAL_TRAINING
    """All else about training (`training.problems` are those in a batch). Steps, snapshots and
    estimator are those of the factors."""
    baselines: tuple[Path, ...] = ()
    """For each task, a folder with its tuned baselines (default: that in `results/`)."""
    problems: int = 64
    """Problems on which a member is taken apart (on networks 8)."""
    test_problems: int = 256
    """Problems on which meta-objectives are measured (on networks 32)."""
    steps: int = 200
    """Inner updates of these runs."""
    output: Path = Path("runs/factorial")
    """Folder that gets a folder for each training, records of cells, tables and the figure."""
    time_limit: float | None = None
    """Seconds after which training saves and stops. What is trained by then is measured, and the
    tables say which cells are missing."""
    seed: int = 0
    """Of the first member, and of all problems."""

    def suited(self) -> "Factorial":
        """The study of these tasks with what suits them."""
        if not _networks(self.tasks):
            return Factorial(self.tasks)
        return Factorial(
            self.tasks, widths=(8, 32), meta_steps=(50, 200), estimators=("clipped", "first_order"),
            training=experiments.NETWORK_POPULATION_TRAINING, problems=8, test_problems=32,
        )  # fmt: skip

    def main(self) -> int:
        """Train, measure, draw; the same command goes on after an interruption."""
        _check_alike(self.tasks)
        from lrevopt.paper.factorial import factorial
        from lrevopt.paper.factorial_cells import FactorialSettings

        names = {field.name for field in dataclasses.fields(FactorialSettings)}
        settings = FactorialSettings(**{name: getattr(self, name) for name in names})
        baselines = _baselines(self.tasks, self.baselines)
        record, outcome = factorial(self.output, baselines, settings, time_limit=self.time_limit)
        if record is not None:
            print(record)
            print(f"written to {self.output}")
        if outcome != "finished":
            print(f"stopped ({outcome}); the same command goes on")
        return exit_code(outcome)


def _networks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Those of these tasks whose parameters are those of a network."""
    return tuple(name for name in tasks if name in experiments.TUNING_BY_TASK)


def _check_alike(tasks: tuple[str, ...]) -> None:
    """Raise `ValueError` for tasks which no settings suit together."""
    networks = _networks(tasks)
    if networks and len(networks) < len(tasks):
        raise ValueError(
            f"`tasks` must be networks or none of them, since they are trained in other ways: "
            f"{', '.join(networks)} needs a call of its own, got {', '.join(tasks)}."
        )


def _baselines(tasks: tuple[str, ...], given: tuple[Path, ...]) -> dict[str, Path]:
    """For each task, a folder with its tuned baselines. Raises `ValueError` for too few."""
    folders = given or tuple(RESULTS / name for name in tasks if (RESULTS / name).is_dir())
    if len(folders) != len(tasks):
        raise ValueError(
            f"`baselines` must be a folder for each of the {len(tasks)} tasks, as `lrevopt tune "
            f"TASK --output FOLDER` makes it (default: those in `{RESULTS}`), got {len(folders)}."
        )
    return dict(zip(tasks, folders, strict=True))


@dataclasses.dataclass(frozen=True)
class AppendixB:
    """Analyse the training snapshot that is closest to momentum (appendix B)."""

    run: tyro.conf.Positional[Path]
    """Folder of a run on linear regression, with its snapshots."""
    output: Path
    """Folder that gets the snapshot, `momentum_mimic.npz`, `mimic_by_curves.npz` and
    `meta_dynamics.npz`."""
    baselines: Path = RESULTS / "linear_regression"
    """Folder of a run with tuned baselines on linear regression."""
    problems: int = 64
    """Problems on which states are visited."""
    test_problems: int = 256
    """Problems of the loss curves."""
    steps: int = 200
    """Inner updates."""
    seed: int = 0
    """Of these problems."""

    def main(self) -> None:
        """Choose, measure, save, say what came out."""
        from lrevopt.paper.appendices.stage import appendix_b

        names = ("problems", "test_problems", "steps", "seed")
        counts: dict[str, Any] = {name: getattr(self, name) for name in names}
        mimic, _ = appendix_b(self.run, self.baselines, self.output, **counts)
        for name, reference in (("optimum", mimic.optimum), ("tuned", mimic.tuned)):
            away = ", ".join(
                f"{key} {share:+.1%}" for key, share in mimic.distances(reference).items()
            )
            print(f"dominant mode against {name} momentum: {away}")
        together = ", ".join(f"{key} {value:.4g}" for key, value in mimic.together.items())
        print(f"all modes together: {together}")
        print(f"first principal component: {mimic.explained_variance[0]:.1%} of the variance")
        for alone, said in (("one_mode", "dominant mode"), ("one_momentum", "best one momentum")):
            off = mimic.score(alone) / mimic.score("learned") - 1
            print(f"{said} alone against the whole: {mimic.gap(alone, 'learned'):.3f} decades "
                  f"(medians, first 100 updates), meta-objective {off:+.1%}")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AppendixC:
    """Check the equations of appendix C on a learned optimizer, as printed and corrected."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    steps: int = 200
    """Random gradients that it is fed."""
    scale: float = 1e-3
    """Their standard deviation, on which only equation 4 depends."""
    seed: int = 0
    """Of these gradients."""

    def main(self) -> None:
        """Check, print the table."""
        from lrevopt.paper.appendices.stage import appendix_c

        found = appendix_c(self.run, steps=self.steps, scale=self.scale, seed=self.seed)
        print(f"{'equation':14} {'form':11} residual  formula")
        for one in found.equations:
            print(f"{one.name:14} {one.form:11} {one.residual:8.1e}  {one.formula}")
            print(f"{'':37}{one.remark}")


@dataclasses.dataclass(frozen=True)
class Ship:
    """Copy the optimizers of the runs in a folder into the package (for its developers)."""

    results: tyro.conf.Positional[Path] = RESULTS
    """Folder of runs named by their task."""

    def main(self) -> None:
        """Copy, print what was copied."""
        from lrevopt.paper.shipping import ship

        print(*ship(self.results), sep="\n")


COMMANDS = {
    "reproduce": Reproduce,
    "report": Report,
    "figures": Figures,
    "claims": Claims,
    "front-page": FrontPage,
    "transfer": Transfer,
    "universality": Universality,
    "factorial": Factorial,
    "appendix-b": AppendixB,
    "appendix-c": AppendixC,
    "ship": Ship,
}
"""Commands by name."""
