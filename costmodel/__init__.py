"""A learned cost model for automatic code optimization (Baghdadi et al., MLSys 2021)."""

import lazy_loader as _lazy

from common.extras import naming_extra as _naming_extra

__version__ = "0.1.0"

_load, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__getattr__ = _naming_extra(_load, __name__)
