"""Load convert.cpp: number formats of packets in one pass over memory.

panama.wire.numbers has the same functions in numpy.
"""

import functools
from collections.abc import Callable
from pathlib import Path

from common import native

_SOURCE = Path(__file__).with_name("convert.cpp")
_PROTOTYPES = (
    "void to_bf16(const float* x, uint16_t* out, int64_t n)",
    "void from_bf16(const uint16_t* q, float* out, int64_t n, float divisor)",
    "void to_fixed(const float* x, int32_t* out, int64_t n, double scale)",
    "void from_fixed(const int32_t* q, float* out, int64_t n, double scale, float divisor)",
    "void largest(const float* x, float* out, int64_t n)",
)


@functools.cache
def functions() -> dict[str, Callable[..., None]]:
    """The functions of convert.cpp by name. Raises CompilerNotFound."""
    library = native.build("panama_convert", [_SOURCE])
    return {text.split("(")[0].split()[1]: library.function(text) for text in _PROTOTYPES}
