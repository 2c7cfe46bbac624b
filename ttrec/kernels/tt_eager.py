"""The bag in eager mode: one native call forward, one native autograd node backward.

Compiled against torch's own headers, once a torch version. Where that cannot be done, and for what
it does not take, the operator ttrec::bag_forward serves, which does the same through torch's
dispatcher and Python: a small batch then takes several times as long.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import native
from ttrec.kernels import library
from ttrec.kernels.library import Kernels

MOST_CORES = 5
_PLAIN = frozenset((Tensor, torch.nn.Parameter))


def build_options() -> native.Options:
    """What the source is compiled with: constants of ours, and torch's headers and libraries."""
    root = Path(torch.__file__).parent
    return {
        "defines": {
            "TT_KEPT_FLOATS": library.KEPT_FLOATS,
            "TT_POSITIONS_PER_THREAD": library.POSITIONS_PER_THREAD,
        },
        "foreign_headers": {root / "include": f"torch {torch.__version__}"},
        "flags": ["-fexceptions"],
        "link_flags": [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"],
    }


@functools.cache
def _operator() -> Callable[..., Tensor | None] | None:
    """ttrec::eager_bag, compiled (first use only) and defined; None and a warning if it fails."""
    source = library.FOLDER / "tt_eager.cpp"
    try:
        built = native.build(source.stem, [source], **build_options())
    except native.NativeBuildError as error:
        warnings.warn(
            f"steps of TT embedding bags take several times as long for small batches: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    built.function("void tt_eager_define()")()
    # As native functions note by themselves: the kernels are called behind their back.
    native.openmp.ran_parallel_region[0] = True
    operator: Callable[..., Tensor | None] = torch.ops.ttrec.eager_bag.default
    return operator


_tables: list[Any] = []  # for ever, as their addresses are


@functools.cache
def table_at(kernels: Kernels, *options: int) -> int:
    """Address of what is fixed about a table, as tt_eager.cpp reads it.

    options: those of the operator ttrec::bag_forward from has_last to allows_stale, then store and
             sharing
    """
    unused = [0] * (3 * MOST_CORES - 1 - len(kernels.sizes))
    words = np.array(
        [*kernels.addresses, kernels.d, kernels.dim, kernels.pair_floats, *options, *kernels.sizes,
         *unused],
        dtype=np.int64,
    )  # fmt: skip
    _tables.append(words)
    address: int = words.ctypes.data
    return address


def pool(
    table_at: int,
    cores_and_states: Sequence[Tensor],
    input: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    anchor: Tensor | None,
    control: Tensor | None,
    number: int,
) -> Tensor | None:
    """The bags, (batch, D), with gradients; None if that takes another path, or is an error there.

    Arguments as ttrec.kernels.tt_bag.pool, but not yet read by ttrec.batch. Nothing is changed if
    it returns None.
    """
    if is_traced(cores_and_states[0], input):
        return None
    operator = _operator()
    if operator is None:
        return None
    return operator(table_at, cores_and_states, input, offsets, weights, anchor, control, number)


def is_traced(core: Tensor, input: Tensor) -> bool:
    """True if an operator is wanted rather than its result: fake tensors, or a dispatch mode."""
    return (
        type(input) is not Tensor
        or type(core) not in _PLAIN
        or torch._C._len_torch_dispatch_stack() > 0
    )
