"""Numbers of a white box as text, to the digits that they need."""

import math
from decimal import Decimal
from typing import Any

from lrevopt.checks import instance, positive_integer
from lrevopt.optimizers.white_box import WhiteBox
from lrevopt.optimizers.white_box_documents import document_of
from lrevopt.optimizers.white_box_numbers import BOUNDED_BY_1, head_of, indexed, to_bound

Lines = list[str]


class WrittenNumbers:
    """Numbers of one white box, with `digits` significant digits."""

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

    def excess(self) -> str:
        """Start over end of the schedule minus 1: the smaller of the two has `digits` digits."""
        start = self.n["start_over_end"]
        if start >= 0.5:
            return f"{start - 1:.{self.digits}g}"
        text = f"{(Decimal(f'{start:.{self.digits}g}') - 1).normalize():f}"
        return "-1" if float(text) == -1 else text

    def share(self, share: float) -> str:
        """A share of a mode: shares sum to 1, and 1 has `digits` digits where large ones cancel."""
        before_point = math.floor(math.log10(max(abs(share), 1.0)))
        return f"{share:.{self.digits + before_point}g}"

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


def times(weight: str, name: str, sign: str = " * ") -> str:
    """A product, or nothing where the weight is 0."""
    if weight in ("0", "-0"):
        return ""
    return weight[:-1] + name if weight in ("1", "-1") else f"{weight}{sign}{name}"


def added(*terms: str) -> str:
    """The sum of those terms that are there."""
    return " + ".join(term for term in terms if term).replace("+ -", "- ")


def halved(text: str) -> str:
    """Half of a number, exactly."""
    return f"{Decimal(text) / 2}".lower()
