"""Run a run's optimizer and its baselines for more updates than it was trained for.

python scripts/horizons.py results/rosenbrock --horizons 200 500 1000 2000

The same as `lrevopt horizons`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["horizons", *sys.argv[1:]]))
