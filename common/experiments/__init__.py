"""Experiments of the shared layer itself."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "common_noise",
        "common.experiments.noise",
        (
            "common.ours.noise_false_alarms",
            "common.ours.noise_power_105",
            "common.ours.noise_power_109",
            "common.ours.noise_seconds",
            "common.ours.noise_overhead",
            "common.ours.noise_separated",
        ),
    ),
    Experiment(
        "common_native",
        "common.experiments.native",
        (
            "common.ours.checked_call_ratio",
            "common.ours.checked_call_us",
            "common.ours.registered_op_ratio",
            "common.ours.cache_hit_ms",
        ),
    ),
    Experiment(
        "common_roofline",
        "common.experiments.roofline",
        ("common.ours.roofline_peer_fraction",),
    ),
    Experiment(
        "common_gemm",
        "common.experiments.gemm",
        (
            "common.ours.gemm_packed_fp32",
            "common.ours.gemm_plain_fp32",
            "common.ours.gemm_peak_fp32",
            "common.ours.gemm_packed_bf16",
            "common.ours.gemm_plain_bf16",
            "common.ours.gemm_peak_bf16",
        ),
    ),
)
