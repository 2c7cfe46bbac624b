"""Sizes of an encoder layer that the paper measures, and how one is written in settings."""

from __future__ import annotations

import attrs
from attrs.validators import ge

__all__ = ["SIZES", "LayerSize"]


@attrs.frozen
class LayerSize:
    """batch sequences of `length` positions, `heads` of size `head_size`, feed-forward `width`."""

    batch: int = attrs.field(validator=ge(0))
    length: int = attrs.field(validator=ge(0))
    heads: int = attrs.field(validator=ge(1))
    head_size: int = attrs.field(validator=ge(1))
    width: int = attrs.field(validator=ge(1))

    @property
    def d_model(self) -> int:
        """Width of the embedding."""
        return self.heads * self.head_size


#: A layer of BERT-large in the paper's two settings, the same number of positions within a factor
#: of three: few long sequences, and many short ones.
SIZES = {
    "S1": LayerSize(batch=8, length=512, heads=16, head_size=64, width=4096),
    "S2": LayerSize(batch=96, length=128, heads=16, head_size=64, width=4096),
}
