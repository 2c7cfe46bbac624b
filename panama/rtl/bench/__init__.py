"""Test benches: Python that runs inside the simulator, and the Verilog frames it needs."""
