"""Other ways to run the models here, each as strong as its users would make it.

Every peer takes the weights of a `Problem` once and then fresh Python node objects at each call,
as ours does; all read the same pre-projected embeddings, biases already added where that saves
them work. What only a peer needs is imported when it is made.

| name | what it is |
|---|---|
| `eager` | plain recursion in Python, torch operators on one row |
| `level_batched` | nodes of one height together, torch operators, matrix products of stock torch |
| `level_batched_onednn` | the same, weights packed for oneDNN |
| `torch_compile` | the same, the arithmetic of a level compiled by torch.compile |
| `dynet` | DyNet with automatic batching |
| `dgl` | DGL's prop_nodes_topo over one graph of the whole batch |
| `nn` | torch.nn.LSTM or GRU, for sequences |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from common.extras import MissingExtra
from cortex.peers.problem import MODELS, SEQUENCES, Problem, make_problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["MODELS", "PEERS", "SEQUENCES", "Peer", "Problem", "absent", "make", "make_problem"]

#: Fresh node objects in, the first state of every root out: (roots, H) float32.
Peer = Callable[[Sequence[Any]], "npt.NDArray[np.float32]"]


def make(name: str, problem: Problem) -> Peer:
    """A peer that holds the weights of a problem.

    Raises ValueError for a name that is none, or a model the peer does not know, and MissingExtra
    with the pip line where the peer is not installed.
    """
    if name not in PEERS:
        raise ValueError(f"a peer must be one of {', '.join(PEERS)}, got '{name}'")
    if name == "nn" and problem.model not in SEQUENCES:
        raise ValueError(f"peer 'nn' runs {' and '.join(SEQUENCES)}, got '{problem.model}'")
    return PEERS[name](problem)


def absent(names: Sequence[str]) -> dict[str, str]:
    """Which of these peers are not installed here, and what would bring them."""
    import importlib

    found = {}
    for name in names:
        if name in ("dynet", "dgl"):
            try:
                importlib.import_module(f"cortex.peers.with_{name}").load()
            except MissingExtra as missing:
                found[name] = str(missing)
    return found


def _eager(problem: Problem) -> Peer:
    from cortex.peers.eager import Eager

    return Eager(problem)


def _level_batched(problem: Problem) -> Peer:
    from cortex.peers.level_batched import LevelBatched

    return LevelBatched(problem)


def _level_batched_onednn(problem: Problem) -> Peer:
    from cortex.peers.level_batched import LevelBatched

    return LevelBatched(problem, products="onednn")


def _torch_compile(problem: Problem) -> Peer:
    from cortex.peers.level_batched import LevelBatched

    return LevelBatched(problem, compiled=True)


def _dynet(problem: Problem) -> Peer:
    from cortex.peers.with_dynet import DyNet

    return DyNet(problem)


def _dgl(problem: Problem) -> Peer:
    from cortex.peers.with_dgl import DGL

    return DGL(problem)


def _nn(problem: Problem) -> Peer:
    from cortex.peers.recurrent import Recurrent

    return Recurrent(problem)


PEERS: dict[str, Callable[[Problem], Peer]] = {
    "eager": _eager,
    "level_batched": _level_batched,
    "level_batched_onednn": _level_batched_onednn,
    "torch_compile": _torch_compile,
    "dynet": _dynet,
    "dgl": _dgl,
    "nn": _nn,
}
