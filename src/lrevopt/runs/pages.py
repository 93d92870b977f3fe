"""What HTML pages share: one look, embedded figures, comparisons in words.

A page is a single file: its figures are inside, nothing is fetched from elsewhere.
"""

import base64
import dataclasses
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from markupsafe import Markup

from lrevopt.inner_loop.evaluation import Comparison
from lrevopt.plots.style import COLUMN, RESOLUTION, in_few_colors
from lrevopt.text import number


@runtime_checkable
class Captioned(Protocol):
    """What a figure is called and how it is read."""

    @property
    def name(self) -> str:
        """Name of its files without suffix, and its anchor."""

    @property
    def label(self) -> str:
        """Heading: "Figure 3", or "Figure" for an unnumbered one."""

    @property
    def title(self) -> str:
        """What it shows, in a few words."""

    @property
    def caption(self) -> str:
        """How to read it."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its PNG, or the path of it, and links to files that belong to it."""

    spec: Captioned
    png: bytes | Path
    files: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page that a client of the package adds to it."""

    name: str
    """Anchor."""
    short: str
    """Entry in the list of contents."""
    heading: str
    html: Markup
    """Its body, as `Markup(render_page(...))` of a template of the client's."""


def embedded_figure(picture: Picture) -> dict[str, Any]:
    """A figure as templates show it, its picture as a data address.

    Raises `ValueError` if it is not a PNG.
    """
    spec, png = picture.spec, picture.png
    data = png if isinstance(png, bytes) else png.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"`figures` must be PNG files, got another kind for {spec.label}.")
    width, height = struct.unpack(">II", data[16:24])
    return {
        "name": spec.name,
        "label": spec.label,
        "title": spec.title,
        "heading": f"{spec.label}: {spec.title}.",
        "caption": spec.caption,
        "alt": f"{spec.title}. {spec.caption}",
        "width": width,
        "height": height,
        "wide": width > 1.2 * COLUMN * RESOLUTION,
        "source": f"data:image/webp;base64,{base64.b64encode(_smaller(data)).decode()}",
    }


def _smaller(png: bytes) -> bytes:
    """The same picture in 256 colours, as lossless WebP."""
    small = io.BytesIO()
    in_few_colors(png).convert("RGB").save(small, "webp", lossless=True, quality=80, method=4)
    return small.getvalue()


def difference_words(comparison: Comparison) -> str:
    """A paired difference and its interval."""
    ends = f"{number(comparison.low)} to {number(comparison.high)}"
    return f"{number(comparison.difference)} (95 % interval {ends})"
