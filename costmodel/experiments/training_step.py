"""What a step of training takes with loops of all trees batched by height (section on the model).

The peers compute the same gradient: the recursion as the paper writes it, tree by tree, and the
authors' batches, which hold trees of one shape each.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.features import Tree
    from costmodel.model import CostModel

OURS, BY_SHAPE, BY_TREE = "batched by height", "batches of one shape", "tree by tree"
CLAIMS = {BY_TREE: "costmodel.ours.training_step", BY_SHAPE: None}


@attrs.frozen
class Settings:
    """batch: trees of a step;  schedules: of each random program among them

    halfwidth, max_seconds: of the comparison
    """

    batch: int = attrs.field(validator=ge(2))
    schedules: int = attrs.field(validator=ge(1))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """The ratio of times of one step, loss and gradient, over each peer."""
    import torch

    from costmodel.checkpoints import THREE_FIT
    from costmodel.model import CostModel

    trees = random_trees(settings.batch, settings.schedules, ctx.seed)
    torch.manual_seed(ctx.seed)
    # Without dropout all three compute the same.
    model = CostModel(attrs.evolve(THREE_FIT, dropout=0.0))
    model.fit_scaling(trees)
    calls = steps(model, trees)
    ctx.log.info("%d trees of %d shapes", len(trees), len({tree.shape for tree in trees}))
    for peer, claim in CLAIMS.items():
        ctx.compare(
            "speedup",
            {OURS: calls[OURS], peer: calls[peer]},
            baseline=peer,
            verify=lambda found, wanted: torch.testing.assert_close(
                found, wanted, rtol=1e-4, atol=1e-5
            ),
            claim=claim,
            subject=OURS,
            halfwidth=settings.halfwidth,
            max_seconds=settings.max_seconds,
            peer=peer,
            batch=settings.batch,
        )


def random_trees(n: int, schedules: int, seed: int) -> list[Tree]:
    """Trees of random programs of which each has so many random schedules."""
    return list(itertools.islice(_every_tree(schedules, seed), n))


def _every_tree(schedules: int, seed: int) -> Iterator[Tree]:
    from costmodel.errors import UnsupportedProgram
    from costmodel.features import featurize
    from costmodel.random_programs import random_program
    from costmodel.random_schedules import random_schedule
    from costmodel.schedule import apply

    for number in itertools.count():
        program = random_program([seed, number], "small")
        for draw in range(schedules):
            scheduled = apply(program, random_schedule(program, [seed, number, draw]))
            with contextlib.suppress(UnsupportedProgram):
                yield featurize(scheduled, "compact")


def steps(model: CostModel, trees: list[Tree]) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """For each way, a call that gives the loss and the length of its gradient."""
    import numpy as np
    import torch

    from costmodel.losses import log_error
    from costmodel.tree_batch import Forest

    forest = Forest.of(trees)
    groups: dict[object, list[int]] = {}
    for number, tree in enumerate(trees):
        groups.setdefault(tree.shape, []).append(number)
    shapes = [np.array(group) for group in groups.values()]
    order = torch.from_numpy(np.argsort(np.concatenate(shapes)))
    everything = np.arange(len(trees))
    measured = torch.linspace(0.5, 2.0, len(trees))

    def step(predicted: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        def call() -> tuple[Tensor, Tensor]:
            model.zero_grad(set_to_none=True)
            loss = log_error(predicted(), measured)
            torch.autograd.backward(loss)
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            return loss.detach(), torch.nn.utils.get_total_norm(gradients)

        return call

    return {
        OURS: step(lambda: model(forest.pick(everything).batch())),
        BY_SHAPE: step(
            lambda: torch.cat([model(forest.pick(group).batch()) for group in shapes])[order]
        ),
        BY_TREE: step(lambda: torch.stack([model.recursive(tree) for tree in trees])),
    }


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Speedup over each peer."""
    from common.report.charts import bars

    return [
        bars(
            frame[frame["metric"] == "speedup"],
            "axis.peer",
            "A step of training, all trees batched by height",
            "Loss and gradient of the same trees, speedup over the peer named.",
            y_title="speedup",
        )
    ]
