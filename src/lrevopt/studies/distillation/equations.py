"""White boxes written out as LaTeX."""

from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.studies.distillation.written_numbers import (
    Lines,
    WrittenNumbers,
    added,
    halved,
    times,
)

TIMES = "\\, "
"""A product in LaTeX."""


def latex_text(box: WhiteBox, digits: int = 3) -> str:
    """The update of a white box as aligned LaTeX equations with its numbers."""
    text = _Equations(box, digits)
    return "\\begin{aligned}\n" + " \\\\\n".join(text.latex()) + "\n\\end{aligned}\n"


class _Equations(WrittenNumbers):
    """Equations of one white box."""

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
            weight, turn = _as_tex(self.share(share)), _tex(other, self.digits)
            if isinstance(momentum, str):
                after = added(times(self.tex(momentum), v, TIMES), drive)
                term = times(weight, f"{v}'", TIMES)
            else:
                radius, angle = (self.tex(one) for one in momentum)
                after = f"{radius}\\, e^{{{angle} i}}\\, {v} + {drive}"
                term = f"\\operatorname{{Re}}({added(weight, f'{turn} i')})\\, {v}'"
                if turn in ("0", "-0"):
                    term = times(weight, f"\\operatorname{{Re}} {v}'", TIMES)
            if self.saturates == "memory":
                own = "sharpness_ratio" in self.n and not isinstance(momentum, str)
                after = f"{'T' if own else 'S'}({after})"
            lines.append(f"{v}' &= {after}")
            terms.append(term)
        bounded = f"S\\left({drive}\\right)" if self.saturates == "memory" else drive
        direction = added(*terms) or bounded
        if self.divides == "update":
            both = " + " in direction or " - " in direction
            direction = f"\\left({direction}\\right){size}" if both else direction + size
        if self.saturates == "update":
            direction = f"S\\left({direction}\\right)"
        lines.append(f"d &= {direction}")
        factor = self.tex_agreement(lines)
        if "timescale" in self.n:
            timescale = _divisor(self.tex("timescale"))
            decay = times(_as_tex(self.excess()), f"e^{{-k / {timescale}}}", TIMES)
            factor += f"\\left({added('1', decay)}\\right) "
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
        half, keep, add = (_as_tex(text) for text in (halved(add), keep, add))
        lines += [
            f"p' &= {keep}\\, p + {add}\\, g\\, g_-",
            f"q' &= {keep}\\, q + {half}\\, (g^2 + g_-^2)",
        ]
        power = "p' / q'"
        if "agreement_curvature" in self.n:
            curved = times(self.tex("agreement_curvature"), "(p' / q')^2", TIMES)
            power = f"({added(power, curved)})" if curved else power
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


def _divisor(text: str) -> str:
    """LaTeX of what something is divided by: a product in parentheses."""
    return f"({text})" if "\\times" in text or "\\," in text else text


def _tex(value: float, digits: int) -> str:
    """A number of so many digits as LaTeX has it."""
    return _as_tex(f"{value:.{digits}g}")


def _as_tex(text: str) -> str:
    """A number with its power of ten as LaTeX has it."""
    leading, sign, power = text.partition("e")
    return f"{leading} \\times 10^{{{int(power)}}}" if sign else leading
