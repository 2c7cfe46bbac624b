"""Which operators share a kernel: a greedy planner over the operators' loops (sec. on fusion).

Nothing here knows the encoder layer. A rule looks at the dimensions an operator runs over in
parallel and those it reduces, and at who reads what; names are put on the kernels afterwards.

The paper's rule. Two operators that are no contractions fit when they loop over the same
dimensions, and all that reduce agree on what they keep. So a map and a row-wise reduction fit, in
either order (two passes over a cached row), and a map and a sum over rows fit.

Why a layer's backward normalisation is two kernels under this rule, BSB and BLNRD, though they
read the same two tensors: the gradients of scale and shift keep the embedding i and sum over the
rows b, j; the gradient of the input keeps the rows and sums over i. Whichever of them a kernel
runs in parallel, the other's sums cross its threads. With a private partial sum for each thread
(PARTIAL_SUMS in the rules of `ours`) that obstacle is gone, and both are one pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import networkx as nx

from transformer_dm.graph import DataflowGraph, Op, Tensor
from transformer_dm.volume import Convention, Traffic, convention, rows, traffic, words

__all__ = [
    "FLASH",
    "KERNEL_NAMES",
    "OURS",
    "PAPER",
    "PLANS",
    "FusionError",
    "FusionPlan",
    "Kernel",
    "Rules",
    "named_plan",
    "plan",
    "plan_from_groups",
    "unfused",
]


class FusionError(ValueError):
    """Operators that cannot be one kernel; the message has the path that leaves and re-enters."""


@attrs.frozen
class Rules:
    """What the planner may do beyond joining operators of the same loops.

    pair_reductions: two kernels with the same loops and the same sums that read from one kernel
                     run as one: no word is saved, a launch is
    recompute_bias:  a sum with a bias that only waits for another kernel is added again there
    partial_sums:    a sum over rows whose result no operator of the kernel waits for joins a
                     kernel over rows, with a partial sum for each thread
    epilogue:        biases and sums that directly follow a contraction run on its result
    flash:           attention in one kernel a direction; its scores are never in memory
    mask_bits:       a mask takes one bit an element, whatever the convention stores
    """

    pair_reductions: bool = True
    recompute_bias: bool = True
    partial_sums: bool = False
    epilogue: bool = False
    flash: bool = False
    mask_bits: bool = False


PAPER = Rules()
OURS = Rules(partial_sums=True, epilogue=True, mask_bits=True)
FLASH = attrs.evolve(OURS, flash=True)
PLANS: Mapping[str, Rules] = {"paper": PAPER, "ours": OURS, "flash": FLASH}

#: The paper's names of its kernels, by the operators of encoder_graph they are made of. Used only
#: to label what the planner found. A scale belongs to the softmax it feeds; the authors give it to
#: the contraction before, which moves the same words.
KERNEL_NAMES: Mapping[frozenset[str], str] = {
    frozenset(members): name
    for name, *members in (
        ("AIB", "input bias"),
        ("SM", "scale", "softmax", "attention dropout"),
        ("BDRLN", "out bias", "out dropout", "residual 1", "layernorm 1"),
        ("BDRLN", "linear 2 bias", "linear 2 dropout", "residual 2", "layernorm 2"),
        ("BRD", "linear 1 bias", "relu", "activation dropout"),
        ("BSB", "layernorm 2 dW"),
        ("BLNRD", "layernorm 2 dX", "linear 2 dropout dX"),
        ("BLNRD", "layernorm 1 dX", "out dropout dX"),
        ("BDRB", "activation dropout dX", "relu dX", "linear 1 bias gradient"),
        ("EBSB", "linear 2 bias gradient", "y1 fan-in", "layernorm 1 dW"),
        ("BAOB", "out bias gradient"),
        ("BS", "attention dropout dX", "softmax dX", "scale dX"),
        ("BAIB", "input bias gradient"),
        ("BEI", "x fan-in"),
    )
}


@attrs.frozen
class Kernel:
    """Operators that run as one, and what they move between memory and themselves."""

    name: str
    ops: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@attrs.frozen
class FusionPlan:
    """Every operator of a graph in one kernel, in an order that can run.

    saved:      what waits in memory between forward and backward; parameters are there anyway
    recomputed: what the graph saves and the plan makes again
    extra:      tensors of the plan that the graph has not
    extra_flop: arithmetic of making again what is recomputed
    """

    kernels: tuple[Kernel, ...]
    saved: tuple[str, ...]
    recomputed: tuple[str, ...]
    extra: tuple[Tensor, ...]
    extra_flop: int
    has_mask_bits: bool
    graph: DataflowGraph = attrs.field(repr=False, eq=False)

    def kernel_of(self, op: str) -> Kernel:
        """The kernel that runs an operator; KeyError if there is none."""
        for kernel in self.kernels:
            if op in kernel.ops:
                return kernel
        raise KeyError(op)

    def tensor(self, name: str) -> Tensor:
        """A tensor of the plan or of its graph."""
        own = {tensor.name: tensor for tensor in self.extra}
        return own.get(name) or self.graph.tensor(name)

    def kernel_words(self, kernel: Kernel, by: Convention) -> tuple[float, float]:
        """Words the kernel reads and writes."""
        size = by.mask_words("bit" if self.has_mask_bits else None)
        read, written = (
            words(self.graph, map(self.tensor, names), size)
            for names in (kernel.reads, kernel.writes)
        )
        return read, written

    def words(self, by: Convention | str = "paper", *, contractions: bool = True) -> float:
        """Words that all kernels move; without those that hold a contraction if told so."""
        counted = convention(by) if isinstance(by, str) else by
        return sum(
            sum(self.kernel_words(kernel, counted))
            for kernel in self.kernels
            if contractions or not self.has_contraction(kernel)
        )

    def saved_words(self, by: Convention | str = "bytes") -> float:
        """Words that wait between forward and backward."""
        counted = convention(by) if isinstance(by, str) else by
        size = counted.mask_words("bit" if self.has_mask_bits else None)
        return words(self.graph, map(self.tensor, self.saved), size)

    def has_contraction(self, kernel: Kernel) -> bool:
        """Whether one of its operators is a contraction."""
        return any(self.graph.op(op).einsum is not None for op in kernel.ops)


def named_plan(graph: DataflowGraph, name: str) -> FusionPlan:
    """The plan `paper`, `ours` or `flash` of a graph; ValueError for another name."""
    if name not in PLANS:
        raise ValueError(f"plan must be one of {', '.join(PLANS)}, got '{name}'")
    return plan(graph, PLANS[name])


def unfused(graph: DataflowGraph, by: Convention | str = "framework+scale") -> FusionPlan:
    """A kernel for every row of a convention: what the plans are measured against."""
    counted = convention(by) if isinstance(by, str) else by
    return plan_from_groups(graph, [row.ops for row in rows(graph, counted)])


def plan_from_groups(
    graph: DataflowGraph, groups: Iterable[Iterable[str]], rules: Rules | None = None
) -> FusionPlan:
    """The plan with exactly these kernels; operators that are in none get one of their own.

    Of the rules those on what is stored hold: recompute_bias (not unless told), mask_bits, flash.
    Raises FusionError for an operator that stands in two groups or does not exist, for a group
    that a path leaves and re-enters, and for groups that wait for each other.
    """
    leader: dict[str, str] = {}
    for group in groups:
        members = list(group)
        for name in members:
            if name in leader:
                raise FusionError(f"operator '{name}' stands in two groups")
            leader[name] = members[0]
    known = {op.name for op in graph.ops()}
    for name in leader:
        if name not in known:
            raise FusionError(f"there is no operator '{name}'")
    kernels = _Kernels(graph, leader)
    own = rules or Rules(recompute_bias=False)
    if own.flash:
        _join_attention(kernels)
    kernels.require_convex()
    return _finish(kernels, own)


def plan(graph: DataflowGraph, rules: Rules = PAPER) -> FusionPlan:
    """Join kernels greedily, the pair that saves most words first, earlier operators on a tie."""
    kernels = _Kernels(graph)
    if rules.flash:
        _join_attention(kernels)
    _join_by_loops(kernels, rules)
    if rules.pair_reductions:
        _pair_reductions(kernels, rules)
    if rules.epilogue:
        _join_epilogues(kernels)
    return _finish(kernels, rules)


class _Kernels:
    """A partition of a graph's operators under construction, and which parts may be joined.

    A kernel is called by its head, one of its operators.
    """

    def __init__(self, graph: DataflowGraph, leader: Mapping[str, str] | None = None) -> None:
        self.graph = graph
        self.order = {op.name: number for number, op in enumerate(graph.ops())}
        self.before = graph.dependencies()
        self.leader = {name: (leader or {}).get(name, name) for name in self.order}
        self._members: dict[str, list[str]] = {}
        for name in self.order:
            self._members.setdefault(self.leader[name], []).append(name)
        #: Head of a fused attention -> its direction.
        self.attention: dict[str, str] = {}
        self._traffic: dict[tuple[str, ...], Traffic] = {}
        self._after: dict[str, set[str]] = {}

    def members(self, head: str) -> list[str]:
        """Its operators in topological order."""
        return self._members[head]

    def heads(self) -> list[str]:
        """All kernels, by their first operators."""
        return list(dict.fromkeys(self.leader[name] for name in self.order))

    def ops(self, head: str) -> list[Op]:
        return [self.graph.op(name) for name in self._members[head]]

    def place(self, head: str) -> int:
        """Where its first operator stands; what runs outside the graph, at a seam, is no kernel."""
        return self.order[self._members[head][0]] if head in self._members else len(self.order)

    def is_plain(self, head: str) -> bool:
        """Holds no contraction."""
        return all(op.einsum is None for op in self.ops(head))

    def traffic(self, *heads: str) -> Traffic:
        """What these kernels move when they run as one."""
        members = tuple(itertools.chain.from_iterable(self._members[head] for head in heads))
        if members not in self._traffic:
            self._traffic[members] = traffic(self.graph, members)
        return self._traffic[members]

    def moved(self, *heads: str) -> float:
        found = self.traffic(*heads)
        names = (*found.reads, *found.writes)
        return sum(t.dtype_words * self.graph.elements(t) for t in map(self.graph.tensor, names))

    def gain(self, one: str, other: str) -> float:
        """Words that joining two kernels saves."""
        return self.moved(one) + self.moved(other) - self.moved(one, other)

    def touching(self) -> list[tuple[str, str]]:
        """Pairs of kernels joined by an edge or reading the same tensor, in topological order."""
        pairs: set[tuple[int, int, str, str]] = set()
        for tensor in self.graph.tensors():
            source = self.graph.producer(tensor.name)
            near = [op.name for op in self.graph.consumers(tensor.name)]
            near += [source.name] if source is not None else []
            heads = sorted({self.leader[name] for name in near}, key=self.place)
            for one, other in itertools.combinations(heads, 2):
                pairs.add((self.place(one), self.place(other), one, other))
        return [(one, other) for _, _, one, other in sorted(pairs)]

    def quotient(self) -> Any:
        """Which kernel must run before which."""
        graph = nx.DiGraph()
        graph.add_nodes_from(self.heads())
        for source, target in self.before.edges:
            ends = self.leader.get(source, source), self.leader.get(target, target)
            if ends[0] != ends[1]:
                graph.add_edge(*ends)
        return graph

    def is_convex(self, one: str, other: str) -> bool:
        """Whether no path from one kernel to the other passes through a third."""
        if not self._after:
            graph = self.quotient()
            self._after = {node: nx.descendants(graph, node) for node in graph}
        for source, target in ((one, other), (other, one)):
            between = self._after[source] - {target}
            if any(target in self._after[node] for node in between):
                return False
        return True

    def join(self, one: str, other: str) -> None:
        """Make one kernel of two, called by the first."""
        merged = [*self._members[one], *self._members.pop(other)]
        self._members[one] = sorted(merged, key=self.order.__getitem__)
        self.leader.update(dict.fromkeys(merged, one))
        self._after = {}

    def require_convex(self) -> None:
        for head in self.heads():
            group = set(self.members(head))
            outside = self.before.subgraph(set(self.before) - group)
            edges = self.before.edges
            leaving = [(a, b) for a, b in edges if a in group and b not in group]
            entering = [(a, b) for a, b in edges if a not in group and b in group]
            for (start, step), (last, end) in itertools.product(leaving, entering):
                if nx.has_path(outside, step, last):
                    path = [start, *nx.shortest_path(outside, step, last), end]
                    raise FusionError(
                        f"group {', '.join(sorted(group, key=self.order.__getitem__))} is not "
                        f"convex: {' -> '.join(path)} leaves it and re-enters"
                    )
        cycles = self.quotient()
        if not nx.is_directed_acyclic_graph(cycles):
            around = [source for source, _ in nx.find_cycle(cycles)]
            names = "; ".join(" + ".join(self.members(head)) for head in around)
            raise FusionError(f"groups wait for each other: {names}")


def _fits(ops: Sequence[Op], graph: DataflowGraph, rules: Rules) -> bool:
    """Whether operators may share loops: equal dimensions, and one set kept by all that reduce."""
    names = {op.name for op in ops}
    reducing = [op for op in ops if op.reduced]
    if rules.partial_sums:
        reducing = [op for op in reducing if not _is_last(op, names, graph)]
    return len({op.space for op in ops}) == 1 and len({op.independent for op in reducing}) <= 1


def _is_last(op: Op, names: set[str], graph: DataflowGraph) -> bool:
    """Whether it is a sum, with no map behind it, whose result nobody in the kernel waits for."""
    results = [graph.tensor(name) for name in graph.writes(op)]
    is_sum = bool(op.reduced) and all(set(t.dims) <= op.independent for t in results)
    return is_sum and not any(
        reader.name in names for t in results for reader in graph.consumers(t.name)
    )


def _join_by_loops(kernels: _Kernels, rules: Rules) -> None:
    while True:
        best: tuple[float, str, str] | None = None
        for one, other in kernels.touching():
            if not _may_join(kernels, rules, one, other):
                continue
            gain = kernels.gain(one, other)
            if gain > (best[0] if best else 0) and kernels.is_convex(one, other):
                best = (gain, one, other)
        if best is None:
            return
        kernels.join(best[1], best[2])


def _may_join(kernels: _Kernels, rules: Rules, one: str, other: str) -> bool:
    if kernels.is_plain(one) and kernels.is_plain(other):
        return _fits([*kernels.ops(one), *kernels.ops(other)], kernels.graph, rules)
    # A fused attention may sum up what it writes: it holds the rows it sums.
    for head, sums in ((one, other), (other, one)):
        if head in kernels.attention and kernels.is_plain(sums) and rules.partial_sums:
            names = set(kernels.members(sums))
            are_sums = all(_is_last(op, names, kernels.graph) for op in kernels.ops(sums))
            own = set(kernels.traffic(head).writes)
            return are_sums and set(kernels.traffic(sums).reads) <= own
    return False


def _pair_reductions(kernels: _Kernels, rules: Rules) -> None:
    """Join sums over the same loops that read from one kernel, in topological order."""
    joined = True
    while joined:
        joined = False
        for one, other in itertools.combinations(kernels.heads(), 2):
            if not (kernels.is_plain(one) and kernels.is_plain(other)):
                continue
            ops = [*kernels.ops(one), *kernels.ops(other)]
            sums = [{op.independent for op in kernels.ops(h) if op.reduced} for h in (one, other)]
            if (
                sums[0]
                and sums[0] == sums[1]
                and _fits(ops, kernels.graph, rules)
                and _sources(kernels, one) & _sources(kernels, other)
                and kernels.gain(one, other) >= 0
                and kernels.is_convex(one, other)
            ):
                kernels.join(one, other)
                joined = True
                break


def _sources(kernels: _Kernels, head: str) -> set[str]:
    """Kernels without a contraction that it reads from."""
    made_by = (kernels.graph.producer(name) for name in kernels.traffic(head).reads)
    heads = {kernels.leader[op.name] for op in made_by if op is not None}
    return {head for head in heads if kernels.is_plain(head)}


def _join_epilogues(kernels: _Kernels) -> None:
    """Give biases and sums to the contraction they follow: its library adds both on the way out."""
    for head in kernels.heads():
        ops = kernels.ops(head)
        if not all(op.kind in ("bias", "residual") for op in ops):
            continue
        read = set(kernels.traffic(head).reads)
        for source in kernels.graph.ops():
            own = kernels.leader[source.name]
            if source.einsum is None or len(kernels.members(own)) > 1 or own == head:
                continue
            follows = bool(read & set(kernels.graph.writes(source)))
            same = all(op.space == source.independent for op in ops)
            if follows and same and kernels.is_convex(own, head) and kernels.gain(own, head) > 0:
                kernels.join(own, head)
                break


def _join_attention(kernels: _Kernels) -> None:
    """Join, in each direction, all operators that touch a tensor shaped like the softmax's."""
    graph = kernels.graph
    shapes = {op.space for op in graph.ops() if op.kind == "softmax"}
    scores = {t.name for t in graph.tensors() if frozenset(t.dims) in shapes}
    for stage in ("fwd", "bwd"):
        touching = [
            op.name
            for op in graph.ops()
            if op.stage == stage and scores & {*graph.reads(op), *graph.writes(op)}
        ]
        heads = list(dict.fromkeys(kernels.leader[name] for name in touching))
        for head in heads[1:]:
            kernels.join(heads[0], head)
        if heads:
            kernels.attention[heads[0]] = stage
    kernels.require_convex()


