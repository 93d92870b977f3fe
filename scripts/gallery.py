"""Look at well-known optimizers on a task: tune, run and linearize each, and draw them together.

python scripts/gallery.py rosenbrock --output results/gallery

The same as `lrevopt gallery`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["gallery", *sys.argv[1:]]))
