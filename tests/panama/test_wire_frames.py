"""Headers against bytes written by hand; sizes against numbers worked out by hand."""

import random
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from panama import wire
from panama.plan import Wire

HEADER = wire.Header(
    flags=wire.UP | wire.RETX, job=0x0102, tree=3, psn=0x04050607, child=0x0809,
    message=0x0A0B0C0D, contributors=0x0E0F, exponent=-2, ecn=wire.CE, dscp=0x2E,
    identification=0x1234, ttl=64, source_ip=0x0A000001, target_ip=0x0A0000FE,
    source_mac=0x020000000001, target_mac=0x0200000000FE,
)  # fmt: skip

# Three fp32 of one beat: frame 128, IPv4 length 114 = 0x72, UDP length 94 = 0x5e.
# Checksum: 4500 + 00bb + 0072 + 1234 + 4000 + 4011 + 0a00 + 0001 + 0a00 + 00fe = 0xed71,
# whose complement is 0x128e.
BYTES = bytes.fromhex(
    "0200000000fe 020000000001 0800"
    "45 bb 0072 1234 4000 40 11 128e 0a000001 0a0000fe"
    "5041 5041 005e 0000"
    "01 05 0102 03 00 04050607 0809 0003 0a0b0c0d 0e0f fffe"
) + bytes.fromhex("0000803f 000000c0 0000c07f").ljust(64, b"\0")
PAYLOAD = np.array([0x3F800000, 0xC0000000, 0x7FC00000], dtype=np.uint32).view(np.float32)


def test_frame_written_by_hand() -> None:
    assert wire.pack(HEADER, PAYLOAD).hex(" ", 4) == BYTES.hex(" ", 4)
    header, payload = wire.unpack(BYTES)
    assert header == attrs.evolve(HEADER, n_elements=3)
    assert payload.tobytes() == PAYLOAD.tobytes()


headers = st.builds(
    wire.Header,
    flags=st.integers(0, 255), job=st.integers(0, 2**16 - 1), tree=st.integers(0, 255),
    psn=st.integers(0, 2**32 - 1), child=st.integers(0, 2**16 - 1),
    message=st.integers(0, 2**32 - 1), contributors=st.integers(0, 2**16 - 1),
    exponent=st.integers(-(2**15), 2**15 - 1), ecn=st.integers(0, 3), dscp=st.integers(0, 63),
    identification=st.integers(0, 2**16 - 1), ttl=st.integers(0, 255),
    source_ip=st.integers(0, 2**32 - 1), target_ip=st.integers(0, 2**32 - 1),
    source_mac=st.integers(0, 2**48 - 1), target_mac=st.integers(0, 2**48 - 1),
    source_port=st.integers(0, 2**16 - 1),
)  # fmt: skip
payloads = st.one_of(
    *(npst.arrays(dtype, st.integers(0, 700)) for dtype in (np.float32, np.int32, np.uint16))
)


@given(headers, payloads)
def test_frames_come_back_as_they_were(header: wire.Header, payload: np.ndarray) -> None:
    frame = wire.pack(header, payload)
    assert len(frame) == 64 + 64 * -(-payload.nbytes // 64)
    assert frame[64 + payload.nbytes :].strip(b"\0") == b""
    again, values = wire.unpack(frame)
    code = {"float32": 0, "uint16": 1, "int32": 2}[payload.dtype.name]
    assert again == attrs.evolve(header, n_elements=payload.size, format_code=code)
    assert values.dtype == payload.dtype
    assert values.tobytes() == payload.tobytes()


@given(headers)
def test_checksum_leaves_no_remainder(header: wire.Header) -> None:
    # A receiver's test: all words, the checksum too, are a multiple of 0xffff and not all zero.
    ip = wire.pack_header(header)[14:34]
    total = int.from_bytes(ip, "big")
    # 2**16 = 1 modulo 0xffff, so the whole number is congruent to the sum of its words.
    assert total > 0
    assert total % 0xFFFF == 0


def test_checksum_of_a_published_example() -> None:
    # Worked example of an IPv4 header in common teaching material, checksum 0xb861.
    ip = bytes.fromhex("4500007300004000401100 00c0a80001c0a800c7".replace(" ", ""))
    assert wire.ipv4_checksum(ip) == 0xB861


def test_one_flipped_bit_of_the_ip_header_is_seen() -> None:
    for bit in range(14 * 8, 34 * 8):
        frame = bytearray(BYTES)
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises(wire.MalformedFrame):
            wire.unpack(bytes(frame))


def changed(at: int, value: bytes) -> bytes:
    return BYTES[:at] + value + BYTES[at + len(value) :]


@pytest.mark.parametrize(
    ("frame", "cause"),
    [
        (BYTES[:63], "short"),
        (b"", "short"),
        (changed(12, b"\x86\xdd"), "protocol"),
        (changed(14, b"\x46"), "protocol"),
        (changed(20, b"\x20\x00"), "protocol"),
        (changed(23, b"\x06"), "protocol"),
        (changed(36, b"\x00\x35"), "protocol"),
        (changed(24, b"\x12\x8f"), "checksum"),
        (changed(42, b"\x02"), "version"),
        (changed(47, b"\x03"), "format"),
        (changed(54, b"\x00\x11"), "length"),
        (changed(38, b"\x00\x5f"), "length"),
        (BYTES[:-1], "length"),
        (BYTES + b"\0", "length"),
    ],
)
def test_malformed_frames_name_the_cause(frame: bytes, cause: str) -> None:
    with pytest.raises(wire.MalformedFrame) as error:
        wire.unpack(frame)
    assert error.value.cause == cause


def test_padding_is_recorded() -> None:
    frame = wire.pack(HEADER, np.arange(17, dtype=np.int32))
    header, values = wire.unpack(frame)
    assert (len(frame), header.n_elements, header.payload_bytes) == (64 + 128, 17, 128)
    assert values.tolist() == list(range(17))


def test_bad_payloads_and_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="float16"):
        wire.pack(HEADER, np.zeros(3, dtype=np.float16))
    with pytest.raises(ValueError, match="one dimension"):
        wire.pack(HEADER, np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="n_elements must fit 16 bits, got 65536"):
        wire.pack(HEADER, np.zeros(65536, dtype=np.uint16))
    with pytest.raises(ValueError, match="psn must fit 32 bits"):
        wire.Header(psn=2**32)
    with pytest.raises(ValueError, match="exponent"):
        wire.Header(exponent=2**15)


