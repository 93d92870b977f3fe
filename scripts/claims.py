"""Measure the paper's sentences on saved runs, print the table and save it.

python scripts/claims.py results
"""

import collections
import dataclasses
from pathlib import Path

import tyro

from lrevopt.paper.claims.saved_runs import write_claims
from lrevopt.runs.command_line import parse, plain_errors


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure the paper's sentences on saved runs, print the table and save it."""

    results: tyro.conf.Positional[Path] = Path("results")
    """Folder of runs named by their task; gets `claims.md` and `claims.csv`."""


if __name__ == "__main__":
    settings = parse(Settings)
    with plain_errors():
        rows = write_claims(settings.results)
        for row in rows:
            seeds = f"  (seeds: {row.seeds})" if row.seeds else ""
            print(f"{row.claim:24} {row.task:18} {row.outcome:12} {row.value}{seeds}")
        counts = collections.Counter(row.outcome for row in rows)
        print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
