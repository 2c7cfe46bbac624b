"""The masks of nn.TransformerEncoderLayer, as the attention kernels take them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["additive", "canonical", "check"]


def check(
    src_mask: Tensor | None, key_padding_mask: Tensor | None, batch: int, length: int, heads: int
) -> None:
    """Raise ValueError naming the mask whose shape or type does not fit."""
    if src_mask is not None:
        wanted: tuple[tuple[int, ...], ...] = (length, length), (batch * heads, length, length)
        if src_mask.shape not in wanted:
            raise ValueError(
                f"src_mask must have shape (L, L) = {wanted[0]} or (B * nhead, L, L) = "
                f"{wanted[1]}, got {tuple(src_mask.shape)}"
            )
        _check_type("src_mask", src_mask)
    if key_padding_mask is not None:
        if key_padding_mask.shape != (batch, length):
            raise ValueError(
                f"src_key_padding_mask must have shape (B, L) = {(batch, length)}, "
                f"got {tuple(key_padding_mask.shape)}"
            )
        _check_type("src_key_padding_mask", key_padding_mask)


def _check_type(name: str, mask: Tensor) -> None:
    if mask.dtype is not torch.bool and not mask.is_floating_point():
        raise ValueError(f"{name} must be bool or floating point, got {mask.dtype}")


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores: a bool one is -inf where it is True."""
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)


def canonical(
    src_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int
) -> tuple[Tensor | None, Tensor | None]:
    """(B, L) bool, True for keys to attend to, and an additive float32 mask; None for no mask.

    A floating key padding mask that only says yes or no, 0 or -inf, as nn.TransformerEncoder hands
    down, costs what a bool one does. Any other becomes an additive mask of (B heads, L, L).
    """
    mask = None if src_mask is None else additive(src_mask, torch.float32)
    if key_padding_mask is None:
        return None, mask
    if key_padding_mask.dtype is torch.bool:
        return ~key_padding_mask, mask
    keeps = key_padding_mask == 0
    if bool((keeps | (key_padding_mask == -torch.inf)).all()):
        return keeps, mask
    batch, length = key_padding_mask.shape
    by_key = key_padding_mask.to(torch.float32)[:, None, None, :]
    if mask is not None and mask.dim() == 3:
        mask = mask.view(batch, heads, length, length)
    whole = by_key.expand(batch, heads, length, length) if mask is None else by_key + mask
    return None, whole.expand(batch, heads, length, length).reshape(-1, length, length)
