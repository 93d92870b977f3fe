"""Take the learned optimizer of a run apart, and save the numbers of its figures.

python scripts/analyze.py results/rosenbrock

The same as `lrevopt analyze`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:]]))
