"""Experiments on PANAMA."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="panama_fct",
        module="panama.experiments.fct",
        full_minutes=360,
        claims=(
            "panama.abstract.short_flow_fct_mean",
            "panama.abstract.short_flow_fct_p99_preliminary",
            "panama.abstract.short_flow_fct_p99",
            "panama.ours.short_mean",
            "panama.ours.short_tail",
        ),
    ),
    Experiment(
        name="panama_jct",
        module="panama.experiments.jct",
        full_minutes=1,
        claims=(
            "panama.abstract.training_time_preliminary",
            "panama.abstract.training_time",
            "panama.fig.training_workloads",
            "panama.ours.job_gain",
            "panama.ours.job_never_worse",
        ),
    ),
    Experiment(
        name="panama_trees",
        module="panama.experiments.trees",
        full_minutes=60,
        claims=("panama.sec.tree_balance", "panama.ours.trees_no_slower"),
    ),
    Experiment(
        name="panama_fair",
        module="panama.experiments.fair",
        full_minutes=1,
        claims=("panama.sec.fair_share", "panama.ours.low_queue"),
    ),
    Experiment(
        name="panama_ecn_mode",
        module="panama.experiments.ecn_mode",
        full_minutes=720,
        claims=("panama.ours.worst_over_or",),
    ),
    Experiment(
        name="panama_buffer",
        module="panama.experiments.buffer",
        full_minutes=3,
        claims=("panama.fig.buffer_size", "panama.ours.buffer_knee"),
    ),
    Experiment(
        name="panama_loss",
        module="panama.experiments.loss",
        full_minutes=3,
        claims=("panama.ours.loss_completes",),
    ),
    Experiment(
        name="panama_scale",
        module="panama.experiments.scale",
        full_minutes=5,
        claims=("panama.ours.scale",),
    ),
    Experiment(
        name="panama_ns3",
        module="panama.experiments.ns3",
        full_minutes=12,
        claims=(
            "panama.ours.ns3_fct_mean",
            "panama.ours.ns3_fct_p99",
            "panama.ours.ns3_speed",
        ),
    ),
    Experiment(
        name="panama_baselines",
        module="panama.experiments.baselines",
        full_minutes=2,
        claims=("panama.sec.traffic", "panama.ours.idle_bound"),
    ),
    Experiment(
        name="panama_line_rate",
        module="panama.experiments.line_rate",
        full_minutes=25,
        claims=("panama.abstract.line_rate",),
    ),
    Experiment(
        name="panama_area",
        module="panama.experiments.area",
        full_minutes=60,
        claims=("panama.tab.fpga_area", "panama.ours.area_linear", "panama.ours.adder_mhz"),
    ),
    Experiment(
        name="panama_accuracy",
        module="panama.experiments.accuracy",
        full_minutes=4,
        claims=("panama.abstract.accuracy", "panama.ours.hook_step"),
    ),
)
