"""The network simulator written again, plainly, to hold the native core against."""

from panama.reference.run import Found, run

__all__ = ["Found", "run"]
