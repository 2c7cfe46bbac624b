"""Clocks a bench that needs no Python until its output `done` rises, and reports its counters."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import First, RisingEdge, Timer

from panama.rtl.bench.exchange import bench_arguments, report


@cocotb.test()
async def clocked(dut: Any) -> None:
    """Arguments: cycles it may take at most, and the names of the counters."""
    told = bench_arguments()
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    await Timer(45, unit="ns")
    dut.rst.value = 0
    limit = Timer(10 * told["cycles"], unit="ns")
    done = RisingEdge(dut.done)
    assert await First(done, limit) is not limit, f"not done after {told['cycles']} cycles"
    await RisingEdge(dut.clk)
    report({name: int(getattr(dut, name).value) for name in told["counters"]})
