"""Records in, matplotlib figures out: one panel a function."""