@pytest.mark.parametrize(("mtu", "beats"), [(1500, 22), (9000, 139), (114, 1), (177, 1), (178, 2)])
def test_payloads_are_whole_beats(mtu: int, beats: int) -> None:
    sizes = wire.aggregation_sizes(mtu)
    assert sizes.payload == 64 * beats
    # Ethernet's 14 bytes do not count as part of the unit a link may carry.
    assert sizes.frame_bytes(sizes.payload) - 14 <= mtu
    assert sizes.frame_bytes(sizes.payload + 64) - 14 > mtu


def test_sizes_are_those_a_plan_starts_with() -> None:
    plan = Wire()
    sums, flows = wire.aggregation_sizes(1500), wire.dctcp_sizes(1500)
    assert (plan.sum_payload, plan.sum_header) == (sums.payload, sums.header)
    assert (plan.payload, plan.header) == (flows.payload, flows.header)
    assert plan.ack == flows.packet_wire_bytes(0)


def test_sizes_by_hand() -> None:
    sums = wire.aggregation_sizes(1500)
    assert [sums.packets(n) for n in (1, 1408, 1409, 2816)] == [1, 1, 2, 2]
    # One byte takes a beat.
    assert sums.message_wire_bytes(1) == 64 + 88
    assert sums.message_wire_bytes(1408 + 65) == (1408 + 88) + (128 + 88)
    assert [sums.packet_payload(1409, i) for i in range(2)] == [1408, 1]
    flows = wire.dctcp_sizes(1500)
    # 78 + 1 bytes are less than the shortest frame.
    assert flows.message_wire_bytes(1461) == (1460 + 78) + 84
    assert flows.message_wire_bytes(1460 * 3) == 3 * 1538


@pytest.mark.parametrize("n_bytes", [1, 63, 64, 1407, 1408, 1409, 10_000, 123_457])
@pytest.mark.parametrize("sizes", [wire.aggregation_sizes(1500), wire.dctcp_sizes(9000)])
def test_a_message_is_its_packets(n_bytes: int, sizes: wire.Sizes) -> None:
    parts = [sizes.packet_payload(n_bytes, i) for i in range(sizes.packets(n_bytes))]
    assert sum(parts) == n_bytes
    assert min(parts) > 0
    wanted = sum(sizes.packet_wire_bytes(part) for part in parts)
    assert sizes.message_wire_bytes(n_bytes) == wanted


def test_a_frame_is_as_long_as_its_bytes() -> None:
    rng = random.Random(1)
    sizes = wire.aggregation_sizes(1500)
    for n in [rng.randrange(1, 353) for _ in range(20)]:
        frame = wire.pack(HEADER, np.zeros(n, dtype=np.float32))
        assert len(frame) == sizes.frame_bytes(4 * n)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wire.aggregation_sizes(113), "at least 114 bytes, got 113"),
        (lambda: wire.dctcp_sizes(40), "above 40 bytes"),
        (lambda: wire.aggregation_sizes(1500).packets(0), "at least 1 byte"),
    ],
)
def test_bad_sizes_are_refused(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
