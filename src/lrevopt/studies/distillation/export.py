"""White boxes written out as a dozen lines of optax."""

import keyword
from typing import Any

from lrevopt.checks import shown
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_terms import FAINT
from lrevopt.studies.distillation.written_numbers import (
    Lines,
    WrittenNumbers,
    added,
    halved,
    times,
)

USED = ("jax", "jnp", "optax", "float", "tuple", "len", "map", "range", "zip", "__debug__")
"""Names that the text of a white box needs, and one that Python does not let be defined."""


def optax_text(box: WhiteBox, name: str = "distilled", digits: int = 6) -> str:
    """A function of plain JAX and optax that makes the same updates as a white box.

    The text defines `name()`, which returns an `optax.GradientTransformation`; it needs only
    `jax`, `jax.numpy` as `jnp` and `optax`. Numbers have `digits` significant digits; where a
    number m between 1/2 and 1 says what is kept, 1 - m has them. So have the ratio of rates that a
    schedule begins with where it is below 1/2, and the sum of the shares.
    """
    text = _Text(box, digits)
    if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
        raise ValueError(f"`name` must be a name in Python, got {shown(name)}.")
    if name in USED:
        raise ValueError(
            f"`name` must be a name that the text does not use itself, as it does "
            f"{', '.join(USED)}, got {name!r}."
        )
    state, (body, direction) = text.states(), text.body()
    moved = f"-{text.number('learning_rate')} * {direction}"
    lines = [
        "import jax", "import jax.numpy as jnp", "import optax", "", "",
        f"def {name}() -> optax.GradientTransformation:",
        f"    def step({', '.join(['g', *state])}):",
        *(f"        {line}" for line in body),
        f"        return {', '.join([moved, *state]) if state else f'({moved},)'}",
        "",
        "    def init(params):",
        f"        starts = {_tuple(text.inits())}",
        "        return tuple(jax.tree.map(lambda p: jnp.full_like(p, s), params) for s in starts)",
        "",
        "    def update(grads, state, params=None):",
        "        leaves, tree = jax.tree.flatten(grads)",
        "        outs = [step(*one) for one in zip(leaves, *map(jax.tree.leaves, state))]",
        "        parts = [[out[i] for out in outs] for i in range(1 + len(state))]",
        "        moved, *new = map(tree.unflatten, parts)",
        "        return moved, tuple(new)",
        "",
        "    return optax.GradientTransformation(init, update)",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


class _Text(WrittenNumbers):
    """Lines of one white box."""

    def forgets(self, momentum: Any) -> bool:
        """Whether a mode keeps nothing, so that it is no state."""
        return isinstance(momentum, str) and self.number(momentum) == "0"

    def states(self) -> Lines:
        """Names of the state."""
        names = []
        for name, momentum, _, _ in self.modes():
            if not self.forgets(momentum):
                names += [name] if isinstance(momentum, str) else [f"x{name}", f"y{name}"]
        names += ["s"] if self.divides else []
        names += ["b", "p", "q"] if "agreement" in self.n else []
        return names + (["z"] if "timescale" in self.n else [])

    def inits(self) -> Lines:
        """Initial values of the state."""
        return ["1.0" if name == "z" else "0.0" for name in self.states()]

    def body(self) -> tuple[Lines, str]:
        """Lines that compute the next state and the direction, and its name."""
        lines, d = [], "g"
        if self.divides or "agreement" in self.n:
            lines += ["m = 0.5 * float(jnp.finfo(g.dtype).max) ** 0.5", "g = jnp.clip(g, -m, m)"]
        lines += self.agreement()
        if self.divides:
            keep, add = self.kept_and_added("memory")
            lines.append(f"s = {keep} * s + {add} * g**2")
        if self.saturates == "gradient":
            lines, d = [*lines, *self.saturated("d", d)], "d"
        if self.divides == "gradient":
            lines, d = [*lines, self.divided(d)], "d"
        moved, d = self.moved(d)
        lines += moved
        if self.divides == "update":
            lines, d = [*lines, self.divided(d)], "d"
        if self.saturates == "update":
            lines, d = [*lines, *self.saturated("d", d)], "d"
        if "agreement" in self.n:
            power = "c"
            if "agreement_curvature" in self.n:
                power = f"({added('c', times(self.number('agreement_curvature'), 'c**2'))})"
            lines.append(f"d = {d} * jnp.exp({self.number('agreement')} * {power})")
            d = "d"
        if "timescale" in self.n:
            lines.append(f"d = {d} * ({added('1', times(self.excess(), 'z'))})")
            lines.append(f"z = jnp.exp(-1 / {self.number('timescale')}) * z")
            d = "d"
        return lines, d

    def divided(self, drive: str) -> str:
        """The line that divides by the running size of the gradient."""
        power, floor = self.number("exponent"), self.number("floor")
        if self.outside:
            return f"d = {drive} / (s**{power} + {floor})"
        return f"d = {drive} * (s + {floor}) ** -{power}"

    def agreement(self) -> Lines:
        """Lines that compute c, whether successive gradients agree or not."""
        if "agreement" not in self.n:
            return []
        keep, add = self.kept_and_added("agreement_memory")
        half = halved(add)
        return [
            f"p = {keep} * p + {add} * g * b",
            f"q = {keep} * q + {half} * (g**2 + b**2)",
            f"c = jnp.where(q > {FAINT:g}, p / jnp.where(q > {FAINT:g}, q, 1), 0)",
            "b = g",
        ]

    def moved(self, drive: str) -> tuple[Lines, str]:
        """Lines of the modes that `drive` drives, and the name of what they make."""
        lines, terms, memory = [], [], self.saturates == "memory"
        for name, momentum, share, other in self.modes():
            weight = self.share(share)
            if not isinstance(momentum, str):
                a, b = self.turned(momentum)
                x, y = f"x{name}", f"y{name}"
                lines.append(f"{x}, {y} = {a} * {x} - {b} * {y} + {drive}, {b} * {x} + {a} * {y}")
                lines += self.saturated_pair(x, y) if memory else []
                terms += [times(weight, x), times(f"{-other:.{self.digits}g}", y)]
            elif self.forgets(momentum):
                lines += self.saturated(name, drive) if memory else []
                terms.append(times(weight, name if memory else drive))
            else:
                lines.append(f"{name} = {self.number(momentum)} * {name} + {drive}")
                lines += self.saturated(name, name) if memory else []
                terms.append(times(weight, name))
        if not self.modes():  # as a mode of momentum 0
            return (self.saturated("d", drive), "d") if memory else ([], drive)
        lines, total = _once("k = ", lines), added(*terms)
        return (lines, total) if total.isidentifier() else ([*lines, f"d = {total}"], "d")

    def knee(self, name: str | None = None) -> tuple[Lines, str]:
        """The knee for the value of this name, or for a modulus, and a line before where long."""
        knee = self.number("knee")
        if name is not None and "asymmetry" in self.n:
            knee += f" * jnp.exp({self.number('asymmetry')} * jnp.sign({name}))"
        if "agreement_knee" in self.n:
            power = self.n["agreement"] * self.n["agreement_knee"]
            knee += f" * jnp.exp({power:.{self.digits}g} * c)"
        return ([f"k = {knee}"], "k") if "*" in knee else ([], knee)

    def saturated(self, name: str, value: str) -> Lines:
        """Lines that give S(value) a name.

        A power of the larger of |value| and knee over the other would overflow.
        """
        before, knee = self.knee(value)
        clipped = f"jnp.clip({value}, -{knee}, {knee})"
        if "sharpness" not in self.n:
            return [*before, f"{name} = {clipped}"]
        soft = _soft("r", self.number("sharpness"))
        return [*before, f"r = jnp.abs({value}) / {knee}", f"{name} = {clipped} / {soft}"]

    def saturated_pair(self, x: str, y: str) -> Lines:
        """The same for the real and imaginary parts of an oscillating mode, by its modulus."""
        before, knee = self.knee()
        factor = "jnp.maximum(1, r)"
        if "sharpness" in self.n:
            sharp = self.number("sharpness")
            if "sharpness_ratio" in self.n:
                product = self.n["sharpness"] * self.n["sharpness_ratio"]
                sharp = f"{product:.{self.digits}g}"
            factor += f" * {_soft('r', sharp)}"
        size = f"r = jnp.hypot({x}, {y}) / {knee}"
        return [*before, size, f"f = {factor}", f"{x}, {y} = {x} / f, {y} / f"]


def _tuple(names: Lines) -> str:
    """A tuple in Python."""
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _once(start: str, lines: Lines) -> Lines:
    """Lines without those of this start that say what the one before them said."""
    kept, last = [], ""
    for line in lines:
        if not line.startswith(start):
            kept.append(line)
        elif line != last:
            kept.append(last := line)
    return kept


def _soft(ratio: str, sharp: str) -> str:
    """What divides a clipped value, so that it is a saturated one."""
    return f"(1 + jnp.minimum({ratio}, 1 / {ratio}) ** {sharp}) ** (1 / {sharp})"
