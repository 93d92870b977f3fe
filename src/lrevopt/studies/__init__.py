"""Questions asked of whole optimizers: interventions, scorecards, a gallery, transfer."""
