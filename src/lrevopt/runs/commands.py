"""The commands of the package, apart from those that are about the paper."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from lrevopt import specs
from lrevopt.checks import finite, one_of
from lrevopt.runs.audit import Audit
from lrevopt.runs.command_line import exit_code
from lrevopt.runs.distill_command import Distill
from lrevopt.runs.experiment import Named, key_stream
from lrevopt.runs.horizons_command import Horizons
from lrevopt.runs.hosts import Hosts
from lrevopt.runs.options import (
    ExperimentSettings,
    Images,
    RunSettings,
    Task,
    TrainingSettings,
    check_task_named,
    task_arguments,
    task_for,
)
from lrevopt.tuning.settings import Tuning


@dataclasses.dataclass(frozen=True)
class Train(TrainingSettings):
    """Meta-train a learned optimizer on one task, and save the run."""

    output: Path = Path("runs/meta_train")
    """Folder of the run."""
    resume: bool = False
    """Continue the run in the folder; the result is the same as without the interruption."""
    seeds: int | None = None
    """Train this many optimizers at once, with seeds `seed`, `seed` + 1, ...: each becomes a run of
    its own in the folder, `member_000` and so on."""
    distributed: bool = False
    """Train in several processes, on one machine or on several. Each process is started with this
    command; the first alone reads and writes the folder."""
    hosts: Hosts = Hosts()

    def main(self) -> int:
        """Train, save, say what came out."""
        from lrevopt.inner_loop.hosts import is_first
        from lrevopt.runs.suggested import experiment_to_train
        from lrevopt.runs.train import train, train_seeds

        chosen = experiment_to_train(self, self.output)
        running = {"resume": self.resume, **self.running()}
        if self.seeds is None:
            history = train(chosen, self.output, **running).history
            said, outcome = history.summary(), history.outcome
        else:
            found = train_seeds(chosen, self.output, self.seeds, **running)
            said, outcome = found.summary(), found.outcome
        if is_first():
            print(said)
            if outcome != "finished":
                print(f"stopped ({outcome}); continue with the same command and --resume")
        return exit_code(outcome)


@dataclasses.dataclass(frozen=True)
class Tune:
    """Tune the baselines on one task by random search, and save the searches."""

    task: tyro.conf.Positional[Task]
    """The task on which they are tuned: a name, or module:factory."""
    tuning: Tuning = Tuning()
    task_kwargs: tuple[str, ...] = ()
    """Arguments with which the task is made, as name=value."""
    images: Images = Images()
    output: Path = Path("runs/tune")
    """Folder that gets `tuning/<baseline>.npz`: that of a run, to compare the run with them."""
    seed: int = 0
    """Seed of the problems and of the settings that are drawn."""

    def main(self) -> None:
        """Tune, save, say what came out."""
        from lrevopt.runs.tune import tune_baselines
        from lrevopt.tasks.named import make_task

        arguments = task_arguments(self.task_kwargs, self.images)
        task = make_task(self.task, arguments, self.images.data_dir)
        tune_baselines(task, self.tuning, self.output, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class Evaluate(RunSettings):
    """Run an optimizer and the tuned baselines on test problems that neither has seen."""

    problems: int | None = None
    """Number of test problems (default: 256, or 64 on networks)."""
    steps: int = 200
    """Updates of each run."""
    baselines: Path | None = None
    """Folder whose tuned baselines to use, if the run has none of its own."""

    def main(self) -> None:
        """Evaluate, save, say what came out."""
        from lrevopt.runs.evaluate import evaluate_run

        evaluate_run(
            self.open(self.steps), problems=self.problems, steps=self.steps, seed=self.seed,
            baselines=self.baselines,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Analyze(RunSettings):
    """Measure the mechanisms of a run's optimizer, and save the numbers of its figures."""

    problems: int | None = None
    """Number of problems on which states and gradients are sampled (default: 64, or 8 on large
    networks)."""
    steps: int = 200
    """Updates of each run."""

    def main(self) -> None:
        """Analyse, save, say what came out."""
        from lrevopt.analysis.mechanisms import mechanism_facts
        from lrevopt.runs.analyze import analyze_run

        run = self.open(self.steps)
        record = analyze_run(run, problems=self.problems, steps=self.steps, seed=self.seed)
        for name, value in mechanism_facts(record):
            print(f"{name}: {value}")


