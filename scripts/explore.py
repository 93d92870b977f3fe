"""Write an interactive page of one run of an optimizer on one problem.

python scripts/explore.py results/rosenbrock --output rosenbrock.html

The same as `lrevopt explore`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["explore", *sys.argv[1:]]))
