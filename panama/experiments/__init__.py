"""Experiments of this paper, as the runner finds them: none yet."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.experiment import Experiment

EXPERIMENTS: "tuple[Experiment, ...]" = ()