@dataclasses.dataclass(frozen=True)
class Scorecard:
    """Measure a page of numbers for an optimizer on a task: timescales, clipping, schedule, ..."""

    optimizer: Annotated[str | None, tyro.conf.arg(metavar="OPTIMIZER")] = None
    """An optimizer: optax:name, module:factory, the folder of a run or a shipped name."""
    kwargs: tuple[str, ...] = ()
    """Arguments with which that optimizer is made, as name=value."""
    optax: str | None = None
    """Or a well-known optimizer of optax, by name, with its usual settings."""
    run: Path | None = None
    """Or the folder of a run: its own optimizer on its own task. The scorecard goes into it."""
    baseline: str | None = None
    """Instead of the run's optimizer, one of its tuned baselines."""
    task: Task | None = None
    """The task on which it runs: a name, or module:factory (default: the run's task)."""
    task_kwargs: tuple[str, ...] = ()
    """Arguments with which the task is made, as name=value."""
    learning_rate: float | None = None
    """Learning rate of an optimizer of optax (default: the best of 43 tried on the task)."""
    output: Path | None = None
    """Folder that gets `scorecard.npz`, `.csv`, `.png`, `.svg` (default: in runs/scorecards)."""
    problems: int | None = None
    """Number of problems for the measurement, and for tuning (default: 64, or 8 on large
    networks)."""
    steps: int = 200
    """Updates of each run."""
    data_dir: Path | None = None
    """Folder with MNIST's files, for MNIST (default: $LREVOPT_DATA, the cache)."""
    seed: int = 0
    """Seed of the problems."""

    def main(self) -> None:
        """Measure, save, say what came out."""
        self._check()
        from lrevopt.runs import scorecard
        from lrevopt.runs.contents import Run
        from lrevopt.tasks.named import name_of_kind, short_name
        from lrevopt.tuning.baselines import BASELINES

        if self.baseline is not None:
            one_of("baseline", self.baseline, tuple(BASELINES))
        counts: Any = {"problems": self.problems, "steps": self.steps, "seed": self.seed}
        asked = (self.baseline, self.task, self.output)
        if self.run is not None and asked == (None, None, None):
            scorecard.scorecard_run(Run(self.run, data_dir=self.data_dir), **counts)
            return
        source = self.optimizer if self.run is None else str(self.run)
        task = task_for(self.task, self.task_kwargs, self.data_dir, source)
        if self.run is not None:
            entrant = scorecard.run_entrant(Run(self.run), self.steps, self.baseline)
        elif self.optax is not None:
            entrant = scorecard.well_known_entrant(self.optax, task, self.learning_rate, **counts)
        else:
            chosen = Named(str(self.optimizer), specs.parse_kwargs("kwargs", self.kwargs))
            entrant = scorecard.named_entrant(chosen, task, **counts)
        where = short_name(self.task) if self.task else name_of_kind(type(task).__name__)
        output = self.output or Path("runs", "scorecards", f"{entrant.name}_on_{where}")
        scorecard.save_scorecard(entrant, task, output, **counts)
        print(f"written to {output}")

    def _check(self) -> None:
        """Refuse options that do not go together."""
        sources = {"optimizer": self.optimizer, "optax": self.optax, "run": self.run}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none"
            raise ValueError(f"Exactly one of `optimizer`, `optax` and `run` must be given, got "
                             f"{said}.")  # fmt: skip
        needs = {"kwargs": ("optimizer",), "baseline": ("run",), "learning_rate": ("optax",)}
        for name, those in needs.items():
            if getattr(self, name) not in (None, ()) and given[0] not in those:
                raise ValueError(f"`{name}` must be left out without `{those[0]}`.")
        check_task_named(self.task, self.task_kwargs)
        if self.run is None and self.task is None:
            raise ValueError("`task` must name the task on which the optimizer runs, got none.")


