"""What can be wrong with a program, a schedule or a data set; every message is one sentence."""

from __future__ import annotations


class CostModelError(ValueError):
    """Base of all errors this package raises about what it was given."""


class NotAffine(CostModelError):
    """A subscript, bound or guard is not linear in the loops around it."""


class UnboundParameter(CostModelError):
    """A size has a name and no number."""


class UnsupportedProgram(CostModelError):
    """The program has a construct outside the class of loop nests this package reads."""


class OutOfBounds(CostModelError):
    """A subscript leaves the declared shape in some iteration."""


class ScheduleError(CostModelError):
    """A step of a schedule does not fit the program: absent loop, size of 0, unknown statement."""


class IllegalSchedule(ScheduleError):
    """A schedule would change what the program computes."""


class CompileError(CostModelError):
    """The C compiler is missing or refused the source."""


class MeasureError(CostModelError):
    """Nothing could be measured: the baseline itself fails, or the measuring process cannot run."""


class CheckpointMismatch(CostModelError):
    """A trained model belongs to another version of the features."""


class DatasetError(CostModelError):
    """A data set is too small or too uniform for what was asked of it."""
