"""Native kernels of TT-Rec, compiled on first use."""
