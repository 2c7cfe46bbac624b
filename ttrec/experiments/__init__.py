"""Experiments on TT-Rec."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="ttrec_compression",
        module="ttrec.experiments.compression",
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
        claims=("ttrec.abstract.kernel_speedup", "ttrec.ours.step_over_torch_bmm"),
    ),
    Experiment(
        name="ttrec_init_dist",
        module="ttrec.experiments.init_dist",
        claims=("ttrec.ours.init_ks_order", "ttrec.ours.init_variance"),
    ),
    Experiment(
        name="ttrec_pooling",
        module="ttrec.experiments.pooling",
        claims=("ttrec.fig.pooling_gap", "ttrec.ours.pooling_gain", "ttrec.sec.lookup_time"),
    ),
)
