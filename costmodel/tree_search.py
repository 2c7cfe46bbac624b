"""Monte Carlo tree search over schedules (paper, section on the search).

A node is a schedule after some decisions, its children are the decisions of the next kind for the
next statement, to change nothing among them. Children are scored together when a node is first
reached, and the score counts as a first visit. From the root down to where the tree was known, a
sample follows the child of the greatest upper confidence bound (UCT; Kocsis and Szepesvari 2006);
from there on children are drawn with probability proportional to their scores. What the leaf is
worth is added to all nodes it was reached by. Leaves are not visited twice, so that with enough
samples every schedule is tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from costmodel.errors import ScheduleError
from costmodel.ir import Program
from costmodel.schedule import Schedule, ScheduledProgram
from costmodel.search import (
    Candidates,
    Evaluator,
    Found,
    Key,
    Tried,
    by_nest,
    by_text,
    evaluated,
    evenly,
    extended,
    levels,
    worse,
)
from costmodel.space import KINDS, Space

#: Weight of what was seldom tried, the square root of 2 of UCT for rewards between 0 and 1.
EXPLORATION = math.sqrt(2)


@attrs.define(eq=False)
class Node:
    """A schedule with decisions still to come, from number `place` on.

    children: None until the node is reached
    visits:   samples through it; total: the sum of their leaves' speedups
    is_done:  every leaf below was visited
    """

    tried: Tried
    place: int
    children: list[Node] | None = None
    visits: int = 0
    total: float = 0.0
    is_done: bool = False

    @property
    def open(self) -> list[Node]:
        return [child for child in self.children or () if not child.is_done]

    def bound(self, visits: int, best: float) -> float:
        """Upper confidence bound, speedups relative to the best so far.

        visits: samples through the parent
        """
        n = 1 + self.visits
        mean = (self.tried.speedup + self.total) / n
        return mean / best + EXPLORATION * math.sqrt(math.log(1 + visits) / n)


def mcts(
    program: Program,
    evaluate: Evaluator,
    execute: Evaluator | None = None,
    *,
    samples: int = 100,
    topk: int = 5,
    space: Space = "extended",
    limit: int = 64,
    seed: int = 0,
    reassociate: bool | None = None,
    key: Key = by_nest,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Follow `samples` paths of decisions, then run the `topk` best schedules in one batch.

    execute: measures; the best is then the fastest measured, the program as it is written among
             them. None runs nothing, and the best is the one of the highest score
    limit:   children a node, evenly taken from all
    stop, report: before and after each sample
    """
    if samples < 0 or topk < 1:
        raise ValueError(f"samples must be at least 0 and topk at least 1, got {samples}, {topk}")
    search = _Search(program, evaluate, space, limit, reassociate, key, seed)
    for _ in range(samples):
        if search.root.is_done or stop():
            break
        search.sample()
        report(search.found)
    if execute is not None:
        search.found.measured = run_best(search.found, execute, topk)
    return search.found


def run_best(found: Found, execute: Evaluator, topk: int) -> list[Tried]:
    """The program as it is written, and the best with different C, as measured in one batch."""
    plain = found.tried[0].scheduled
    chosen: list[ScheduledProgram] = []
    texts = {by_text(plain)}
    for tried in sorted(found.tried, key=worse):
        if len(chosen) == topk:
            break
        try:
            text = by_text(tried.scheduled)
        except ScheduleError:
            continue
        if tried.speedup > 0 and text not in texts:
            texts.add(text)
            chosen.append(tried.scheduled)
    return [Tried(plain, 1.0), *evaluated(execute, chosen)]


class _Search:
    """The tree, the schedules found so far, and the source of chance."""

    def __init__(
        self,
        program: Program,
        evaluate: Evaluator,
        space: Space,
        limit: int,
        reassociate: bool | None,
        key: Key,
        seed: int,
    ) -> None:
        self.evaluate, self.limit = evaluate, limit
        self.decisions = list(levels(program, KINDS[space]))
        self.candidates = Candidates(program, reassociate, key)
        plain = evaluated(evaluate, list(self.candidates.legal([[Schedule()]])))
        self.found = Found(plain)
        self.best = plain[0].speedup
        self.root = Node(plain[0], 0)
        self.rng = np.random.default_rng(seed)

    def sample(self) -> None:
        """One path from the root to a leaf that was not visited before."""
        path = [self.root]
        is_known = True
        while path[-1].place < len(self.decisions):
            at = path[-1]
            is_known = is_known and at.children is not None
            if at.children is None:
                self.expand(at)
            path.append(self.followed(at) if is_known else self.drawn(at.open))
        path[-1].is_done = True
        for node in reversed(path):
            node.visits += 1
            node.total += path[-1].tried.speedup
            node.is_done = node.is_done or not node.open

    def expand(self, node: Node) -> None:
        """Score the children together. Decisions that have no option are passed over."""
        new: list[Tried] = []
        place = node.place
        while not new and place < len(self.decisions):
            options = list(extended(node.tried.scheduled, *self.decisions[place]))
            legal = list(self.candidates.legal(evenly(options, self.limit)))
            new = evaluated(self.evaluate, legal)
            place += 1
        self.found.tried += new
        self.best = max([self.best, *(tried.speedup for tried in new)])
        node.children = [Node(tried, place) for tried in (node.tried, *new)]

    def followed(self, node: Node) -> Node:
        """The child of the greatest bound; of equals the first."""
        return max(node.open, key=lambda child: child.bound(node.visits, self.best))

    def drawn(self, nodes: Sequence[Node]) -> Node:
        """One by chance, in proportion to its score."""
        weights = np.array([max(node.tried.speedup, 1e-6) for node in nodes])
        return nodes[self.rng.choice(len(nodes), p=weights / weights.sum())]
