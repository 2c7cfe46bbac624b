"""The paper's recursive model of a program's speedup (its section on the model architecture).

A perceptron embeds each statement. At every loop one LSTM reads the statements directly inside,
another the loops directly inside, and a perceptron joins both with the loop's own vector. The
embedding of the root goes through a last perceptron to the speedup.

Speedups lie between 0.005 and 128, so the last number is their logarithm ("exp"); the paper cuts
the number itself off at 0 ("relu").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from costmodel.features import COMP_SIZES, LOOP_SIZE, Representation, Tree
from costmodel.predictor import Predictor
from costmodel.scaling import ScaledLinear, Scaling
from costmodel.tree_batch import Children, TreeBatch

Head = Literal["exp", "relu"]


def _widths(values: Iterable[int]) -> tuple[int, ...]:
    """A tuple again after a checkpoint made a list of it."""
    return tuple(values)


@attrs.frozen
class ModelConfig:
    """Sizes of the model; the defaults are those of the authors' code.

    comp_widths: hidden layers of the statements' perceptron;  embedding: of statements and loops
    merge_width, head_widths: hidden layers of the loops' and of the last perceptron
    """

    representation: Representation = "compact"
    comp_widths: tuple[int, ...] = attrs.field(default=(600, 350, 200), converter=_widths)
    embedding: int = 180
    merge_width: int = 200
    head_widths: tuple[int, ...] = attrs.field(default=(200, 180), converter=_widths)
    dropout: float = 0.112
    head: Head = "exp"


class CostModel(Predictor):
    """The recursive model, for trees of any shapes at once.

    forward(batch) -> (B,) speedups, all positive
    """

    kind = "recursive"
    shares_parts = True

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config or ModelConfig())
        c = self.config
        n = c.embedding
        self.scale_loops = Scaling(LOOP_SIZE)
        self.embed_comp = perceptron(
            (COMP_SIZES[c.representation], *c.comp_widths, n), c.dropout, last=True, scaled=True
        )
        self.comps_lstm = nn.LSTM(n, n, batch_first=True)
        self.loops_lstm = nn.LSTM(n, n, batch_first=True)
        # Stand for "no statement inside" and "no loop inside".
        self.no_comps = nn.Parameter(torch.zeros(n))
        self.no_loops = nn.Parameter(torch.zeros(n))
        self.merge = perceptron((2 * n + LOOP_SIZE, c.merge_width, n), c.dropout, last=True)
        self.head = perceptron((n, *c.head_widths, 1), c.dropout)
        for constant in (self.no_comps, self.no_loops):
            nn.init.normal_(constant, std=0.1)

    def forward(self, batch: TreeBatch) -> Tensor:
        comps = self.embed_comp(batch.comps)  # (C, n)
        loops = self.scale_loops(batch.loops)  # (L, 16)
        done = comps.new_empty(0, self.config.embedding)  # loops of lower heights, as computed
        for level in batch.levels:
            from_comps = _read(self.comps_lstm, self.no_comps, comps, level.comps, level.loops)
            from_loops = _read(self.loops_lstm, self.no_loops, done, level.inner, level.loops)
            joined = torch.cat([from_loops, from_comps, loops[level.loops]], dim=1)
            done = torch.cat([done, self.merge(joined)])
        return self.output(self.head(done[batch.roots]))

    def recursive(self, tree: Tree) -> Tensor:
        """The speedup of one tree as the paper writes it, loop by loop: the reference. ()"""
        device = self.no_comps.device
        comps = self.embed_comp(torch.from_numpy(tree.comps).to(device))
        loops = self.scale_loops(torch.from_numpy(tree.loops).to(device))

        def last_state(lstm: nn.LSTM, sequence: list[Tensor], nothing: Tensor) -> Tensor:
            if not sequence:
                return nothing
            outputs: Tensor = lstm(torch.stack(sequence)[None])[0]
            return outputs[0, -1]

        def embed(row: int) -> Tensor:
            inner = [embed(child) for child in tree.child_loops[row]]
            own = [comps[child] for child in tree.child_comps[row]]
            parts = (
                last_state(self.loops_lstm, inner, self.no_loops),
                last_state(self.comps_lstm, own, self.no_comps),
                loops[row],
            )
            merged: Tensor = self.merge(torch.cat(parts)[None])[0]
            return merged

        return self.output(self.head(embed(tree.root)[None]))[0]


def _read(
    lstm: nn.LSTM, nothing: Tensor, source: Tensor, children: Children | None, loops: Tensor
) -> Tensor:
    """(len(loops), n): the LSTM's last state over each loop's children, `nothing` without any.

    Step by step: most loops have one child, whose step needs no product with a state.
    """
    result = nothing.expand(len(loops), -1)
    if children is None:
        return result
    of_input, of_state, *biases = lstm.all_weights[0]
    bias = biases[0] + biases[1]
    state = cell = nothing.new_empty(0)
    for place, active in enumerate(children.active):
        inputs = source[children.index[:active, place]]
        gates = nn.functional.linear(inputs, of_input, bias)
        if place:
            gates = torch.addmm(gates, state[:active], of_state.T)
        enter, forget, new, leave = gates.chunk(4, dim=1)
        now = torch.sigmoid(enter) * torch.tanh(new)
        if place:
            now = now + torch.sigmoid(forget) * cell[:active]
        out = torch.sigmoid(leave) * torch.tanh(now)
        # The sequences that have ended are behind the others and keep their state.
        state, cell = (torch.cat([out, state[active:]]) if place else out), now
    return result.index_copy(0, children.rows, state)


def perceptron(
    sizes: Sequence[int], dropout: float, *, last: bool = False, scaled: bool = False
) -> nn.Sequential:
    """Linear layers with ELU and dropout between them.

    last: both behind the last layer too;  scaled: the first one scales what it reads
    """
    layers: list[nn.Module] = []
    for at, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        linear = ScaledLinear(n_in, n_out) if scaled and at == 0 else nn.Linear(n_in, n_out)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if last or at < len(sizes) - 2:
            layers += [nn.ELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
