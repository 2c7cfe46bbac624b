"""The streams and tables of a simulated switch, and frames to and from it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from panama.rtl.registers import Fate, JobEntry, Total


class Harness:
    """Drives one switch. All streams pause at random when `pauses` is above zero."""

    def __init__(self, dut: Any, ports: int, pauses: float, seed: int) -> None:
        import logging

        self.dut = dut
        self.ports = ports
        clock = (dut.clk, dut.rst)
        self.sources = [
            AxiStreamSource(AxiStreamBus.from_prefix(dut.g_port[i], "s_axis"), *clock)
            for i in range(ports)
        ]
        self.bypass = [
            AxiStreamSink(AxiStreamBus.from_prefix(dut.g_port[i], "bypass_axis"), *clock)
            for i in range(ports)
        ]
        self.sums = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), *clock)
        self.down = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_down_axis"), *clock)
        self.axil = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), *clock)
        self.streams = [*self.sources, *self.bypass, self.sums, self.down]
        for stream in [*self.streams, self.axil.write_if, self.axil.read_if]:
            stream.log.setLevel(logging.WARNING)
        self.sent: list[int] = [0] * ports
        if pauses:
            for number, stream in enumerate(self.streams):
                stream.set_pause_generator(_pauses(pauses, seed * 1000 + number))

    async def start(self, jobs: Iterable[JobEntry]) -> None:
        """Reset, then write the tables."""
        self.dut.rst.value = 1
        Clock(self.dut.clk, 10, unit="ns").start()
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 4)
        for number, job in enumerate(jobs):
            await self.set_job(number, job)

    async def set_job(self, number: int, job: JobEntry) -> None:
        """Switch an entry off, fill it, switch it on."""
        await self.axil.write_dword(0x200 * number, 0)
        for word, value in job.words().items():
            await self.axil.write_dword(0x200 * number + 4 * word, value)

    def send(self, port: int, frame: bytes, damaged: bool = False) -> None:
        """Queue a frame on a port."""
        user = [0] * (len(frame) - 1) + [1] if damaged else None
        self.sent[port] += 1
        self.sources[port].send_nowait(AxiStreamFrame(frame, tuser=user))

    async def flush(self, port: int) -> None:
        """Until all that was queued on a port has been sent."""
        await self.sources[port].wait()

    async def read(self, address: int) -> int:
        """A word of the tables."""
        return int(await self.axil.read_dword(address))

    async def fates(self, port: int) -> dict[str, int]:
        """Frames of a port by what became of them, without zeros."""
        counts = {fate.name: await self.read(0x8000 + 0x80 * port + 4 * fate) for fate in Fate}
        return {name: count for name, count in counts.items() if count}

    async def totals(self) -> dict[str, int]:
        """The counters of the whole, without zeros."""
        counts = {total.name: await self.read(0xC080 + 4 * total) for total in Total}
        return {name: count for name, count in counts.items() if count}

    async def idle(self, cycles: int) -> None:
        """Let time pass."""
        await ClockCycles(self.dut.clk, cycles)


def _pauses(share: float, seed: int) -> Iterator[bool]:
    """True for a cycle of pause; in bursts, so that buffers fill and run dry."""
    rng = random.Random(seed)
    while True:
        for pause, mean in ((False, 6 * (1 - share)), (True, 6 * share)):
            for _ in range(rng.randint(0, max(1, round(2 * mean)))):
                yield pause
