"""Appendix B, the optimizer that is momentum, and appendix C, aggregated momentum."""
