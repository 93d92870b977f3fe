"""Check the equations of appendix C on a learned optimizer, as printed and corrected.

python scripts/appendix_c.py results/rosenbrock

The same as `lrevopt appendix-c`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["appendix-c", *sys.argv[1:]]))
