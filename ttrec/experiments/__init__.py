"""Experiments on TT-Rec."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="ttrec_compression",
        module="ttrec.experiments.compression",
        full_minutes=5,
        claims=(
            "ttrec.abstract.kaggle_ratio",
            "ttrec.abstract.kaggle_ratio_arxiv",
            "ttrec.abstract.terabyte_ratio",
            "ttrec.tab.table_params",
            "ttrec.tab.table_ratio",
            "ttrec.fig.kaggle_ratio",
            "ttrec.fig.terabyte_ratio",
        ),
    ),
    Experiment(
        name="ttrec_kernels",
        module="ttrec.experiments.kernels",
        full_minutes=480,
        claims=(
            "ttrec.abstract.kernel_speedup",
            "ttrec.ours.t3nsor_143k",
            "ttrec.ours.t3nsor_2m",
            "ttrec.ours.torch_speedup",
            "ttrec.ours.torch_mean",
            "ttrec.ours.published_uniform",
            "ttrec.ours.published_zipf_4096",
            "ttrec.ours.published_zipf_10k",
            "ttrec.ours.published_forward",
            "ttrec.ours.published_is_strong",
            "ttrec.ours.peak_share",
            "ttrec.ours.peak_share_small",
            "ttrec.ours.fbgemm_d16_r16",
            "ttrec.ours.fbgemm_d16_r32",
            "ttrec.ours.fbgemm_d64_r16",
            "ttrec.ours.fbgemm_d64_r32",
        ),
    ),
    Experiment(
        name="ttrec_init_dist",
        module="ttrec.experiments.init_dist",
        full_minutes=45,
        claims=("ttrec.ours.init_ks_order", "ttrec.ours.init_variance"),
    ),
    Experiment(
        name="ttrec_pooling",
        module="ttrec.experiments.pooling",
        full_minutes=32,
        claims=("ttrec.fig.pooling_gap", "ttrec.ours.pooling_gain", "ttrec.sec.lookup_time"),
    ),
    Experiment(
        name="ttrec_reuse",
        module="ttrec.experiments.reuse",
        full_minutes=55,
        claims=("ttrec.ours.reuse_mechanism", "ttrec.ours.reuse_skew"),
    ),
    Experiment(
        name="ttrec_growth",
        module="ttrec.experiments.growth",
        full_minutes=10,
        claims=(
            "ttrec.ours.rows_time",
            "ttrec.ours.small_batches",
            "ttrec.ours.workspace",
            "ttrec.ours.init_seconds",
        ),
    ),
)
