"""Draw the figures of a run and write its report, from saved numbers.

python scripts/report.py results/rosenbrock

The same as `lrevopt report`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
