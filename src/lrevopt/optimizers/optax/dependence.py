"""Which inputs of a traced program may reach which of its outputs, entry by entry.

Inputs carry labels (see `dependence_rules`), and the program is run on labels instead of numbers.
The numbers do not matter: both branches of a condition count, and so does the label of the
condition. A loop is followed until labels no longer change, so that any number of turns is covered.
"""

from collections.abc import Callable
from pathlib import PurePath
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jaxlib
import numpy as np
import optax
from jax.extend.core import Literal

import lrevopt
from lrevopt.optimizers.optax.dependence_rules import Mask, apply_rule, together, whole

TURNS = 256
"""Turns of a loop, or slices of a scan, that are followed one by one."""

CALLS = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
    "remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr",
}  # fmt: skip
"""Operations that run a nested program once, and the parameter that holds it."""

LIBRARIES = tuple(PurePath(library.__path__[0]) for library in (jax, jaxlib, eqx, lrevopt))
"""Folders of packages whose functions do not tell a reader where an operation comes from."""

OPTAX = PurePath(optax.__path__[0])


class Traced(NamedTuple):
    """Labels of one array, and the operation by which labels that must not meet met, if any did."""

    mask: Mask
    met_in: str | None = None


class Analysis(NamedTuple):
    """How labels are read.

    `meet(mask)` says whether labels that must not meet have met in some entry. `dropped` are labels
    that a product with a constant 0 ends. With `assume_finite` a test for infinities and NaN has
    one outcome, and depends on nothing.
    """

    meet: Callable[[Mask], bool]
    dropped: np.uint64 = np.uint64(0)
    assume_finite: bool = False

    def run(self, program: Any, inputs: list[Traced]) -> list[Traced]:
        """Labels of the outputs of a closed program."""
        jaxpr = getattr(program, "jaxpr", program)
        known: dict[Any, Traced] = {}
        for variable in jaxpr.constvars:
            known[variable] = unlabelled(variable.aval)
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Traced:
            literal = isinstance(atom, Literal)
            return unlabelled(atom.aval) if literal else known[atom]

        for equation in jaxpr.eqns:
            found = self._equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[Traced]) -> list[Traced]:
        name = equation.primitive.name
        if name in CALLS and CALLS[name] in equation.params:
            found = self.run(equation.params[CALLS[name]], inputs)
            return [_called_from(each, equation) for each in found]
        nested = {"cond": self._cond, "while": self._while, "scan": self._scan}
        if name in nested:
            return nested[name](equation, inputs)
        if self.assume_finite and _tests_finiteness(equation):
            return [unlabelled(variable.aval) for variable in equation.outvars]
        masks = apply_rule(equation, [each.mask for each in inputs])
        if name == "mul" and any(_is_zero(atom) for atom in equation.invars):
            masks = [mask & ~self.dropped for mask in masks]
        return [self._judged(mask, equation, inputs) for mask in masks]

    def _judged(self, mask: Any, equation: Any, inputs: list[Traced]) -> Traced:
        """A mask with the operation where its labels met: this one, or an earlier one."""
        mask = np.asarray(mask)
        if not self.meet(mask):
            return Traced(mask)
        earlier = [each.met_in for each in inputs if each.met_in is not None]
        return Traced(mask, earlier[0] if earlier else place_of(equation))

    def _with(self, decider: Traced, results: list[Traced], equation: Any) -> list[Traced]:
        """Results of a program whose course `decider` decides."""
        label = whole(decider.mask)
        return [
            self._judged(each.mask | label, equation, [each, decider]) if label else each
            for each in results
        ]

    def _union(self, one: Traced, other: Traced, equation: Any) -> Traced:
        return self._judged(one.mask | other.mask, equation, [one, other])

    def _cond(self, equation: Any, inputs: list[Traced]) -> list[Traced]:
        decider, *arguments = inputs
        ends = [self.run(branch, arguments) for branch in equation.params["branches"]]
        results = ends[0]
        for end in ends[1:]:
            pairs = zip(results, end, strict=True)
            results = [self._union(one, other, equation) for one, other in pairs]
        return self._with(decider, results, equation)

    def _while(self, equation: Any, inputs: list[Traced]) -> list[Traced]:
        params = equation.params
        tests, bodies = params["cond_nconsts"], params["body_nconsts"]
        for_test, for_body = inputs[:tests], inputs[tests : tests + bodies]

        def turn(carry: list[Traced]) -> list[Traced]:
            (goes_on,) = self.run(params["cond_jaxpr"], [*for_test, *carry])
            after = self.run(params["body_jaxpr"], [*for_body, *carry])
            return self._with(goes_on, after, equation)

        return self.settled(turn, inputs[tests + bodies :], equation)

    def _scan(self, equation: Any, inputs: list[Traced]) -> list[Traced]:
        params = equation.params
        consts, carried = _scan_counts(params)
        body, length = params["jaxpr"], params["length"]
        fixed, begin = inputs[:consts], inputs[consts : consts + carried]
        sliced = inputs[consts + carried :]
        some = [each._replace(mask=together(each.mask, (0,))) for each in sliced]

        def turn(carry: list[Traced]) -> list[Traced]:
            return self.run(body, [*fixed, *carry, *some])[:carried]

        carry = self.settled(turn, begin, equation)
        if length <= TURNS:
            rows = [
                [each._replace(mask=np.asarray(each.mask[index])) for each in sliced]
                for index in range(length)
            ]
            kept = [self.run(body, [*fixed, *carry, *row])[carried:] for row in rows]
        else:
            kept = [self.run(body, [*fixed, *carry, *some])[carried:]] * length
        stacked = []
        for number, variable in enumerate(equation.outvars[carried:]):
            parts = [row[number] for row in kept]
            masks = [part.mask for part in parts]
            mask = np.stack(masks) if masks else np.zeros(variable.aval.shape, np.uint64)
            stacked.append(self._judged(mask, equation, parts))
        return [*carry, *stacked]

    def settled(
        self, turn: Callable[[list[Traced]], list[Traced]], begin: list[Traced], equation: Any
    ) -> list[Traced]:
        """Labels of what is carried around, after any number of turns.

        Labels only ever come in. After `TURNS` turns, those of a whole array are taken together,
        which ends soon.
        """
        carry, count = begin, 0
        while True:
            after = turn(carry)
            joined = [
                self._union(one, other, equation) for one, other in zip(carry, after, strict=True)
            ]
            changed = [
                not np.array_equal(one.mask, other.mask)
                for one, other in zip(joined, carry, strict=True)
            ]
            if not any(changed):
                return joined
            count += 1
            if count > TURNS:
                joined = [
                    self._judged(np.full_like(each.mask, whole(each.mask)), equation, [each])
                    if moves
                    else each
                    for each, moves in zip(joined, changed, strict=True)
                ]
            carry = joined


