"""What the README shows runs, block after block, as somebody would who types it in."""

import re
from pathlib import Path
from typing import Any

import numpy as np

import lrevopt as lo

ROOT = Path(__file__).parent.parent


def test_the_readme_runs(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    # It says that the learned optimizer beats Adam, that training helps, that momentum shows.
    assert names["evaluation"].compare("learned", "Adam").high < 0
    scores = names["training"].history.selection_scores
    assert np.min(scores) < scores[0]
    modes = lo.eigenmodes(lo.linearize(names["optimizer"], names["rest"].states[0]))
    np.testing.assert_allclose(modes.eigenvalues[0], 0.9, rtol=1e-12)
