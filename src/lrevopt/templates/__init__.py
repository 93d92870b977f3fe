"""Templates of HTML pages, and the styles and scripts that go into them.

A page is a single file: everything it shows is inside, nothing is fetched from elsewhere.
"""

from typing import Any

import jinja2


def render_page(template: str, **content: Any) -> str:
    """A template of the package, filled in; what is filled in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lrevopt"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
