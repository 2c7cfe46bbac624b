"""What goes over the wire: headers, sizes of packets, number formats and sums.

Simulator, training hook and hardware tests all take these from here, so their bits agree.
"""

from panama.wire.header import (
    CE,
    DOWN,
    HEADER_BYTES,
    RETX,
    UDP_PORT,
    UP,
    VERSION,
    Header,
    MalformedFrame,
    ipv4_checksum,
    pack,
    pack_header,
    unpack,
    unpack_header,
)
from panama.wire.numbers import (
    FORMATS,
    NAN_BF16,
    NAN_FP32,
    add,
    canonical,
    format_of,
    from_bf16,
    from_fixed,
    scale_exponent,
    to_bf16,
    to_fixed,
)
from panama.wire.packets import (
    BEAT_BYTES,
    GAP_BYTES,
    Sizes,
    aggregation_sizes,
    dctcp_sizes,
)
from panama.wire.sums import level_add, tree_add, tree_add_reference

__all__ = [
    "BEAT_BYTES",
    "CE",
    "DOWN",
    "FORMATS",
    "GAP_BYTES",
    "HEADER_BYTES",
    "NAN_BF16",
    "NAN_FP32",
    "RETX",
    "UDP_PORT",
    "UP",
    "VERSION",
    "Header",
    "MalformedFrame",
    "Sizes",
    "add",
    "aggregation_sizes",
    "canonical",
    "dctcp_sizes",
    "format_of",
    "from_bf16",
    "from_fixed",
    "ipv4_checksum",
    "level_add",
    "pack",
    "pack_header",
    "scale_exponent",
    "to_bf16",
    "to_fixed",
    "tree_add",
    "tree_add_reference",
    "unpack",
    "unpack_header",
]
