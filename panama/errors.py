"""What goes wrong in a simulated cluster that a caller may want to catch."""


class NoTreeError(ValueError):
    """No switch reaches all members of a job going up only; names the job and a host left out."""


class StallError(RuntimeError):
    """Nothing moves and a job waits; names job, packet, switch and the children missing."""
