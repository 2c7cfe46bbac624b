"""A learned cost model for automatic code optimization (Baghdadi et al., MLSys 2021)."""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
