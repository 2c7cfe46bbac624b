"""The arguments of an embedding bag, brought to one form."""

import torch
from torch import Tensor

from ttrec.reference import Mode


def read_batch(
    input: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
    mode: Mode,
    include_last_offset: bool,
    core: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Indices, offsets and weights as the operators take them.

    Returns indices (batch, length) with offsets None, or (n,) with offsets of their dtype; both
    contiguous. weights are (n,) or None. Values are not looked at; shapes, dtypes, devices and
    combinations are. core says which dtype and device the table has.
    """
    _check_integer(input, "input")
    _check_device(input, "input", core)
    if input.dim() == 2:
        if offsets is not None:
            raise ValueError("a 2-D input has its bags as rows; offsets must be None then")
    elif input.dim() == 1:
        if offsets is None:
            raise ValueError("a 1-D input needs offsets, the start of every bag, got None")
        _check_integer(offsets, "offsets")
        _check_device(offsets, "offsets", core)
        if offsets.dim() != 1:
            raise ValueError(f"offsets must be 1-D, got shape {tuple(offsets.shape)}")
        if include_last_offset and offsets.shape[0] == 0:
            raise ValueError("with include_last_offset, offsets must hold at least one entry")
        if offsets.dtype != input.dtype:
            # int64 holds both.
            input, offsets = input.long(), offsets.long()
        offsets = offsets.contiguous()
    else:
        raise ValueError(f"input must be 1-D or 2-D, got shape {tuple(input.shape)}")
    weights = per_sample_weights
    if weights is not None:
        if mode != "sum":
            raise NotImplementedError(f"per_sample_weights need mode='sum', got mode={mode!r}")
        if weights.shape != input.shape or weights.dtype != core.dtype:
            raise ValueError(
                f"per_sample_weights must be {core.dtype} of input's shape {tuple(input.shape)}, "
                f"got {weights.dtype} of shape {tuple(weights.shape)}"
            )
        _check_device(weights, "per_sample_weights", core)
        weights = weights.reshape(-1).contiguous()
    return input.contiguous(), offsets, weights


def bounds_of(indices: Tensor, offsets: Tensor | None, include_last_offset: bool) -> Tensor:
    """Where bags begin and the last ends, (batch + 1,) int64, from what `read_batch` returned."""
    if offsets is None:
        batch, length = indices.shape
        return torch.arange(batch + 1, device=indices.device) * length
    offsets = offsets.long()
    if include_last_offset:
        return offsets
    return torch.cat((offsets, offsets.new_tensor([indices.numel()])))


def _check_integer(tensor: Tensor, name: str) -> None:
    if tensor.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int32 or int64, got {tensor.dtype}")


def _check_device(tensor: Tensor, name: str, core: Tensor) -> None:
    if tensor.device != core.device:
        raise ValueError(
            f"{name} must lie on the device of the cores, {core.device}, got {tensor.device}; "
            "move one of them"
        )
