"""The native kernels in plain torch: any float type, any device, differentiable, and slow.

A module here has the functions of its namesake in transformer_dm.kernels, with the same arguments,
results and masks. They compute in the type they are given; gradients of parameters have it too.
"""
