"""Choose the snapshot of a run that is momentum, and take it apart (paper, appendix B).

python scripts/appendix_b.py runs/momentum_like --output results/linear_regression/appendix_b

The same as `lrevopt appendix-b`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["appendix-b", *sys.argv[1:]]))
