"""Names of the meta-objectives, apart from their functions: settings need the names alone."""

from typing import Literal, get_args

Objective = Literal["mean", "log_mean", "final"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