def _finish(kernels: _Kernels, rules: Rules) -> FusionPlan:
    graph = kernels.graph
    recomputed = _recomputed_biases(kernels) if rules.recompute_bias else []
    sorted_heads = nx.lexicographical_topological_sort(kernels.quotient(), key=kernels.place)
    order = [head for head in sorted_heads if head in kernels.leader]
    found = {head: traffic(graph, kernels.members(head), recomputed) for head in order}
    extra: list[Tensor] = []
    extra_flop = sum(graph.flop(op) for op in map(graph.producer, recomputed) if op is not None)
    if len(kernels.attention) == 2:
        again, statistic, work = _recompute_scores(kernels, found)
        recomputed += again
        extra.append(statistic)
        extra_flop += work
    made = []
    for head in order:
        members = kernels.members(head)
        reads, writes = found[head].reads, found[head].writes
        made.append(Kernel(_name(members), tuple(members), reads, writes))
    return FusionPlan(
        kernels=tuple(made),
        saved=_saved(graph, made),
        recomputed=tuple(recomputed),
        extra=tuple(extra),
        extra_flop=extra_flop,
        has_mask_bits=rules.mask_bits,
        graph=graph,
    )


def _name(members: list[str]) -> str:
    return KERNEL_NAMES.get(frozenset(members), " + ".join(members))


