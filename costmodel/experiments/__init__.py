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
        name="costmodel_accuracy",
        module="costmodel.experiments.accuracy",
        claims=(
            "costmodel.abstract.mape",
            "costmodel.sec.pearson",
            "costmodel.sec.spearman",
            "costmodel.sec.recursive_over_flat_lstm",
            "costmodel.sec.recursive_over_feed_forward",
            "costmodel.sec.notebook_mape_validation",
            "costmodel.sec.notebook_mape_over_5ms",
            "costmodel.sec.notebook_spearman_per_program",
            "costmodel.sec.notebook_ndcg",
            "costmodel.sec.notebook_ndcg_at_1",
            "costmodel.ours.test_mape",
            "costmodel.ours.spearman_per_program",
            "costmodel.ours.mape_of_constant",
            "costmodel.ours.recursive_over_constant",
            "costmodel.ours.no_leak",
        ),
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
