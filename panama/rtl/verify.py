"""The whole switch in simulation: scenarios of section 7, test 9, and its rate per cycle."""

from __future__ import annotations

from typing import Any

import attrs

from panama.rtl.simulator import build, run
from panama.wire import FORMATS


@attrs.frozen
class Size:
    """How large a switch is built.

    ports, lanes: lanes are the 32-bit words of a beat that are added, 16 for all of them
    stages:       registers of one addition
    log_jobs, log_slots, log_buffer: log2 of the jobs, of the slots of a job, of the beats that the
                  bypass and relay buffers of a port hold
    beats:        payload beats that a frame may have
    """

    ports: int = 4
    lanes: int = 16
    fmt: str = "fp32"
    stages: int = 10
    log_jobs: int = 2
    log_slots: int = 5
    beats: int = 22
    log_buffer: int = 7

    def parameters(self) -> dict[str, int]:
        """Of the Verilog modules."""
        return {
            "P": self.ports, "L": self.lanes, "FMT": FORMATS[self.fmt].code,
            "FADD_STAGES": self.stages, "LOG_JOBS": self.log_jobs, "LOG_SLOTS": self.log_slots,
            "BEATS": self.beats, "LOG_BUFFER": self.log_buffer,
        }  # fmt: skip


@attrs.frozen
class LineRate:
    """Beats and cycles of the output from the end of the fill to the last beat."""

    beats: int
    cycles: int
    packets: int

    @property
    def beats_per_cycle(self) -> float:
        return self.beats / self.cycles


def play(
    scenario: str,
    size: Size,
    *,
    tool: str = "icarus",
    seed: int = 1,
    order_seed: int | None = None,
    pauses: float = 0.3,
    patience: int = 30_000,
    **more: object,
) -> dict[str, Any]:
    """Run a scenario of bench/switch.py; what it reports. RuntimeError says what went wrong.

    seed:       of what is sent;  order_seed: of the order and the pauses (None: as seed)
    pauses:     share of cycles in which a stream holds back
    patience:   cycles without what is waited for, after which the switch counts as wedged
    """
    told: dict[str, object] = {
        "scenario": scenario, "ports": size.ports, "words": size.lanes, "fmt": size.fmt,
        "log_slots": size.log_slots, "beats": size.beats, "pauses": pauses, "seed": seed,
        "order_seed": seed if order_seed is None else order_seed, "patience": patience, **more,
    }  # fmt: skip
    design = build("switch", size.parameters(), tool)
    return run(design, "panama.rtl.bench.switch", told)


def play_mixed(
    size: Size,
    *,
    jobs: int = 3,
    packets: int = 12,
    noise: float = 0.3,
    tool: str = "icarus",
    seed: int = 1,
    order_seed: int | None = None,
    pauses: float = 0.3,
) -> dict[str, Any]:
    """Random jobs among ordinary, malformed and repeated frames; beats checked and a digest.

    packets: of each job;  noise: odd frames for each sound one
    """
    return play(
        "mixed", size, tool=tool, seed=seed, order_seed=order_seed, pauses=pauses, jobs=jobs,
        packets=packets, noise=noise, patience=1000 * packets,
    )  # fmt: skip


def line_rate(
    ports: int,
    lanes: int,
    packets: int,
    tool: str = "icarus",
    *,
    jobs: int = 2,
    beats: int = 22,
    least: int = 1,
    stages: int = 10,
    fmt: str = "fp32",
    seed: int = 1,
) -> LineRate:
    """Beats a cycle at the output with every input sending without pause, every bit checked.

    packets: of each job; jobs take turns packet by packet
    least:   payload beats of the shortest packet, the longest has `beats`
    """
    log_jobs = max(2, (jobs - 1).bit_length())
    size = Size(ports, lanes, fmt, stages, log_jobs=log_jobs, beats=beats)
    seen = play(
        "line_rate", size, tool=tool, seed=seed, pauses=0.0, jobs=jobs, packets=packets,
        least=least, patience=20 * jobs * packets * beats + 5000,
    )  # fmt: skip
    return LineRate(int(seen["beats"]), int(seen["cycles"]), int(seen["packets"]))
