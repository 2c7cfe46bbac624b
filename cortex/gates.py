"""Speed floors of this package; see common.gates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from common.gates import Gate

Sides = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], object]]


def make_case(text: str, peer: str, schedule: str) -> Sides:
    """Ours and a peer from fresh Python objects, as the experiments compare them; hidden 256."""
    import numpy as np

    from cortex import cases, peers

    case = cases.Case.of(text, 256)
    problem = case.problem()
    batches = cases.Batches(case, np.random.default_rng(0), distinct=4)
    ours = cases.roots_of(cases.compiled(problem, schedule), problem)
    return batches.fresh(ours), batches.fresh(peers.make(peer, problem)), cases.assert_close


GATES = (
    # 13 to 18 with AVX2: from this case the latency reduction of the abstract is taken.
    Gate(
        "cortex_treelstm_eager",
        partial(make_case, "tree_lstm/sst/10", "eager", "auto"),
        floor=9.0,
        claims=("cortex.abstract.latency_reduction",),
    ),
    Gate(
        "cortex_treelstm_sst",
        partial(make_case, "tree_lstm/sst/10", "level_batched", "auto"),
        floor=2.5,
    ),
    Gate(
        "cortex_treelstm_paper",
        partial(make_case, "tree_lstm/perfect/1", "level_batched", "paper"),
        floor=1.3,
    ),
)
