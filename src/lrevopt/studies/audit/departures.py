"""The catalogue of known departures of one optimizer from another.

Some change a formula's choices and keep its numbers (`FORMULAS`); they apply where one of the two
optimizers was identified. Others change what goes into any optimizer or comes out of it
(`AROUND`). In sentences, `{a}` is the optimizer that is taken as it is, `{b}` the one that departs.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lrevopt.studies.audit.formulas import Form, Numbers
from lrevopt.studies.audit.subjects import Subject, Traces


class FormulaDeparture(NamedTuple):
    """Another choice in a formula. `says` is a sentence about optimizers `{a}` and `{b}`."""

    name: str
    says: str
    changes: tuple[tuple[str, str], ...] = ()
    exchanged: bool = False
    """Whether b1 and b2 change places."""

    def apply(self, form: Form, numbers: Numbers) -> tuple[Form, Numbers]:
        """The formula that departs, with its numbers."""
        if self.exchanged:
            numbers = numbers._replace(b1=numbers.b2, b2=numbers.b1)
        changes: dict[str, Any] = dict(self.changes)
        return dataclasses.replace(form, **changes), numbers


def _corrections() -> Iterator[FormulaDeparture]:
    kinds = {
        "none": ("no_{}", "{{b}} does not correct the bias of {}, {{a}} does"),
        "right": ("added_{}", "{{b}} corrects the bias of {}, {{a}} does not"),
        "ahead": ("{}_ahead", "{{b}} corrects the bias of {} by 1 - b^(k + 1) in update k = 1, 2, "
                  "..., one step ahead of {{a}}"),
        "constant": ("{}_constant", "{{b}} corrects the bias of {} by 1 - b in every update, {{a}} "
                     "by 1 - b^k"),
        "multiplied": ("{}_multiplied", "{{b}} multiplies {} by 1 - b^k, {{a}} divides"),
    }  # fmt: skip
    places = {
        "correction": ("both moments", ("first_correction", "second_correction")),
        "first_correction": ("the first moment", ("first_correction",)),
        "second_correction": ("the second moment", ("second_correction",)),
    }
    for (kind, (name, says)), (place, (moments, fields)) in itertools.product(
        kinds.items(), places.items()
    ):
        changes = tuple((field, kind) for field in fields)
        yield FormulaDeparture(name.format(place), says.format(moments), changes)


FORMULAS = (
    FormulaDeparture("epsilon_inside", "{b} adds epsilon inside the root, {a} outside",
                     (("epsilon", "inside"),)),
    FormulaDeparture("epsilon_outside", "{b} adds epsilon outside the root, {a} inside",
                     (("epsilon", "outside"),)),
    FormulaDeparture("epsilon_twice", "{b} adds epsilon inside the root and outside, {a} once",
                     (("epsilon", "twice"),)),
    FormulaDeparture("epsilon_before_correction",
                     "{b} adds epsilon to the root of the second moment before its bias is "
                     "corrected, {a} after", (("epsilon", "scaled"),)),
    FormulaDeparture("epsilon_subtracted", "{b} subtracts epsilon from the root, {a} adds it",
                     (("epsilon", "subtracted"),)),
    FormulaDeparture("epsilon_beside_quotient",
                     "{b} adds epsilon to the quotient, {a} to its denominator",
                     (("epsilon", "beside"),)),
    *_corrections(),
    FormulaDeparture("first_moment_before_update",
                     "{b} steps by the first moment from before its update, {a} from after",
                     (("numerator", "old"),)),
    FormulaDeparture("second_moment_before_update",
                     "{b} divides by the second moment from before its update, {a} from after",
                     (("denominator", "old"),)),
    FormulaDeparture("nesterov", "{b} has Nesterov's form, {a} has not",
                     (("numerator", "nesterov"),)),
    FormulaDeparture("no_nesterov", "{b} lacks Nesterov's form, {a} has it",
                     (("numerator", "new"),)),
    FormulaDeparture("nesterov_same_correction",
                     "{b} corrects both terms of Nesterov's form by 1 - b1^k; {a} does not",
                     (("numerator", "nesterov same"),)),
    FormulaDeparture("nesterov_sign", "{b} subtracts the moment in Nesterov's form, {a} adds it",
                     (("numerator", "nesterov minus"),)),
    FormulaDeparture("no_first_moment", "{b} has no first moment, {a} has one",
                     (("first", "none"), ("first_correction", "none"))),
    FormulaDeparture("sum_of_squares", "{b} sums up squared gradients, {a} averages them",
                     (("second", "sum"),)),
    FormulaDeparture("average_of_squares", "{b} averages squared gradients, {a} sums them up",
                     (("second", "average"),)),
    FormulaDeparture("no_root", "{b} divides by the second moment, {a} by its root",
                     (("root", "none"),)),
    FormulaDeparture("amsgrad_before_correction",
                     "{b} takes AMSGrad's maximum of the second moment before its bias is "
                     "corrected, {a} after", (("largest", "uncorrected"),)),
    FormulaDeparture("amsgrad_after_correction",
                     "{b} takes AMSGrad's maximum of the corrected second moment, {a} does not",
                     (("largest", "corrected"),)),
    FormulaDeparture("no_amsgrad", "{b} lacks AMSGrad's maximum, {a} has it",
                     (("largest", "none"),)),
    FormulaDeparture("centred", "{b} subtracts the square of the mean from the second moment, {a} "
                     "does not", (("centre", "mean"),)),
    FormulaDeparture("belief", "{b} averages squares of the gradient's distance to the first "
                     "moment, {a} does not", (("centre", "belief"),)),
    FormulaDeparture("not_centred", "{b} averages squares of the gradient itself, {a} does not",
                     (("centre", "none"),)),
    FormulaDeparture("b1_and_b2_exchanged", "b1 and b2 have changed places", (), True),
    FormulaDeparture("lion_updated_first",
                     "{b} updates Lion's moment before it takes the sign, {a} after",
                     (("order", "updated first"),)),
    FormulaDeparture("rprop_late", "{b} makes each Rprop move one update late, {a} at once",
                     (("turn", "late"),)),
    FormulaDeparture("rprop_moves_at_turns",
                     "{b} moves where a gradient changes sign, {a} rests for one update",
                     (("turn", "moves"),)),
    FormulaDeparture("rprop_remembers_turns",
                     "{b} keeps the sign of a gradient that turned, {a} forgets it",
                     (("turn", "remembers"),)),
)  # fmt: skip
"""Departures of a formula, in the order in which they are tried."""


def changed(
    subject: Subject,
    before: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    after: Callable[[Traces], Traces] | None = None,
) -> Subject:
    """An optimizer with something done to what goes in, and to what comes out."""

    def run(gradients: Traces, parameters: Traces) -> Traces:
        given = (gradients, parameters) if before is None else before(gradients, parameters)
        updates = subject.run(*given)
        return updates if after is None else after(updates)

    return Subject(subject.name, run)


def late(path: Traces) -> Traces:
    """One step later, after 0."""
    return np.concatenate([np.zeros_like(path[:1]), path[:-1]])


def ahead(subject: Subject) -> Subject:
    """An optimizer whose counters are one update ahead: after one update without gradient."""

    def before(gradients: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.concatenate([np.zeros_like(gradients[:1]), gradients]),
            np.concatenate([parameters[:1], parameters]),
        )

    return changed(subject, before, lambda updates: updates[1:])


AROUND: dict[str, tuple[str, Callable[[Subject], Subject]]] = {
    "sign": ("{b} has the other sign than {a}",
             lambda subject: changed(subject, after=lambda updates: -updates)),
    "gradient_late": ("{b} sees each gradient one update later than {a}",
                      lambda subject: changed(subject, lambda g, x: (late(g), x))),
    "update_late": ("{b} makes each update of {a} one step later",
                    lambda subject: changed(subject, after=late)),
    "counter_ahead": ("the step counter of {b} is one ahead of {a}'s", ahead),
}  # fmt: skip
"""Departures that any optimizer can have: a sentence, and how to make one that departs."""

OTHERS = {
    "factor": "updates of {b} are those of {a} times {value}",
    "gradient_factor": "{b} multiplies gradients by {value} first",
    "gradient_clipping": "{b} clips gradients at {value}, {a} does not",
    "norm_clipping": "{b} clips the norm of each array of gradients at {value}, {a} does not",
    "update_clipping": "{b} clips updates at {value}, {a} does not",
    "schedule_ahead": "the schedule of {b} is one step ahead of {a}'s",
    "schedule_behind": "the schedule of {b} is one step behind {a}'s",
    "no_schedule": "{b} has a constant learning rate, {a} has a schedule",
    "schedule": "updates of {b} are those of {a} times a factor of the step alone: {value}",
    "single_precision": "both agree to {value}: {b} computes in single precision, at least in part",
    "numbers": "both have one formula with other numbers: {value}",
    "formula": "{a} is {one}, {b} is {other}",
    "coupled_decay": "{value}",
    "decoupled_decay": "{value}",
    "no_decay": "{value}",
    "decay_strength": "{value}",
    "decay_after_update": "{b} subtracts {value} of the parameter after it has moved, {a} does not",
    "decay_multiplies_gradient": "{value}",
    "coupled_parameters": "{value}",
}
"""Departures whose sentence has numbers."""


def catalogue() -> dict[str, str]:
    """Every known departure by name, with its sentence."""
    fixed = {each.name: each.says for each in FORMULAS}
    return fixed | {name: says for name, (says, _) in AROUND.items()} | OTHERS
