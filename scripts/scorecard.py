"""One page of numbers for one optimizer on one task: a well-known one, a learned or a tuned one.

python scripts/scorecard.py --optax lion --task rosenbrock
python scripts/scorecard.py --run results/rosenbrock
python scripts/scorecard.py --run results/rosenbrock --baseline adam
"""

from lrevopt.runs.command_line import parse, plain_errors
from lrevopt.runs.scorecard import CardSettings, write_scorecard

if __name__ == "__main__":
    settings = parse(CardSettings)
    with plain_errors():
        write_scorecard(settings)
