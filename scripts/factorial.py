"""What each of the paper's sentences needs: initialisation, width, meta-steps, estimator.

python scripts/factorial.py --training.problems 8

The same as `lrevopt factorial`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["factorial", *sys.argv[1:]]))
