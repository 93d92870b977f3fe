"""Where the optimizers that come with the package are."""

from importlib import resources
from pathlib import Path

SHIPPED = Path(str(resources.files("lrevopt"))) / "paper" / "shipped"
"""Folder of the optimizers that come with the package: `NAME.npz` and `NAME.json`."""

DISTILLED = SHIPPED / "distilled"
"""Folder of the white boxes that come with the package, `NAME.json`."""
