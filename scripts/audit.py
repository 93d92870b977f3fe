"""Tell two optimizers apart by their updates alone.

python scripts/audit.py optax:rprop --against my_module:rprop

The same as `lrevopt audit`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
