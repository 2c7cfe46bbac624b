"""Experiments of the shared layer itself."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="common_noise",
        module="common.experiments.noise",
        full_minutes=40,
        claims=(
            "common.ours.noise_false_alarms",
            "common.ours.noise_power_105",
            "common.ours.noise_power_109",
            "common.ours.noise_seconds",
            "common.ours.noise_overhead",
            "common.ours.noise_separated",
        ),
    ),
    Experiment(
        name="common_native",
        module="common.experiments.native",
        full_minutes=5,
        claims=(
            "common.ours.checked_call_ratio",
            "common.ours.checked_call_us",
            "common.ours.registered_op_ratio",
            "common.ours.cache_hit_ms",
        ),
    ),
    Experiment(
        name="common_roofline",
        module="common.experiments.roofline",
        full_minutes=1,
        claims=("common.ours.roofline_peer_fraction",),
    ),
    Experiment(
        name="common_gemm",
        module="common.experiments.gemm",
        full_minutes=40,
        claims=(
            "common.ours.gemm_packed_fp32",
            "common.ours.gemm_plain_fp32",
            "common.ours.gemm_peak_fp32",
            "common.ours.gemm_packed_bf16",
            "common.ours.gemm_plain_bf16",
            "common.ours.gemm_peak_bf16",
        ),
    ),
)
