"""Experiments on the learned cost model."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="costmodel_noise",
        module="costmodel.experiments.noise",
        claims=(
            "costmodel.ours.noise_mape",
            "costmodel.ours.noise_median",
            "costmodel.ours.noise_clock",
            "costmodel.ours.noise_covered",
        ),
    ),
    Experiment(
        name="costmodel_throughput",
        module="costmodel.experiments.throughput",
        claims=("costmodel.ours.batched_throughput",),
    ),
)
