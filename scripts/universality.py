"""Which of the paper's sentences hold for populations of several cells and seeds.

python scripts/universality.py --seeds 20 --output runs/universality

The same as `lrevopt universality`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["universality", *sys.argv[1:]]))
