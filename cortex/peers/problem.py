"""A model with weights that ours and all peers hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cortex.recursive import Recursive

#: Children of an inner node by model; None for any number.
ARITY: dict[str, int | None] = {
    "tree_fc": 2,
    "tree_gru": 2,
    "tree_lstm": 2,
    "mv_rnn": 2,
    "dag_rnn": None,
    "lstm": 1,
    "gru": 1,
}
SEQUENCES = ("lstm", "gru")
MODELS = tuple(ARITY)
#: Names in cortex.models.
_CLASSES = {
    "tree_fc": "TreeFC",
    "tree_gru": "TreeGRU",
    "tree_lstm": "TreeLSTM",
    "mv_rnn": "MVRNN",
    "dag_rnn": "DAGRNN",
    "lstm": "LSTM",
    "gru": "GRU",
}


@attrs.frozen(eq=False)
class Problem:
    """What a candidate is made from; nobody writes to its arrays.

    weights: by the names of cortex.models, with pre-projected embeddings in the table "E"
    width, unprojected: of sequences alone, the inputs x before their projection: (vocab, width),
             and W with E = x @ W, (width, gates), since torch's layers compute it themselves
    """

    model: str
    hidden: int
    vocab: int
    recursive: Recursive
    weights: dict[str, npt.NDArray[np.float32]]
    unprojected: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None

    @property
    def state(self) -> str:
        """The name of the first state, which peers return."""
        return "a" if self.model == "mv_rnn" else "h"


def make_problem(model: str, hidden: int, vocab: int, seed: int = 0) -> Problem:
    """Seeded weights of a model.

    Raises ValueError for a name that is no model.
    """
    import numpy as np

    from cortex import models
    from cortex.ra import trace
    from cortex.weights import seeded

    if model not in _CLASSES:
        raise ValueError(f"model must be one of {', '.join(_CLASSES)}, got '{model}'")
    recursive = getattr(models, _CLASSES[model])(hidden, vocab)
    weights = dict(seeded(trace(recursive), seed))
    if model == "mv_rnn":
        # Products of many random matrices would vanish or explode: near the identity, as
        # Socher et al. begin.
        eye = np.eye(hidden, dtype=np.float32)
        weights["EM"] = (eye + 0.1 * weights["EM"]).astype(np.float32)
        weights["WM"] = np.concatenate((eye, eye), 1) / 2 + 0.1 * weights["WM"]
        weights["WM"] = weights["WM"].astype(np.float32)
    if model not in SEQUENCES:
        return Problem(model, hidden, vocab, recursive, weights)
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (vocab, hidden)).astype(np.float32)
    bound = hidden**-0.5
    projection = rng.uniform(-bound, bound, (hidden, weights["E"].shape[1])).astype(np.float32)
    weights["E"] = x @ projection
    return Problem(model, hidden, vocab, recursive, weights, (x, projection))
