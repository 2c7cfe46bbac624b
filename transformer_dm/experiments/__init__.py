"""Experiments on data movement in transformer training."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="transformer_dm_flops",
        module="transformer_dm.experiments.flops",
        claims=(
            "transformer_dm.tab.flop_share",
            "transformer_dm.tab.flop_total",
            "transformer_dm.fig.flop_per_word",
            "transformer_dm.ours.torch_flop",
        ),
    ),
    Experiment(
        name="transformer_dm_movement",
        module="transformer_dm.experiments.movement",
        claims=(
            "transformer_dm.abstract.movement_reduction",
            "transformer_dm.tab.fused_kernels",
            "transformer_dm.ours.movement_reduction",
        ),
    ),
)
