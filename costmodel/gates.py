"""Speed floors of this package; see common.gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.gates import Gate

Sides = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], object]]

N = 256
REGISTER_TILE = (
    "unfuse(S1, 1); unfuse(S1, 0); register_tile(S1, 0, 6, 1, 16); "
    "interchange(S1, 0, 1); pack(S1, B, 1)"
)


def make_product() -> Sides:
    """A matrix product in register tiles, and torch.mm."""
    import numpy as np
    import torch

    from costmodel import programs
    from costmodel.c_frontend import from_c
    from costmodel.execution import FAST_FLAGS
    from costmodel.optimizer import Optimized
    from costmodel.schedule import apply
    from costmodel.search import Found

    sizes = dict.fromkeys(("NI", "NJ", "NK"), N)
    source = programs.source_path("matmul")
    program = from_c(source, params=sizes, defines={"DATA_TYPE": "float"})
    ours = Optimized(program, apply(program, REGISTER_TILE), None, None, Found(), FAST_FLAGS)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, (N, N)).astype(np.float32) for _ in range(2))
    c, d = np.empty((N, N), np.float32), torch.empty(N, N)

    def run_ours() -> torch.Tensor:
        ours(a, b, c)
        return torch.from_numpy(c)

    def run_peer() -> torch.Tensor:
        return torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=d)

    return run_ours, run_peer, lambda x, y: torch.testing.assert_close(x, y, rtol=0, atol=0)


GATES = (Gate("costmodel_register_tile", make_product, floor=0.6),)
