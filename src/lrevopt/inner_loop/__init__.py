"""Runs of an optimizer on problems: their derivative, their evaluation, states along them."""