@dataclasses.dataclass(frozen=True)
class Intervene(RunSettings):
    """Remove each mechanism of a run's optimizer by itself, and measure what that costs."""

    output: Path | None = None
    """Another folder for the records, instead of the run's."""
    problems: int | None = None
    """Number of test problems (default: 256, or 64 on networks)."""
    steps: int = 200
    """Updates of each run."""

    def main(self) -> None:
        """Intervene, save, say what came out."""
        from lrevopt.runs.intervene import intervene_run

        intervene_run(
            self.open(self.steps), output=self.output, problems=self.problems, steps=self.steps,
            seed=self.seed,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Analyse well-known optimizers of optax on problems of one task."""

    task: tyro.conf.Positional[Task] = "rosenbrock"
    """The task on which they run: a name, or module:factory."""
    output: Path = Path("results/gallery")
    """Folder that gets `gallery.npz`, `.csv`, `.md`, `.png` and `.svg`. A gallery that is there is
    replaced; if other settings made it, that is said first."""
    names: tuple[str, ...] | None = None
    """Which optimizers (default: all fifteen)."""
    problems: int = 256
    """Number of problems for tuning learning rates, and of others for the analysis; few will do
    on networks."""
    steps: int = 200
    """Updates of each run."""
    seed: int = 0
    """Seed of the problems, both of tuning and of the analysis."""
    task_kwargs: tuple[str, ...] = ()
    """Arguments with which the task is made, as name=value."""
    images: Images = Images()

    def main(self) -> None:
        """Measure, draw, save, print the table."""
        from lrevopt.runs.gallery import write_gallery
        from lrevopt.tasks.named import make_task

        arguments = task_arguments(self.task_kwargs, self.images)
        write_gallery(
            make_task(self.task, arguments, self.images.data_dir), self.output, names=self.names,
            problems=self.problems, steps=self.steps, seed=self.seed,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Explore:
    """Write an interactive page of one run of an optimizer on one problem."""

    optimizer: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OPTIMIZER")]]
    """Folder of a run, a shipped name, optax:name, module:factory, or a white box's JSON file."""
    kwargs: tuple[str, ...] = ()
    """Arguments with which that optimizer is made, as name=value."""
    task: Task | None = None
    """The task on which it runs: a name, or module:factory (default: the run's task)."""
    task_kwargs: tuple[str, ...] = ()
    """Arguments with which the task is made, as name=value."""
    output: Path = Path("explore.html")
    """File of the page; a page that is there is replaced."""
    steps: int = 200
    """Updates of the run."""
    moments: int = 48
    """About how many positions the slider has."""
    parameters: int = 8
    """Number of parameters whose states are shown."""
    data_dir: Path | None = None
    """Folder with MNIST's files, for MNIST (default: $LREVOPT_DATA, the cache)."""
    seed: int = 0
    """Seed of the problem."""

    def main(self) -> None:
        """Run, write the page, print its path."""
        from lrevopt.storage.files import page_file

        page_file("output", self.output)
        from lrevopt.analysis.run_moments import check_counts
        from lrevopt.plots.explore import explore
        from lrevopt.runs.tune import with_learning_rate

        check_counts(self.steps, self.moments, self.parameters)
        chosen = Named(self.optimizer, specs.parse_kwargs("kwargs", self.kwargs))
        task = task_for(self.task, self.task_kwargs, self.data_dir, self.optimizer)
        chosen = with_learning_rate(chosen, task, problems=8, steps=self.steps, seed=self.seed)
        page = explore(
            chosen.build(key_stream("initial_weights", self.seed)), task,
            key=key_stream("test", self.seed), steps=self.steps, moments=self.moments,
            parameters=self.parameters, title=f"{self.optimizer} on {task.title}",
        )  # fmt: skip
        print(page.save(self.output))


@dataclasses.dataclass(frozen=True)
class TuneScales:
    """Search the input and output scale of a trained optimizer, which training does not change."""

    run: tyro.conf.Positional[Path]
    """Folder of a run."""
    output: Path
    """New folder for a run with the best scales."""
    input_factors: tuple[float, ...] = (1.0,)
    """Factors on the input scale; each is tried with each factor on the output scale."""
    output_factors: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4)
    """Factors on the output scale."""
    problems: int = 8
    """Number of selection problems on which every pair runs."""
    steps: int = 200
    """Updates of each run."""
    seed: int = 0
    """Seed of the problems, from the stream of training: take one that training has not used."""
    side: int | None = None
    """Side of MNIST's images in pixels, where training is to continue on another size than the
    run's."""
    data_dir: Path | None = None
    """Folder with MNIST's files (default: $LREVOPT_DATA, the user's cache, a download)."""

    def main(self) -> None:
        """Search, save, say what came out."""
        from lrevopt.runs.contents import Run
        from lrevopt.runs.tune_scales import rescale_run

        rescale_run(
            Run(self.run, data_dir=self.data_dir), self.output, input_factors=self.input_factors,
            output_factors=self.output_factors, problems=self.problems, steps=self.steps,
            seed=self.seed, side=self.side,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SearchLearningRate(ExperimentSettings):
    """Search the meta learning rate for one task at random, scored on selection problems."""

    candidates: int = 8
    """Number of learning rates, each trained for `training.steps` meta-steps."""
    low: float = 1e-4
    """Smallest learning rate."""
    high: float = 1e-2
    """Largest learning rate."""

    def main(self) -> None:
        """Search, and print every candidate, best first."""
        finite("low", self.low, above=0.0)
        finite("high", self.high, above=self.low)
        from lrevopt.meta_training import search_learning_rate

        chosen = self.experiment()
        found = search_learning_rate(
            chosen.make_task(),
            chosen.optimizer.build(key_stream("initial_weights", chosen.seed)),
            chosen.training,
            candidates=self.candidates,
            bounds=(self.low, self.high),
            key=key_stream("training", chosen.seed),
        )
        order = found.scores.argsort()
        print("learning rate   selection score   skipped")
        columns = (found.learning_rates, found.scores, found.skipped)
        for rate, score, skipped in zip(*(column[order] for column in columns), strict=True):
            print(f"{rate:13.3e} {score:17.4f} {skipped:9.0f}")


COMMANDS = {
    "train": Train,
    "tune": Tune,
    "evaluate": Evaluate,
    "horizons": Horizons,
    "analyze": Analyze,
    "scorecard": Scorecard,
    "intervene": Intervene,
    "explore": Explore,
    "gallery": Gallery,
    "audit": Audit,
    "distill": Distill,
    "tune-scales": TuneScales,
    "search-learning-rate": SearchLearningRate,
}
"""Commands by name."""