def unlabelled(aval: Any) -> Traced:
    return Traced(np.zeros(aval.shape, np.uint64))


def _is_zero(atom: Any) -> bool:
    literal = isinstance(atom, Literal)
    return literal and np.ndim(atom.val) == 0 and bool(atom.val == 0)


def _tests_finiteness(equation: Any) -> bool:
    """`isfinite(x)`, `isnan(x)` which is `x != x`, or `isinf(x)` which is `|x| == inf`."""
    name, atoms = equation.primitive.name, equation.invars
    if name == "is_finite":
        return True
    if name == "ne":
        return atoms[0] is atoms[1]
    literals = [atom for atom in atoms if isinstance(atom, Literal)]
    return name == "eq" and any(np.isinf(np.asarray(atom.val, float)) for atom in literals)


def _scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many inputs of a `scan` stay the same and are carried, in older and newer JAX."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carried, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carried))


def place_of(equation: Any) -> str:
    """Name of an operation, and the function that calls it: "`reduce_sum` in `tree_norm`"."""
    return f"`{equation.primitive.name}`{_caller(equation)}"


def _called_from(result: Traced, equation: Any) -> Traced:
    """With the caller of a nested program, where the operation inside does not tell its own."""
    if result.met_in is None or " in " in result.met_in:
        return result
    return result._replace(met_in=f"{result.met_in}{_caller(equation)}")


def _caller(equation: Any) -> str:
    """The innermost function that called an operation, apart from those of libraries below."""
    traceback = getattr(equation.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        file = PurePath(frame.file_name)
        if not any(file.is_relative_to(library) for library in LIBRARIES):
            owner = "optax" if file.is_relative_to(OPTAX) else file.stem
            name = frame.function_name.replace(".<locals>", "").removesuffix(".<listcomp>")
            return f" in `{name}` of {owner}"
    return ""
