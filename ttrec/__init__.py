"""TT-Rec (MLSys 2021): embedding tables stored as tensor trains.

Names load on first use; sizes and shapes need no torch.
"""

import lazy_loader as _lazy

from common.extras import naming_extra as _naming_extra

__version__ = "0.1.0"

_plain_load, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
_load = _naming_extra(_plain_load, __name__)

# fmt: off
_WITHOUT_TORCH = frozenset((
    "cardinalities", "shapes", "KAGGLE", "MLPERF", "TERABYTE", "Adagrad", "Dataset",
    "RowwiseAdagrad", "SGD", "TTShape", "model_params", "model_ratio", "suggest_shape",
))
# fmt: on


def __getattr__(name: str) -> object:
    if name in __all__ and name not in _WITHOUT_TORCH:
        # Before torch loads: a wrong pair of wheels gives one clear sentence, not a crash.
        from ttrec.versions import check_torch_pair

        check_torch_pair()
    return _load(name)
