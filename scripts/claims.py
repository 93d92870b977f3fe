"""Measure the paper's sentences on saved runs, print the table and save it.

python scripts/claims.py results

The same as `lrevopt claims`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["claims", *sys.argv[1:]]))
