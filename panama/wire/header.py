"""The frame of an aggregation packet: 64 bytes of headers, one beat, then whole beats of payload.

Ethernet 14, IPv4 20, UDP 8 (no checksum) and PANAMA 22, all big-endian:

    version u8, flags u8, job u16, tree u8, format u8, packet number u32, child u16, elements u16,
    message u32, contributors u16, exponent u16

Elements of the payload are little-endian, so that element i of a beat is lane i of the datapath
and hosts need not swap bytes. The payload is padded with zeros; the header says how many elements
count.
"""

import struct
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from panama.wire.numbers import FORMATS, Format, format_of
from panama.wire.packets import BEAT_BYTES

HEADER_BYTES = 64
VERSION = 1
#: Flags: to the root; result; sent again.
UP, DOWN, RETX = 1, 2, 4
#: Two-bit codepoints of IPv4: not capable, capable, congestion experienced.
NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3
UDP_PORT = 0x5041
_IPV4 = 0x0800
_UDP = 17
_TTL = 64
_DONT_FRAGMENT = 0x4000
_LAYOUT = struct.Struct(">6s6sH BBHHHBBH4s4s HHHH BBHBBIHHIHH")
_IP_AT, _IP_BYTES, _UDP_BYTES, _SUM_BYTES = 14, 20, 8, 22
_FORMAT_OF_CODE = {format.code: format for format in FORMATS.values()}


