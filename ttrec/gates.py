"""Speed floors of this package; see common.gates."""

from collections.abc import Callable
from typing import Any

from common.gates import Gate


def make_bag_step() -> tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], object]]:
    """Training step of the native bag and of gather + bmm: R=32, 1024 uniform rows of 2.2 M."""
    import torch

    from ttrec import peers
    from ttrec.init import make_cores
    from ttrec.shapes import suggest_shape

    generator = torch.Generator().manual_seed(0)
    shape = suggest_shape(2_202_608, 16, 32, preset="paper")
    batch = 1024
    problem = peers.Problem(
        shape=shape,
        cores=tuple(make_cores(shape, generator=generator)),
        indices=torch.randint(0, shape.rows, (batch,), generator=generator),
        bounds=torch.arange(batch + 1),
        d_out=torch.randn(batch, shape.dim, generator=generator),
        lr=1e-6,
    )
    return peers.ours(problem).step, peers.torch_bmm(problem).step, peers.assert_close


# 3.5 to 3.9 on a busy two-core AVX-512 machine.
GATES = (Gate("ttrec_bag_step", make_bag_step, floor=2.4),)
