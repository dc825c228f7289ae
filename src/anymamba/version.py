"""The version of this package, where every file can read it without the front door."""

__version__ = "0.1.0"
