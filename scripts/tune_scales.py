"""Search the two scales of a trained optimizer, which training does not change.

python scripts/tune_scales.py runs/mnist --output runs/mnist_scaled --output-factors 0.5 0.7 1

The same as `lrevopt tune-scales`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["tune-scales", *sys.argv[1:]]))
