"""What can be wrong with a user's input, by cause; every one is a ValueError."""


class StructureError(ValueError):
    """Data that is not the structure a model was declared for; names the tree and the node."""


class TokenError(ValueError):
    """A token outside the vocabulary; names tree, node, token and vocabulary size."""


class WeightError(ValueError):
    """Weights that are missing, too many or of the wrong shape; names all of them at once."""


class ModelError(ValueError):
    """A model that is not recursive in the sense of P1-P3, or whose shapes do not fit.

    Names the expression and the line of the user's source.
    """


class ScheduleError(ValueError):
    """A schedule primitive that is illegal for a model; names what would make it legal."""


class BackendError(ValueError):
    """A back end that cannot run here; names what is missing and the back end that can."""
