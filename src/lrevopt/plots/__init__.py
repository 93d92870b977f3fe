"""Records in, matplotlib figures out: one panel a function, and `lo.plot` for users."""

from lrevopt import lazy

__getattr__, __dir__, __all__ = lazy.exports(__name__, __file__)
