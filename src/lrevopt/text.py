"""Numbers, shares, complex values and tables in words; tables as CSV."""

import abc
import cmath
import csv
import dataclasses
import html
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

Facts = list[tuple[str, str]]
"""Pairs of a name and a sentence."""

WIDTH = 100
"""Characters in a line of text below a table."""

ASCII = str.maketrans({
    "\N{MINUS SIGN}": "-", "\N{INFINITY}": "inf", "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{MULTIPLICATION SIGN}": "x",
})  # fmt: skip
"""Typographic signs that a terminal may lack, or that cannot be copied into a program."""


NUMBER = re.compile(r"-?(inf|\d\S*)( [+-] \d\S* i)?")
"""A number, perhaps complex, as a cell of a table has it."""


LARGE = 1e6
"""Percentages from this on are written with a power of ten."""


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, with words for what is not a number."""
    if math.isnan(value):
        return "not available"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def percent(share: float, digits: int = 3) -> str:
    """A share in percent: "100 %" of two digits, where `number` would write 1e+02."""
    value = 100 * float(share)
    if math.isnan(value):
        return "not available"
    whole = f"{value:.0f}".replace("-", "\N{MINUS SIGN}")
    large = 10**digits <= float(f"{abs(value):.{digits}g}") < LARGE
    return f"{whole if large else number(value, digits)} %"


def complex_number(value: complex) -> str:
    if abs(value.imag) <= 1e-6 * abs(value):
        return number(float(value.real))
    return f"{number(float(value.real))} ± {number(abs(float(value.imag)))} i"


def signed_complex(value: complex, digits: int = 3) -> str:
    """A complex number as it is, its real part alone where it has no other."""
    if cmath.isnan(value) or value.imag == 0:
        return number(float(value.real), digits)
    sign = "+" if value.imag > 0 else "\N{MINUS SIGN}"
    return f"{number(float(value.real), digits)} {sign} {number(abs(value.imag), digits)} i"


def counted(count: int, what: str) -> str:
    """A number of things, such as "1 problem" and "2 problems"."""
    return f"{count} {what}{'s' * (count != 1)}"


def in_words(kind: str) -> str:
    """The name of a class as a title: `TwoMoons` as "Two moons", `MNIST` as it is."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", kind)
    words = [part if part.isupper() else part.lower() for part in parts] or [kind]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def csv_text(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV: one line of heads, then one for each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return text.getvalue()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table to read: `heads` name columns and units, `notes` say what the numbers mean.

    `str(table)` is aligned text in ASCII, `table.html()` an HTML table.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """The table as lines of text, columns of numbers aligned on the right."""
        lines = [tuple(cell.translate(ASCII) for cell in row) for row in (self.heads, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = [self._numeric(place) for place in range(len(self.heads))]
        printed = [
            "  ".join(
                cell.rjust(width) if flush else cell.ljust(width)
                for cell, width, flush in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in lines
        ]
        rule = "  ".join("-" * width for width in widths)
        notes = [textwrap.fill(note, WIDTH) for note in self.notes]
        below = ["", *notes] if notes else []
        lines_of_text = [self.title, "", printed[0], rule, *printed[1:], *below]
        return "\n".join(lines_of_text).translate(ASCII)

    def html(self) -> str:
        """The table in HTML, without any style but alignment; all text is escaped."""
        sides = ["right" if self._numeric(place) else "left" for place in range(len(self.heads))]

        def row(cells: Sequence[str], tag: str) -> str:
            each = zip(cells, sides, strict=True)
            inside = "".join(
                f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
                for cell, side in each
            )
            return f"<tr>{inside}</tr>"

        body = "\n".join(row(cells, "td") for cells in self.rows)
        notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in self.notes)
        return (
            f"<p><b>{html.escape(self.title)}</b></p>\n<table>\n"
            f"<thead>{row(self.heads, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{notes}"
        )

    def _numeric(self, place: int) -> bool:
        """Whether most cells of a column are numbers and nothing else."""
        cells = [row[place].translate(ASCII) for row in self.rows]
        return 2 * sum(bool(NUMBER.fullmatch(cell)) for cell in cells) > len(cells)


class Printed:
    """A record that prints as a table: in a console, by `print`, and in notebooks."""

    @abc.abstractmethod
    def table(self) -> Table:
        """The record as a table."""

    def __repr__(self) -> str:
        """The table; the fields of a record that was mapped to something that is not numbers."""
        try:
            return str(self.table())
        except (TypeError, ValueError, AttributeError, IndexError):
            return super().__repr__()

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str | None:
        """The table in a notebook; `None` where there is only text."""
        try:
            return self.table().html()
        except (TypeError, ValueError, AttributeError, IndexError):
            return None
