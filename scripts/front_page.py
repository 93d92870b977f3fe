"""Write the front page of all shipped runs, `results/index.html`, from what is saved there.

python scripts/front_page.py

The same as `lrevopt front-page`.
"""

import sys

from lrevopt.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["front-page", *sys.argv[1:]]))
