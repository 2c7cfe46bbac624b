"""The aggregation accelerator in Verilog, its test benches and its synthesis report."""
