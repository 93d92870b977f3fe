"""Everything for one task: train, tune, evaluate, analyse, draw, and write the report.

    python scripts/reproduce.py linear_regression

A run that was stopped continues where it was when the same command is given again.

The same as `lrevopt reproduce`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
