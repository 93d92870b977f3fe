"""A run's folder: what it holds, and the stages that fill it."""
