"""Copy the optimizers of the runs in `results/` into the package.

python scripts/ship.py

The same as `lrevopt ship`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["ship", *sys.argv[1:]]))
