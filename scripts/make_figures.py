"""Draw figures from saved numbers, without training, each with its numbers and its caption.

python scripts/make_figures.py                                  # all that is shipped in results/
python scripts/make_figures.py --figure 12                      # one of them
python scripts/make_figures.py runs/rosenbrock                  # a run of your own
python scripts/make_figures.py runs/rosenbrock runs/two_moons --output both

The same as `lrevopt figures`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["figures", *sys.argv[1:]]))
