"""Plain torch versions of the kernels, for any floating-point type, with autograd."""
