"""Every shipped optimizer and every tuned baseline on every task, and sweeps of one thing.

python scripts/transfer.py                              # of results/, into results/transfer
python scripts/transfer.py --runs runs --output away    # of runs of your own

What is there already is not measured again, so that an interrupted call goes on, and a complete
one only draws.

The same as `lrevopt transfer`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["transfer", *sys.argv[1:]]))
