"""Random search of the meta learning rate for one task, on selection problems.

python scripts/search_learning_rate.py rosenbrock --training.steps 300 --candidates 8

The same as `lrevopt search-learning-rate`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["search-learning-rate", *sys.argv[1:]]))
