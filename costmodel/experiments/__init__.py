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
    Experiment(
        name="costmodel_legality",
        module="costmodel.experiments.legality",
        claims=("costmodel.ours.legality_ms", "costmodel.ours.codegen_ms"),
    ),
    Experiment(
        name="costmodel_polybench",
        module="costmodel.experiments.polybench",
        claims=(
            "costmodel.ours.polybench_gcc",
            "costmodel.ours.polybench_isl",
            "costmodel.ours.polybench_polly",
            "costmodel.ours.blur_halide",
            "costmodel.ours.matmul_adams",
            "costmodel.ours.matmul_torch",
        ),
    ),
)
