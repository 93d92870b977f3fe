"""Run a learned optimizer and its tuned baselines on test problems that neither has seen.

python scripts/evaluate.py results/rosenbrock --problems 256

The same as `lrevopt evaluate`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
