"""Running an optimizer on problems, differentiating the run, and scoring it."""
