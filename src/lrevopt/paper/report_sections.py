"""What the paper adds to the report of a run: its sentences, measured."""

from collections.abc import Sequence

from markupsafe import Markup

from lrevopt.paper.claims import Row
from lrevopt.runs.pages import Section
from lrevopt.templates import render_page


def claims_section(rows: Sequence[Row]) -> list[Section]:
    """A section with the verdict on each claim, if there are any."""
    if not rows:
        return []
    html = Markup(render_page("claims.html", claims=rows))
    return [Section("claims", "The paper's claims", "The paper's claims, measured", html)]
