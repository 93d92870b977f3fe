"""What the README shows runs, as somebody would who types it in, and shows what it says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.long
def test_the_readme_runs(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    # It says that the learned optimizer beats Adam, that it comes to rest, that momentum shows.
    assert names["evaluation"].compare("learned", "Adam").high < 0
    assert names["points"].converged.all()
    assert 0.85 < np.abs(names["modes"].eigenvalues[0]) < 1


def test_what_the_readme_points_to_exists():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_readme_is_short():
    """What is worth more than 120 lines belongs to the documentation."""
    assert len(README.splitlines()) <= 120
