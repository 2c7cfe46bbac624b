"""Clocks soak.v until it has seen all beats, and reports its counters."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import First, RisingEdge, Timer

from panama.rtl.bench.exchange import bench_arguments, report


@cocotb.test()
async def soak(dut: Any) -> None:
    """Every beat comes out, in order."""
    cycles = bench_arguments()["cycles"]
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    await Timer(45, unit="ns")
    dut.rst.value = 0
    limit = Timer(10 * cycles, unit="ns")
    done = RisingEdge(dut.done)
    assert await First(done, limit) is not limit, f"not done after {cycles} cycles"
    await RisingEdge(dut.clk)
    names = ("wrong", "misplaced", "first_wrong", "latency", "span")
    report({name: int(getattr(dut, name).value) for name in names})
