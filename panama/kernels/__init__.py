"""The native kernels, each source beside the module that loads it."""