class MalformedFrame(ValueError):
    """A frame that a switch would drop. cause: the word its counter has."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def _field(bits: int, default: Any = 0) -> Any:
    def check(instance: object, attribute: "attrs.Attribute[int]", value: int) -> None:
        if not 0 <= value < 2**bits:
            raise ValueError(f"{attribute.name} must fit {bits} bits, got {value}")

    return attrs.field(default=default, validator=check)


@attrs.frozen(kw_only=True)
class Header:
    """What a frame's headers say; lengths and the checksum follow from it.

    n_elements:   of the payload that count, the rest is padding
    format_code:  see numbers.FORMATS
    exponent:     of int32, -32768 .. 32767; two's complement on the wire
    contributors: workers whose values the payload is the sum of
    """

    flags: int = _field(8, UP)
    job: int = _field(16)
    tree: int = _field(8)
    format_code: int = _field(8)
    psn: int = _field(32)
    child: int = _field(16)
    n_elements: int = _field(16)
    message: int = _field(32)
    contributors: int = _field(16, 1)
    exponent: int = attrs.field(default=0)
    ecn: int = _field(2, ECT_0)
    dscp: int = _field(6)
    identification: int = _field(16)
    ttl: int = _field(8, _TTL)
    source_ip: int = _field(32)
    target_ip: int = _field(32)
    source_mac: int = _field(48)
    target_mac: int = _field(48)
    source_port: int = _field(16, UDP_PORT)
    target_port: int = _field(16, UDP_PORT)
    version: int = _field(8, VERSION)

    @exponent.validator
    def _check_exponent(self, attribute: object, value: int) -> None:
        if not -(2**15) <= value < 2**15:
            raise ValueError(f"exponent must fit 16 bits with sign, got {value}")

    @property
    def format(self) -> Format:
        """Raises MalformedFrame for a code no format has."""
        found = _FORMAT_OF_CODE.get(self.format_code)
        if found is None:
            codes = ", ".join(f"{f.code} ({f.name})" for f in FORMATS.values())
            raise MalformedFrame("format", f"format must be one of {codes}, got {self.format_code}")
        return found

    @property
    def payload_bytes(self) -> int:
        """Of the padded payload: whole beats."""
        return -(-self.n_elements * self.format.element_bytes // BEAT_BYTES) * BEAT_BYTES


def ipv4_checksum(header: bytes) -> int:
    """The checksum of an IPv4 header whose own checksum field is zero (RFC 1071)."""
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pack_header(header: Header) -> bytes:
    """The 64 bytes of a header."""
    h = header
    after_udp = _SUM_BYTES + h.payload_bytes

    def layout(checksum: int) -> bytes:
        return _LAYOUT.pack(
            h.target_mac.to_bytes(6, "big"), h.source_mac.to_bytes(6, "big"), _IPV4,
            0x45, h.dscp << 2 | h.ecn, _IP_BYTES + _UDP_BYTES + after_udp, h.identification,
            _DONT_FRAGMENT,
            h.ttl, _UDP, checksum, h.source_ip.to_bytes(4, "big"), h.target_ip.to_bytes(4, "big"),
            h.source_port, h.target_port, _UDP_BYTES + after_udp, 0,
            h.version, h.flags, h.job, h.tree, h.format_code, h.psn, h.child, h.n_elements,
            h.message, h.contributors, h.exponent & 0xFFFF,
        )  # fmt: skip

    return layout(ipv4_checksum(layout(0)[_IP_AT : _IP_AT + _IP_BYTES]))


def unpack_header(frame: bytes) -> Header:
    """The header of a frame, checked as a switch checks it.

    Raises MalformedFrame, with cause "short", "protocol", "checksum", "version", "format" or
    "length".
    """
    if len(frame) < HEADER_BYTES:
        raise MalformedFrame(
            "short", f"a frame has at least {HEADER_BYTES} bytes, got {len(frame)}"
        )
    (
        target_mac, source_mac, ether_type,
        ip_version, tos, ip_length, identification, fragment, ttl, protocol, checksum, source_ip,
        target_ip, source_port, target_port, udp_length, _udp_checksum,
        version, flags, job, tree, format_code, psn, child, n_elements, message, contributors,
        exponent,
    ) = _LAYOUT.unpack_from(frame)  # fmt: skip
    found = (ether_type, ip_version, fragment & ~_DONT_FRAGMENT, protocol, target_port)
    if found != (_IPV4, 0x45, 0, _UDP, UDP_PORT):
        raise MalformedFrame(
            "protocol",
            f"an aggregation frame is unfragmented IPv4 without options and UDP to port {UDP_PORT},"
            f" got Ethernet type {ether_type:#06x}, IP {ip_version:#04x}, fragment {fragment:#06x},"
            f" protocol {protocol}, port {target_port}",
        )
    ip = bytearray(frame[_IP_AT : _IP_AT + _IP_BYTES])
    ip[10:12] = b"\0\0"
    if ipv4_checksum(bytes(ip)) != checksum:
        raise MalformedFrame(
            "checksum",
            f"the IPv4 checksum must be {ipv4_checksum(bytes(ip)):#06x}, got {checksum:#06x}",
        )
    if version != VERSION:
        raise MalformedFrame("version", f"version must be {VERSION}, got {version}")
    header = Header(
        flags=flags, job=job, tree=tree, format_code=format_code, psn=psn, child=child,
        n_elements=n_elements, message=message, contributors=contributors,
        exponent=exponent - (exponent >> 15 << 16), ecn=tos & 3, dscp=tos >> 2,
        identification=identification, ttl=ttl, source_ip=int.from_bytes(source_ip, "big"),
        target_ip=int.from_bytes(target_ip, "big"),
        source_mac=int.from_bytes(source_mac, "big"),
        target_mac=int.from_bytes(target_mac, "big"), source_port=source_port,
        target_port=target_port, version=version,
    )  # fmt: skip
    wanted = HEADER_BYTES + header.payload_bytes
    got = (len(frame), ip_length + _IP_AT, udp_length + _IP_AT + _IP_BYTES)
    if got != (wanted, wanted, wanted):
        raise MalformedFrame(
            "length",
            f"{n_elements} elements of {header.format.name} make a frame of {wanted} bytes, got "
            f"{got[0]}, of {got[1]} by the IPv4 length and {got[2]} by the UDP length",
        )
    return header


def pack(header: Header, payload: npt.NDArray[Any]) -> bytes:
    """A frame; its header has the format and the number of elements of this payload.

    payload: (n,) float32, int32 or uint16 (the bits of bfloat16)

    Raises TypeError for another dtype, ValueError for another shape or over 65535 elements.
    """
    if payload.ndim != 1:
        raise ValueError(f"payload must have one dimension, got shape {payload.shape}")
    format = format_of(payload.dtype)
    header = attrs.evolve(header, format_code=format.code, n_elements=payload.size)
    data = payload.astype(format.dtype.newbyteorder("<"), copy=False).tobytes()
    return pack_header(header) + data.ljust(header.payload_bytes, b"\0")


def unpack(frame: bytes) -> tuple[Header, npt.NDArray[Any]]:
    """Header and payload of a frame, without its padding.

    Raises MalformedFrame as unpack_header.
    """
    header = unpack_header(frame)
    little = header.format.dtype.newbyteorder("<")
    payload = np.frombuffer(frame, little, header.n_elements, HEADER_BYTES)
    return header, payload.astype(header.format.dtype)
