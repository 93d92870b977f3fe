"""Distil the optimizer of a run: a few numbers, what each mechanism is worth, how many it takes.

python scripts/distill.py results/rosenbrock --output runs/distillation

The same as `lrevopt distill`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["distill", *sys.argv[1:]]))
