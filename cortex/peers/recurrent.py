"""torch.nn.LSTM and GRU on sequences of tokens: embedding lookup, then torch's own layer.

The layer projects its input itself, for all steps in one product; nothing in torch leaves that out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pack_sequence

from cortex.peers.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Recurrent:
    """torch's layer with the weights of a problem."""

    def __init__(self, problem: Problem) -> None:
        assert problem.unprojected is not None
        x, projection = (torch.from_numpy(part) for part in problem.unprojected)
        weights = {name: torch.from_numpy(value) for name, value in problem.weights.items()}
        self.table = x
        layer = torch.nn.LSTM if problem.model == "lstm" else torch.nn.GRU
        self.layer = layer(x.shape[1], problem.hidden)
        zeros = torch.zeros(projection.shape[1])
        given = {
            "weight_ih_l0": projection.t(),
            "weight_hh_l0": weights["U"].t(),
            "bias_ih_l0": weights.get("b", weights.get("bx")),
            "bias_hh_l0": weights.get("bh", zeros),
        }
        self.layer.load_state_dict(given)
        self.layer.eval()

    @torch.inference_mode()
    def __call__(self, roots: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Last states, (roots, H); a root is the last element of its sequence."""
        return self.run([_tokens(root) for root in roots])

    @torch.inference_mode()
    def run(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """The same from lists of tokens."""
        lengths = {len(tokens) for tokens in sequences}
        inputs: Any
        if len(lengths) == 1:
            inputs = self.table[torch.tensor(sequences).t()]
        else:
            rows = [self.table[torch.tensor(tokens)] for tokens in sequences]
            inputs = pack_sequence(rows, enforce_sorted=False)
        last = self.layer(inputs)[1]
        h = last[0] if isinstance(last, tuple) else last
        found: npt.NDArray[np.float32] = h[0].numpy()
        return found


def _tokens(node: Any) -> list[int]:
    tokens = [node.token]
    while node.children:
        node = node.children[0]
        tokens.append(node.token)
    tokens.reverse()
    return tokens
