"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

import re
from typing import Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

PRIME = re.compile(r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>")


def mathml(formula: str, display: str) -> str:
    """LaTeX as MathML. Primes stand beside their letter: the character is raised already."""
    return PRIME.sub(
        r"<mrow>\1<mo lspace='0' rspace='0'>&#x02032;</mo></mrow>",
        convert(formula, display=display),
    )


def visit_inline(writer: Any, node: Any) -> None:
    """Formula inside a line."""
    writer.body.append(mathml(node.astext(), "inline"))
    raise SkipNode


def visit_display(writer: Any, node: Any) -> None:
    """Formula on a line of its own, which scrolls by itself where it is too wide."""
    writer.body.append(f'<div class="math-display">{mathml(node.astext(), "block")}</div>')
    raise SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register as Sphinx's renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
