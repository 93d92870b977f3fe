"""Tune momentum, RMSProp and Adam on one task by random search, and save the searches.

python scripts/tune.py rosenbrock --output runs/rosenbrock

The same as `lrevopt tune`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
