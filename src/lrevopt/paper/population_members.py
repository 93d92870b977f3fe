"""One task of the study of universality: each member measured, distances of all to each other."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lrevopt import storage
from lrevopt.analysis import analyze_sampled, measure_dynamics
from lrevopt.inner_loop.evaluation import Evaluation, evaluate
from lrevopt.inner_loop.sampled_states import (
    AllDivergedError,
    SampledStates,
    check_sampled,
    sample_states,
)
from lrevopt.inner_loop.sizes import check_runs
from lrevopt.optimizers import AbstractOptimizer
from lrevopt.paper.claims import CLAIMS, Claim
from lrevopt.runs.contents import Run
from lrevopt.runs.experiment import LEARNED
from lrevopt.runs.tune import Say
from lrevopt.studies.universality import Universality, response_distances
from lrevopt.studies.universality.distances import own_gradients
from lrevopt.studies.universality.record import (
    AS_SAID,
    NOT_ASKED,
    OTHERWISE,
    TEXTBOOK,
    UNDECIDED,
)
from lrevopt.tasks import AbstractTask
from lrevopt.tuning.random_search import TuningResult

MEASURED = ("evaluation", "mechanisms", "dynamics", "tuning")
"""Parts of a run that a member has; sentences that need another one are not asked."""

CODES = {"reproduced": AS_SAID, "cannot tell": UNDECIDED, "differs": OTHERWISE}
"""Verdicts of claims as the record keeps them."""


def asked_claims(tasks: tuple[str, ...]) -> tuple[Claim, ...]:
    """The paper's sentences about single trained optimizers on any of these tasks."""
    return tuple(
        claim
        for claim in CLAIMS
        if not claim.joint
        and claim.needs != ("tuning",)
        and set(claim.needs) <= set(MEASURED)
        and set(tasks) & set(claim.expected)
    )


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How members are measured: keys and sizes of what they are run on.

    Members are taken apart on `problems` of `analysis`, and scored on `test_problems` of `test`.
    """

    test: Key[Array, ""]
    analysis: Key[Array, ""]
    test_problems: int
    problems: int
    steps: int

    def scored(self, optimizers: Mapping[str, AbstractOptimizer], task: AbstractTask) -> Evaluation:
        """Runs on test problems."""
        return evaluate(
            optimizers, task, problems=self.test_problems, steps=self.steps, key=self.test
        )

    def check(self, optimizer: AbstractOptimizer, task: AbstractTask) -> None:
        """Raise `ValueError` if runs of an optimizer, or what is kept of them, do not fit."""
        check_runs(task, problems=self.test_problems, steps=self.steps, optimizers=5)
        check_sampled(optimizer, task, key=self.analysis, problems=self.problems, steps=self.steps)

    def sampled(self, optimizer: AbstractOptimizer, task: AbstractTask) -> SampledStates:
        """Runs that an optimizer is taken apart on. Raises `ValueError` if all diverge."""
        return sample_states(
            optimizer, task, key=self.analysis, problems=self.problems, steps=self.steps
        )


@dataclasses.dataclass(frozen=True)
class Entrants:
    """All of one task: hand-written optimizers, searches of its baselines, members by cell.

    `first_seed` is that of the first member of each cell.
    """

    name: str
    task: AbstractTask
    textbook: Mapping[str, AbstractOptimizer]
    tuning: Mapping[str, TuningResult]
    members: Mapping[str, tuple[AbstractOptimizer, ...]]
    first_seed: int

    def trained(self) -> Iterator[tuple[str, int, AbstractOptimizer]]:
        """Cell, seed and optimizer of each member."""
        for cell, each in self.members.items():
            for number, one in enumerate(each):
                yield cell, self.first_seed + number, one

    def digests(self) -> dict[str, str]:
        """Digests of all optimizers by name."""
        books = {name: storage.digest_of(one) for name, one in self.textbook.items()}
        return books | {
            f"{cell} {seed}": storage.digest_of(one) for cell, seed, one in self.trained()
        }


class Member(eqx.Module):
    """What is kept of one trained optimizer: scores, verdicts, and gradients for the pool."""

    objectives: Float[np.ndarray, " problem"]
    statistics: Float[np.ndarray, " statement"]
    verdicts: Int[np.ndarray, " statement"]
    gradients: Float[np.ndarray, "path step"]


def task_record(
    entrants: Entrants, claims: tuple[Claim, ...], measuring: Measuring, say: Say
) -> Universality:
    """The record of one task: members measured one by one, and distances of all entrants."""
    task, books = entrants.task, dict(entrants.textbook)
    rivals = measuring.scored(books, task)
    pool = [own_gradients(measuring.sampled(one, task)) for one in books.values()]
    members = []
    for cell, seed, one in entrants.trained():
        begun = time.monotonic()
        measure = functools.partial(measure_member, entrants, one, claims, rivals, measuring)
        members.append(storage.part(f"{entrants.name} {cell} {seed}", Member, measure, of=one))
        say(f"{entrants.name}, {cell} {seed}: meta-objective "
            f"{members[-1].objectives.mean():.4f}, {time.monotonic() - begun:.1f} s")  # fmt: skip
    pool += [member.gradients for member in members]
    each = {name: (TEXTBOOK, -1, one) for name, one in books.items()}
    each |= {f"{cell} {seed}": (cell, seed, one) for cell, seed, one in entrants.trained()}
    nothing = np.full((len(books), len(claims)), np.nan)
    return Universality(
        tasks=(entrants.name,) * len(each),
        kinds=tuple(kind for kind, _, _ in each.values()),
        names=tuple(name if kind == TEXTBOOK else f"{seed:03d}"
                    for name, (kind, seed, _) in each.items()),
        seeds=np.array([seed for _, seed, _ in each.values()]),
        objectives=np.concatenate(
            [rivals.meta_objectives(), *(one.objectives[None] for one in members)]),
        distances=response_distances(
            {name: one for name, (_, _, one) in each.items()}, np.concatenate(pool)),
        statements=tuple(claim.name for claim in claims),
        says=tuple(claim.says for claim in claims),
        task_names=(entrants.name,),
        expected=np.array([[int(claim.expected.get(entrants.name, -1)) for claim in claims]]),
        statistics=np.concatenate([nothing, *(one.statistics[None] for one in members)]),
        verdicts=np.concatenate(
            [np.full(nothing.shape, NOT_ASKED), *(one.verdicts[None] for one in members)]),
    )  # fmt: skip


def measure_member(
    entrants: Entrants,
    optimizer: AbstractOptimizer,
    claims: tuple[Claim, ...],
    rivals: Evaluation,
    measuring: Measuring,
) -> Member:
    """Score one member, take it apart, and judge each claim that speaks of its task.

    Of a member that diverges on all problems nothing else is known: its verdicts are "cannot tell".
    """
    own = measuring.scored({LEARNED: optimizer}, entrants.task)
    tuned = rivals.only([name for name in rivals.names if name in entrants.tuning])
    records: dict[str, Any] = {"evaluation": own.beside(tuned), "tuning": dict(entrants.tuning)}
    gradients = np.zeros((0, measuring.steps))
    try:
        sampled = measuring.sampled(optimizer, entrants.task)
    except AllDivergedError:
        pass
    else:
        gradients = own_gradients(sampled)
        records["mechanisms"] = analyze_sampled(optimizer, sampled)
        records["dynamics"] = measure_dynamics(optimizer, sampled)
    run = Run.of(entrants.name, **records)
    statistics, verdicts = np.full(len(claims), np.nan), np.full(len(claims), NOT_ASKED)
    for place, claim in enumerate(claims):
        if entrants.name not in claim.expected:
            continue
        verdicts[place] = UNDECIDED
        if claim.measurable(run):
            measured = claim.measure(run)
            statistics[place] = measured.value
            verdicts[place] = CODES[claim.outcome(measured, entrants.name)]
    return Member(own.meta_objectives()[0], statistics, verdicts, gradients)


def joined(parts: list[Universality]) -> Universality:
    """Records of several tasks as one; there are no distances between tasks."""
    sizes = [len(part.tasks) for part in parts]
    ends = np.cumsum([0, *sizes])
    distances = np.full((ends[-1], ends[-1]), np.nan)
    for part, first, last in zip(parts, ends[:-1], ends[1:], strict=True):
        distances[first:last, first:last] = storage.shortened(part.distances)
    whole: dict[str, Any] = {
        name: tuple(value for part in parts for value in getattr(part, name))
        for name in ("tasks", "kinds", "names", "task_names")
    }
    whole |= {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("seeds", "objectives", "expected", "statistics", "verdicts")
    }
    whole["objectives"] = storage.shortened(whole["objectives"])
    one = parts[0]
    return Universality(**whole, distances=distances, statements=one.statements, says=one.says)
