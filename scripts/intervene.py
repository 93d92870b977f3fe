"""Take one mechanism of a run's learned optimizer away after the other, and see what it costs.

python scripts/intervene.py results/rosenbrock --problems 256

The same as `lrevopt intervene`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["intervene", *sys.argv[1:]]))
