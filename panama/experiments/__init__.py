"""Experiments on PANAMA."""

from common.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="panama_line_rate",
        module="panama.experiments.line_rate",
        claims=("panama.abstract.line_rate",),
    ),
    Experiment(
        name="panama_area",
        module="panama.experiments.area",
        claims=("panama.tab.fpga_area", "panama.ours.area_linear", "panama.ours.adder_mhz"),
    ),
)
