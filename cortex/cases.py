"""Models on kinds of data, as experiments and gates compare them: ours and peers as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cortex.forest import Forest
    from cortex.peers import Peer, Problem

#: Distinct batches that a candidate is given in turn.
DISTINCT = 16
#: Words of the Stanford Sentiment Treebank; a matrix a word makes the table of MV-RNN smaller.
VOCAB, MATRIX_VOCAB = 21_000, 2_000


def product_flops(model: str, hidden: int) -> float:
    """Arithmetic of an inner node's matrix products, nothing tabulated."""
    if model == "mv_rnn":  # B a and A b, W [..; ..], and W_M [A; B]
        return float(2 * (2 * hidden**2 + 2 * hidden**2 + 2 * hidden**3))
    squares = {"tree_fc": 2, "tree_gru": 3, "tree_lstm": 5, "dag_rnn": 1, "lstm": 4, "gru": 3}
    return float(2 * squares[model] * hidden**2)


@attrs.frozen
class Case:
    """A model on a kind of data.

    data: sst, perfect (128 leaves), grid (10 x 10), chain<length>
    """

    model: str
    data: str
    batch: int
    hidden: int

    @classmethod
    def of(cls, text: str, hidden: int) -> Case:
        """From "model/data/batch"; MV-RNN has a quarter of the hidden size, as in the paper."""
        model, data, batch = text.split("/")
        return cls(model, data, int(batch), hidden // 4 if model == "mv_rnn" else hidden)

    @property
    def vocab(self) -> int:
        """Rows of the table of embeddings."""
        return MATRIX_VOCAB if self.model == "mv_rnn" else VOCAB

    @property
    def axes(self) -> dict[str, Any]:
        """For records."""
        return attrs.asdict(self)

    def problem(self) -> Problem:
        """Seeded weights."""
        from cortex import peers

        return peers.make_problem(self.model, self.hidden, self.vocab)

    def forest(self, seed: int) -> Forest:
        """One batch."""
        import numpy as np

        from cortex import structures

        if self.data == "sst":
            return structures.sst_like(self.batch, seed=seed, vocab=self.vocab)
        if self.data == "perfect":
            return structures.perfect(8, self.batch, self.vocab, seed=seed)
        rng = np.random.default_rng(seed)
        if self.data == "grid":
            forest = structures.grid(10, 10, batch=self.batch)
        else:
            forest = structures.sequence([int(self.data.removeprefix("chain"))] * self.batch)
        return attrs.evolve(forest, token=rng.integers(self.vocab, size=forest.n_nodes))


class Batches:
    """Batches of one case, as Python objects; `fresh` gives each candidate objects of its own.

    nodes: of a batch, on average;  flops: of its matrix products, nothing tabulated

    A call takes the next `group` of the distinct batches, so many that calls have about the same
    size where trees have not.
    """

    def __init__(self, case: Case, rng: np.random.Generator, distinct: int = DISTINCT) -> None:
        seeds = rng.integers(2**31, size=distinct).tolist()
        self.forests = [case.forest(seed) for seed in seeds]
        self.group = max(1, distinct // case.batch) if case.data == "sst" else 1
        self.nodes = sum(forest.n_nodes for forest in self.forests) / distinct
        inner = sum(
            int((forest.child_ptr[1:] > forest.child_ptr[:-1]).sum()) for forest in self.forests
        )
        self.flops = product_flops(case.model, case.hidden) * inner / distinct

    def fresh(
        self, run: Callable[[Any], Any], form: Callable[[Forest], Any] | None = None
    ) -> Callable[[], Any]:
        """A function of no arguments that runs the next batches; gives the last batch's result.

        form: makes what `run` is given of a forest; node objects without it
        """
        from cortex.structures import to_objects

        stock = [(form or to_objects)(forest) for forest in self.forests]
        at = 0

        def call() -> Any:
            nonlocal at
            result = None
            for _ in range(self.group):
                result = run(stock[at])
                at = (at + 1) % len(stock)
            return result

        return call


def compiled(problem: Problem, schedule: Any = "auto", threads: int = 1) -> Any:
    """Our compiled model of a problem; "paper" is the schedule without our extensions."""
    import cortex

    if schedule == "paper":
        from cortex.schedule import Schedule

        schedule = Schedule.paper()
    return cortex.compile(
        problem.recursive,
        weights=problem.weights,
        backend="c",
        schedule=schedule,
        threads=threads,
        outputs=(problem.state,),
    )


def roots_of(net: Any, problem: Problem) -> Peer:
    """A compiled model as a peer: node objects in, root states out."""
    import numpy as np

    def run(roots: Sequence[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(net(roots).root[problem.state])

    return run


def assert_close(found: Any, wanted: Any) -> None:
    """Raise AssertionError unless states agree to float32 accuracy."""
    import numpy as np

    # Gated states lie in +-1; those of TreeFC grow with the tree, so the largest sets the scale.
    scale = max(1.0, float(np.abs(wanted).max())) if np.size(wanted) else 1.0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5 * scale)
