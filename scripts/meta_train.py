"""Meta-train a learned optimizer on one task, and save the run.

python scripts/meta_train.py rosenbrock --output my_run --time-limit 600
python scripts/meta_train.py rosenbrock --output my_run --resume

The same as `lrevopt train`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
