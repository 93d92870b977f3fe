"""One page of numbers for one optimizer on one task: a well-known one, a learned or a tuned one.

python scripts/scorecard.py --optax lion --task rosenbrock
python scripts/scorecard.py --run results/rosenbrock
python scripts/scorecard.py --run results/rosenbrock --baseline adam

The same as `lrevopt scorecard`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["scorecard", *sys.argv[1:]]))