def _recomputed_biases(kernels: _Kernels) -> list[str]:
    """Sums with a bias that only kernels without contraction read, outside the one that adds."""
    graph = kernels.graph
    found = []
    for op in graph.ops():
        own = kernels.leader[op.name]
        if op.kind != "bias" or not kernels.is_plain(own):
            continue
        for name in set(graph.writes(op)) - graph.outputs:
            readers = {kernels.leader[reader.name] for reader in graph.consumers(name)} - {own}
            # What is added again must be in memory without this.
            source = graph.producer(op.inputs[0])
            stays = source is None or kernels.leader[source.name] != own
            if readers and stays and all(map(kernels.is_plain, readers)):
                found.append(name)
    return found


def _recompute_scores(
    kernels: _Kernels, found: dict[str, Traffic]
) -> tuple[list[str], Tensor, int]:
    """Let the backward attention make the scores again from what the forward one reads.

    It needs the logarithm of each row's sum of exponentials, and the forward result, since the
    softmax's row sum of y * d_y is that of the heads times their gradient. Changes `found`; returns
    what is made again, the tensor of logarithms, and the arithmetic of making it.
    """
    graph = kernels.graph
    heads = {stage: head for head, stage in kernels.attention.items()}
    forward, backward = found[heads["fwd"]], found[heads["bwd"]]
    again = [name for name in forward.writes if name in backward.reads]
    softmax = next(op for op in kernels.ops(heads["fwd"]) if op.kind == "softmax")
    statistic = Tensor("lse", tuple(sorted(softmax.independent)))
    written = [name for name in forward.writes if name not in again]
    needed = [name for name in backward.reads if name not in again]
    needed += [name for name in (*forward.reads, *written) if name not in needed]
    found[heads["fwd"]] = Traffic(forward.reads, (*written, "lse"))
    found[heads["bwd"]] = Traffic((*needed, "lse"), backward.writes)
    last = {name for op in kernels.ops(heads["fwd"]) for name in graph.writes(op)} & set(written)
    work = sum(
        graph.flop(op) for op in kernels.ops(heads["fwd"]) if not last & set(graph.writes(op))
    )
    return again, statistic, work


def _saved(graph: DataflowGraph, kernels: Sequence[Kernel]) -> tuple[str, ...]:
    stages = [(kernel, graph.op(kernel.ops[0]).stage) for kernel in kernels]
    ahead = {name for kernel, stage in stages if stage == "fwd" for name in kernel.writes}
    inputs = {t.name for t in graph.tensors() if graph.producer(t.name) is None}
    inputs -= {*graph.seams} | {t.name for t in graph.tensors() if t.role == "parameter"}
    later = [name for kernel, stage in stages if stage == "bwd" for name in kernel.reads]
    return tuple(dict.fromkeys(name for name in later if name in ahead | inputs))
