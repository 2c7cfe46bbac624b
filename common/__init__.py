"""The layer the five papers share: native kernels, benchmarking, experiments, results, report."""

__version__ = "0.1.0"

#: Import names of the paper packages, in the order reports show them.
PAPERS = ("costmodel", "cortex", "transformer_dm", "panama", "ttrec")
