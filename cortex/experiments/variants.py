"""Models of cortex.models by class name, compiled under a schedule, for ours-against-ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cortex.experiments.shared import Case


def net_of(
    model: str, case: Case, schedule: Any, threads: int
) -> Callable[[Sequence[Any]], npt.NDArray[np.float32]]:
    """Seeded weights; node objects in, root states out."""
    import numpy as np

    import cortex
    from cortex import models

    net = cortex.compile(
        getattr(models, model)(case.hidden, case.vocab),
        weights=None,
        backend="c",
        schedule=schedule,
        threads=threads,
        outputs=("h",),
    )

    def run(roots: Sequence[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(net(roots).root["h"])

    return run
