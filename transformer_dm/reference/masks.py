"""Dropout in plain torch, with the masks of transformer_dm.philox."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from transformer_dm import philox


def draw_bits(n_rows: int, columns: int, p: float, seed: int, stream: int) -> Tensor:
    """What transformer_dm.kernels.philox.keep_bits gives."""
    if philox.threshold(p) == 0:
        return torch.empty(0, dtype=torch.int32)
    width = philox.padded_columns(columns)
    kept = philox.keep_mask(n_rows, width, p, seed, stream)
    packed = np.packbits(kept, axis=1, bitorder="little")
    return torch.from_numpy(packed.view(np.int32).copy())


def unpack(bits: Tensor, columns: int) -> Tensor:
    """The mask as booleans, (rows, columns), from (rows, padded / 32) int32."""
    places = torch.arange(32, dtype=torch.int32, device=bits.device)
    kept = (bits.unsqueeze(-1) >> places) & 1  # (rows, words, 32)
    return kept.flatten(1)[:, :columns].bool()


def apply(x: Tensor, bits: Tensor, p: float) -> Tensor:
    """x where it is kept, scaled, and 0 elsewhere; a NaN stays one, as in torch."""
    if philox.threshold(p) == 0:
        return x
    factor = unpack(bits.to(x.device), x.shape[-1]).to(x.dtype) * philox.scale(p)
    return x * factor.reshape(x.shape)
