"""White boxes written out: as a dozen lines of optax, and as LaTeX."""

import keyword
import math
from decimal import Decimal
from typing import Any

from lrevopt.checks import instance, positive_integer, shown
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import document_of
from lrevopt.optimizers.white_box_numbers import BOUNDED_BY_1, head_of, indexed, to_bound
from lrevopt.optimizers.white_box_terms import FAINT

Lines = list[str]

TIMES = "\\, "
"""A product in LaTeX."""

USED = ("jax", "jnp", "optax", "tuple", "len", "map", "range", "zip", "__debug__")
"""Names that the text of a white box needs, and one that Python does not let be defined."""


def optax_text(box: WhiteBox, name: str = "distilled", digits: int = 6) -> str:
    """A function of plain JAX and optax that makes the same updates as a white box.

    The text defines `name()`, which returns an `optax.GradientTransformation`; it needs only
    `jax`, `jax.numpy` as `jnp` and `optax`. Numbers have `digits` significant digits; where a
    number m between 1/2 and 1 says what is kept, 1 - m has them.
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


def latex_text(box: WhiteBox, digits: int = 3) -> str:
    """The update of a white box as aligned LaTeX equations with its numbers."""
    text = _Text(box, digits)
    return "\\begin{aligned}\n" + " \\\\\n".join(text.latex()) + "\n\\end{aligned}\n"


class _Text:
    """Lines of one white box."""

    def __init__(self, box: WhiteBox, digits: int):
        document = document_of(instance("white_box", box, WhiteBox, "a `WhiteBox`"))
        self.n: dict[str, float] = document["numbers"]
        self.real, self.pairs = box.real_modes, box.complex_modes
        self.saturates, self.divides = box.saturation_of, box.adaptation_of
        self.to_1 = {
            name: to_bound(name, coordinate)
            for name, coordinate in box.coordinates.items() if head_of(name) in BOUNDED_BY_1
        }  # fmt: skip
        self.outside, self.digits = box.floor_outside, positive_integer("digits", digits)

    def number(self, name: str) -> str:
        """A number as Python has it."""
        if name in self.to_1:
            return self.kept_and_added(name)[0]
        return f"{self.n[name]:.{self.digits}g}"

    def kept_and_added(self, name: str) -> tuple[str, str]:
        """A number m and 1 - |m|, which sum to 1: the smaller one has `digits` digits."""
        size, rest = abs(self.n[name]), self.to_1[name]
        small = f"{min(size, rest):.{self.digits}g}"
        large = f"{(1 - Decimal(small)).normalize():f}"
        kept, added = (small, large) if size < rest else (large, small)
        return ("-" if self.n[name] < 0 else "") + kept, added

    def turned(self, momentum: tuple[str, str]) -> list[str]:
        """Real and imaginary part of an oscillating momentum, to the digits of 1 - |m|."""
        radius, angle = (self.n[name] for name in momentum)
        place = self.digits - 1 - math.floor(math.log10(self.to_1[momentum[0]]))
        parts = [radius * turn(angle) for turn in (math.cos, math.sin)]
        counts = [place + 1 + math.floor(math.log10(abs(part) or 1.0)) for part in parts]
        return [
            f"{part:.{max(self.digits, count)}g}" for part, count in zip(parts, counts, strict=True)
        ]

    def modes(self) -> list[tuple[str, Any, float, float]]:
        """Names, momentum, share and quadrature of the modes."""
        count = self.real + self.pairs
        shares = [self.n[name] for name in indexed("share", count, free=count - 1)]
        shares += [1 - sum(shares)] if count else []
        found: list[tuple[str, Any, float, float]] = [
            (f"v{place + 1}" if self.real > 1 else "v", name, shares[place], 0.0)
            for place, name in enumerate(indexed("momentum", self.real))
        ]
        for place in range(self.pairs):
            radius, angle, other = (
                indexed(one, self.pairs)[place] for one in ("radius", "angle", "quadrature")
            )
            label = f"{place + 1}" if self.pairs > 1 else ""
            share = shares[self.real + place]
            found.append((label, (radius, angle), share, self.n[other]))
        return found

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
            lines += ["m = 0.5 * jnp.finfo(g.dtype).max ** 0.5", "g = jnp.clip(g, -m, m)"]
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
                power = f"({_sum('c', _times(self.number('agreement_curvature'), 'c**2'))})"
            lines.append(f"d = {d} * jnp.exp({self.number('agreement')} * {power})")
            d = "d"
        if "timescale" in self.n:
            excess = f"{self.n['start_over_end'] - 1:.{self.digits}g}"
            lines.append(f"d = {d} * ({_sum('1', _times(excess, 'z'))})")
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
        half = _half(add)
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
            weight = f"{share:.{self.digits}g}"
            if not isinstance(momentum, str):
                a, b = self.turned(momentum)
                x, y = f"x{name}", f"y{name}"
                lines.append(f"{x}, {y} = {a} * {x} - {b} * {y} + {drive}, {b} * {x} + {a} * {y}")
                lines += self.saturated_pair(x, y) if memory else []
                terms += [_times(weight, x), _times(f"{-other:.{self.digits}g}", y)]
            elif self.forgets(momentum):
                lines += self.saturated(name, drive) if memory else []
                terms.append(_times(weight, name if memory else drive))
            else:
                lines.append(f"{name} = {self.number(momentum)} * {name} + {drive}")
                lines += self.saturated(name, name) if memory else []
                terms.append(_times(weight, name))
        if not self.modes():  # as a mode of momentum 0
            return (self.saturated("d", drive), "d") if memory else ([], drive)
        lines, total = _once("k = ", lines), _sum(*terms)
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

    def latex(self) -> Lines:
        """Equations, one a line."""
        lines, drive = [], "g"
        if self.divides:
            keep, add = map(_as_tex, self.kept_and_added("memory"))
            lines.append(f"s' &= {keep}\\, s + {add}\\, g^2")
        size = self.tex_size()
        drive = "S(g)" if self.saturates == "gradient" else "g"
        drive += size if self.divides == "gradient" else ""
        terms = []
        for place, (_, momentum, share, other) in enumerate(self.modes()):
            v = f"v_{place + 1}"
            weight, turn = _tex(share, self.digits), _tex(other, self.digits)
            if isinstance(momentum, str):
                after = _sum(_times(self.tex(momentum), v, TIMES), drive)
                term = _times(weight, f"{v}'", TIMES)
            else:
                radius, angle = (self.tex(one) for one in momentum)
                after = f"{radius}\\, e^{{{angle} i}}\\, {v} + {drive}"
                term = f"\\operatorname{{Re}}({_sum(weight, f'{turn} i')})\\, {v}'"
                if turn in ("0", "-0"):
                    term = _times(weight, f"\\operatorname{{Re}} {v}'", TIMES)
            if self.saturates == "memory":
                own = "sharpness_ratio" in self.n and not isinstance(momentum, str)
                after = f"{'T' if own else 'S'}({after})"
            lines.append(f"{v}' &= {after}")
            terms.append(term)
        bounded = f"S\\left({drive}\\right)" if self.saturates == "memory" else drive
        direction = _sum(*terms) or bounded
        if self.divides == "update":
            both = " + " in direction or " - " in direction
            direction = f"\\left({direction}\\right){size}" if both else direction + size
        if self.saturates == "update":
            direction = f"S\\left({direction}\\right)"
        lines.append(f"d &= {direction}")
        factor = self.tex_agreement(lines)
        if "timescale" in self.n:
            excess = _tex(self.n["start_over_end"] - 1, self.digits)
            timescale = _divisor(self.tex("timescale"))
            decay = _times(excess, f"e^{{-k / {timescale}}}", TIMES)
            factor += f"\\left({_sum('1', decay)}\\right) "
        lines.append(f"x' &= x - {self.tex('learning_rate')}\\, {factor}d")
        return [*lines, *self.tex_saturation()]

    def tex(self, name: str) -> str:
        """A number."""
        return _as_tex(self.number(name))

    def tex_size(self) -> str:
        """What adaptation multiplies by."""
        if not self.divides:
            return ""
        power, floor = self.tex("exponent"), self.tex("floor")
        if self.outside:
            return f" / ({{s'}}^{{{power}}} + {floor})"
        return f" / (s' + {floor})^{{{power}}}"

    def tex_agreement(self, lines: Lines) -> str:
        """The factor of agreement; adds the equations of its running means to `lines`."""
        if "agreement" not in self.n:
            return ""
        keep, add = self.kept_and_added("agreement_memory")
        half, keep, add = (_as_tex(text) for text in (_half(add), keep, add))
        lines += [
            f"p' &= {keep}\\, p + {add}\\, g\\, g_-",
            f"q' &= {keep}\\, q + {half}\\, (g^2 + g_-^2)",
        ]
        power = "p' / q'"
        if "agreement_curvature" in self.n:
            curved = _times(self.tex("agreement_curvature"), "(p' / q')^2", TIMES)
            power = f"({_sum(power, curved)})" if curved else power
        return f"e^{{{self.tex('agreement')}\\, {power}}}\\, "

    def tex_saturation(self) -> Lines:
        """The definition of S, and of T for oscillating modes, where there are any."""
        if self.saturates is None:
            return []
        knee = self.tex("knee")
        if "asymmetry" in self.n:
            knee = f"{knee}\\, e^{{{self.tex('asymmetry')} \\operatorname{{sign}} u}}"
        if "agreement_knee" in self.n:
            power = _tex(self.n["agreement"] * self.n["agreement_knee"], self.digits)
            knee = f"{knee}\\, e^{{{power}\\, p' / q'}}"
        knee = _divisor(knee)
        if "sharpness" not in self.n:
            return [f"S(u) &= u / \\max(1, |u| / {knee})"]
        both = {"S": self.n["sharpness"]}
        if "sharpness_ratio" in self.n:
            both["T"] = self.n["sharpness"] * self.n["sharpness_ratio"]
        sharp = {name: _tex(value, self.digits) for name, value in both.items()}
        return [
            f"{name}(u) &= u / \\left(1 + |u / {knee}|^{{{s}}}\\right)^{{1 / {_divisor(s)}}}"
            for name, s in sharp.items()
        ]


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


def _times(weight: str, name: str, sign: str = " * ") -> str:
    """A product, or nothing where the weight is 0."""
    if weight in ("0", "-0"):
        return ""
    return weight[:-1] + name if weight in ("1", "-1") else f"{weight}{sign}{name}"


def _sum(*terms: str) -> str:
    """The sum of those terms that are there."""
    return " + ".join(term for term in terms if term).replace("+ -", "- ")


def _soft(ratio: str, sharp: str) -> str:
    """What divides a clipped value, so that it is a saturated one."""
    return f"(1 + jnp.minimum({ratio}, 1 / {ratio}) ** {sharp}) ** (1 / {sharp})"


def _divisor(text: str) -> str:
    """LaTeX of what something is divided by: a product in parentheses."""
    return f"({text})" if "\\times" in text or "\\," in text else text


def _half(text: str) -> str:
    """Half of a number, exactly."""
    return f"{Decimal(text) / 2}".lower()


def _tex(value: float, digits: int) -> str:
    """A number of so many digits as LaTeX has it."""
    return _as_tex(f"{value:.{digits}g}")


def _as_tex(text: str) -> str:
    """A number with its power of ten as LaTeX has it."""
    leading, sign, power = text.partition("e")
    return f"{leading} \\times 10^{{{int(power)}}}" if sign else leading
