"""Versions: of the package, and of the numbers it gives."""

__version__ = "0.1.0"

#: Raised whenever the same request would get different numbers; part of every recommendation's id.
METHOD_VERSION = 3
