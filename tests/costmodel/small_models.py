"""Models that know nothing, in files."""

from pathlib import Path

import torch

from costmodel.model import CostModel, ModelConfig

TINY = ModelConfig(comp_widths=(16,), embedding=8, merge_width=8, head_widths=(8,), dropout=0.0)


def tiny_checkpoint(path: Path) -> Path:
    """A model of random weights."""
    torch.manual_seed(0)
    CostModel(TINY).save(path)
    return path
