"""Importing this loads what children need; the server that forks them does so once.

torch is loaded if it can be: the experiments that need it will say what is wrong with it.
"""

import contextlib
import gc

import numpy  # noqa: F401  # for its effect: it stays loaded

import common.child  # noqa: F401  # likewise

with contextlib.suppress(Exception):
    import torch  # noqa: F401  # likewise

# The garbage collector of a child would walk, and so copy, the hundred thousands of objects torch
# made; frozen ones it leaves alone.
gc.collect()
gc.freeze()
