"""Search for hyperparameters: random search, successive halving, learning rates, scales."""
