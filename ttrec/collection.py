"""TTEmbeddingBagCollection: many tables of any shapes, looked up in one native call."""

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ttrec.bag import RULES, TTEmbeddingBag, is_native
from ttrec.init import Init
from ttrec.kernels import tt_bag
from ttrec.kernels.tt_many import Call, CollectionBag, Table
from ttrec.reference import Mode
from ttrec.shapes import TTShape


@attrs.frozen
class TableConfig:
    """One table of a collection; fields as the arguments of TTEmbeddingBag."""

    name: str
    num_embeddings: int
    embedding_dim: int
    rank: int = 32
    shape: TTShape | None = None
    d: int = 3
    mode: Mode = "sum"
    padding_idx: int | None = None
    init: Init = "sampled_gaussian"


class TTEmbeddingBagCollection(nn.Module):
    """Tables of different sizes and shapes, each a TTEmbeddingBag, under one forward.

    configs: one TableConfig a table, names all different
    options: what the tables share of TTEmbeddingBag's arguments: optimizer, store, backend, stale,
             scale_grad_by_freq, target_var

    Raises ValueError for no tables or equal names, and what TTEmbeddingBag raises.
    """

    def __init__(self, configs: Sequence[TableConfig], **options: Any) -> None:
        super().__init__()
        names = [config.name for config in configs]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"tables need names, all different, got {names}")
        self.tables = nn.ModuleDict()
        for config in configs:
            given = attrs.asdict(config, recurse=False)
            name = given.pop("name")
            if config.shape is not None:
                given.pop("rank")
            self.tables[name] = TTEmbeddingBag(include_last_offset=True, **given, **options)
        self._anchor = torch.empty(0, requires_grad=True)
        self._n_forwards = [0]

    @property
    def dims(self) -> tuple[int, ...]:
        """Columns of every table."""
        return tuple(bag.embedding_dim for bag in self._bags)

    @property
    def _bags(self) -> list[TTEmbeddingBag]:
        return [bag for bag in self.tables.values() if isinstance(bag, TTEmbeddingBag)]

    def forward(
        self,
        indices: Tensor,
        offsets: Tensor,
        table_splits: Sequence[int] | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> list[Tensor]:
        """Pool every table: one (batch, D_t) tensor a table, in the order of the configs.

        indices: (n,) int32 or int64, the indices of the first table's bags, then the second's ..
        offsets: (tables * batch + 1,): bag b of table t holds indices
                 offsets[t * batch + b] to offsets[t * batch + b + 1]
        table_splits: (tables + 1,) where the indices of every table begin and the last end;
                 offsets say it already, so this is checked against them. None: not checked
        per_sample_weights: (n,) float32, for tables of mode "sum" only

        Raises IndexError naming the table, before any table is changed.
        """
        bags = self._bags
        batch = self._check(indices, offsets, per_sample_weights)
        cuts = offsets[::batch].tolist() if batch else [0] * (len(bags) + 1)
        if table_splits is not None and list(table_splits) != cuts:
            raise ValueError(
                f"table_splits must agree with offsets, which say {cuts}, got {list(table_splits)}"
            )
        if cuts[0] != 0:
            raise ValueError(f"offsets must start at 0, got {cuts[0]}")
        if cuts[-1] != indices.numel():
            raise ValueError(f"offsets must end at the {indices.numel()} indices, got {cuts[-1]}")
        for t, (first, last) in enumerate(itertools.pairwise(cuts)):
            if last < first:
                raise ValueError(
                    f"offsets must not fall, got {last} at position {(t + 1) * batch} "
                    f"after {first} at position {t * batch}"
                )
        if torch.compiler.is_compiling() or not all(is_native(b.cores, b.backend) for b in bags):
            return self._one_by_one(indices, offsets, cuts, batch, per_sample_weights)
        self._n_forwards[0] += 1
        is_fused = bags[0].optimizer is not None
        cores = [] if is_fused else [core for bag in bags for core in bag.cores]
        tables = [_table(name, bag) for name, bag in zip(self.tables, bags, strict=True)]
        needs_grad = torch.is_grad_enabled() and (is_fused or any(c.requires_grad for c in cores))
        outs = CollectionBag.apply(  # type: ignore[no-untyped-call]  # torch's apply has no annotations
            self._anchor if is_fused else None,
            per_sample_weights,
            Call(tables, self._n_forwards[0]),
            (indices.contiguous(), offsets.to(indices.dtype).contiguous(), cuts, batch, needs_grad),
            *cores,
        )
        return list(outs)

    def set_lr(self, lr: float) -> None:
        """Change the fused optimizer's step size in every table; ValueError if there is none."""
        for bag in self._bags:
            bag.set_lr(lr)

    def _check(self, indices: Tensor, offsets: Tensor, weights: Tensor | None) -> int:
        for name, tensor in (("indices", indices), ("offsets", offsets)):
            if tensor.dtype not in (torch.int32, torch.int64):
                raise TypeError(f"{name} must be int32 or int64, got {tensor.dtype}")
            if tensor.dim() != 1:
                raise ValueError(f"{name} must be 1-D, got shape {tuple(tensor.shape)}")
        batch, rest = divmod(offsets.shape[0] - 1, len(self.tables))
        if rest or offsets.shape[0] == 0:
            raise ValueError(
                f"offsets must hold tables * batch + 1 entries, got {offsets.shape[0]} "
                f"for {len(self.tables)} tables"
            )
        if weights is not None:
            modes = {bag.mode for bag in self._bags}
            if modes != {"sum"}:
                raise NotImplementedError(
                    f"per_sample_weights need mode='sum' in every table, got {sorted(modes)}"
                )
            if weights.shape != indices.shape or weights.dtype != self._bags[0].cores[0].dtype:
                raise ValueError(
                    f"per_sample_weights must be {self._bags[0].cores[0].dtype} of shape "
                    f"{tuple(indices.shape)}, got {weights.dtype} of shape {tuple(weights.shape)}"
                )
        return batch

    def _one_by_one(
        self,
        indices: Tensor,
        offsets: Tensor,
        cuts: Sequence[int],
        batch: int,
        weights: Tensor | None,
    ) -> list[Tensor]:
        """Every table by its own forward, where one native call is not to be had."""
        return [
            bag(
                indices[cuts[t] : cuts[t + 1]],
                offsets[t * batch : (t + 1) * batch + 1] - cuts[t],
                None if weights is None else weights[cuts[t] : cuts[t + 1]],
            )
            for t, bag in enumerate(self._bags)
        ]

    def _apply(self, *arguments: Any, **options: Any) -> "TTEmbeddingBagCollection":
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]  # torch has no annotations here
        self._anchor = torch.empty(0, requires_grad=True)
        return self


def _table(name: str, bag: TTEmbeddingBag) -> Table:
    return Table(
        name=name,
        cores=bag.cores,
        states=bag.states,
        control=bag.control if bag.optimizer is not None else None,
        mode=tt_bag.MODES.index(bag.mode),
        n_rows=bag.num_embeddings,
        padding=-1 if bag.padding_idx is None else bag.padding_idx,
        by_frequency=bag.scale_grad_by_freq,
        rule=RULES[type(bag.optimizer)],
        allows_stale=bag.stale == "allow",
        store=tt_bag.STORES.index(bag.store),
    )
