"""Beats through the adder tree, every bit that comes out held against the definition."""

from __future__ import annotations

import math

import attrs
import numpy as np
from numpy.typing import NDArray

from panama.rtl.expected import Words, tree_sums
from panama.rtl.simulator import build, run
from panama.wire import FORMATS

# Bits of fp32 numbers at every edge of the adder, for all pairs of them.
HAND_LIST = np.array(
    [
        0x00000000, 0x80000000,  # zeros
        0x00000001, 0x807FFFFF, 0x00400000,  # subnormals, which count as zeros
        0x00800000, 0x80800000, 0x00800001, 0x00FFFFFF, 0x80FFFFFF,  # differences underflow
        0x01000000, 0x81000001,
        0x3F800000, 0xBF800000, 0x3F7FFFFF, 0xBF7FFFFF, 0x3F800001, 0xBF800001,  # around one
        0x33800000, 0xB3800000, 0x33800001, 0x337FFFFF, 0x33000000, 0xB3000000,  # half a last place
        0x34000000, 0x34400000, 0x32800000, 0xB2800000, 0x4B800000, 0xCB800001,
        0x3FFFFFFF, 0xBFFFFFFF, 0x40000000, 0xC0000000,  # rounding carries into the exponent
        0x7F7FFFFF, 0xFF7FFFFF, 0x73000000, 0x72FFFFFF, 0xF3000000, 0x73800000,  # overflow or not
        0x7F000000, 0x7F800000, 0xFF800000,  # infinities
        0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FA5A5A5,  # NaNs, their payload is lost
    ],
    dtype=np.uint32,
)  # fmt: skip


@attrs.frozen
class Soak:
    """What a run saw.

    beats, words:    compared
    wrong:           beats with a bit that differs in data, marks, contributors or packet end
    misplaced:       beats that say wrongly whether they are the first of a packet
    latency_cycles:  first beat in to first beat out
    beats_per_cycle: from the first beat out to the last
    """

    beats: int
    words: int
    wrong: int
    misplaced: int
    latency_cycles: int
    beats_per_cycle: float


def soak_tree(
    data: Words,
    *,
    fmt: str = "fp32",
    stages: int = 10,
    stalls: bool = False,
    tool: str = "icarus",
    seed: int = 0,
) -> Soak:
    """Send beats through a tree and compare everything that comes out.

    data:   (beats, ports, words) uint32, the bits on each port
    stages: registers of one addition
    stalls: hold the pipeline back and leave gaps at random
    Members, marks, weights and contributors are drawn from `seed`; in every eighth beat or so some
    ports are absent.
    """
    beats, ports, words = data.shape
    rng = np.random.default_rng([seed, beats, ports])
    some = rng.random((beats, 1)) < 0.125
    member = ~some | (rng.random((beats, ports)) < 0.7)
    member[:, 0] |= ~member.any(axis=1)  # a packet has someone who sent it
    ce = rng.random((beats, ports)) < 0.3
    # In half of the beats only few different weights, so that ties are met.
    weight = 1 + (rng.integers(0, 2**16 - 1, (beats, ports)) >> rng.choice([0, 14], (beats, 1)))
    contributors = rng.integers(0, 1024, (beats, ports))
    last = rng.random((beats, 1)) < 0.2

    worst = mark_of_heaviest(weight, ce & member, member)
    marked = np.asarray((ce & member).any(axis=1))
    counted = np.where(member, contributors, 0).sum(axis=1)
    given = _lines(
        (data.reshape(beats, -1), 32), (contributors, 16), (weight, 16), (ce, 1), (member, 1),
        (last, 1),
    )  # fmt: skip
    wanted = _lines(
        (tree_sums(data, member, fmt), 32), (counted[:, None], 16), (worst[:, None], 1),
        (marked[:, None], 1), (last, 1),
    )  # fmt: skip
    parameters = {"P": ports, "L": words, "FMT": FORMATS[fmt].code, "FADD_STAGES": stages}
    design = build("soak", parameters | {"BEATS": beats, "STALLS": int(stalls)}, tool)
    seen = run(
        design,
        "panama.rtl.bench.clocked",
        {
            "cycles": 4 * beats + 64 * stages + 1000,
            "counters": ["wrong", "misplaced", "latency", "span"],
        },
        {"given.hex": given, "wanted.hex": wanted},
    )
    span = int(seen["span"])
    return Soak(
        beats=beats,
        words=beats * words,
        wrong=int(seen["wrong"]),
        misplaced=int(seen["misplaced"]),
        latency_cycles=int(seen["latency"]),
        beats_per_cycle=beats / span if span else math.nan,
    )


def random_bits(beats: int, ports: int, words: int, seed: int = 0) -> Words:
    """(beats, ports, words): half uniform bit patterns, half numbers of similar size.

    Uniform patterns hold NaN, infinities and subnormals, but their sums hardly ever round or
    cancel: numbers whose exponents lie within 28 of each other do.
    """
    rng = np.random.default_rng(seed)
    shape = (beats, ports, words)
    uniform = rng.integers(0, 2**32, shape, dtype=np.uint32)
    near = uniform & np.uint32(0x807FFFFF)
    near |= (rng.integers(1, 227, (beats, 1, words)) + rng.integers(0, 28, shape)).astype(
        np.uint32
    ) << np.uint32(23)
    return np.where(rng.random((beats, 1, 1)) < 0.5, uniform, near)


def exponent_pairs(words: int, step: int = 1, seed: int = 0) -> Words:
    """(beats, 2, words): every `step`-th pair of exponents with random signs and fractions.

    In every fourth pair the fractions agree but for their last bits, so that close numbers cancel.
    """
    rng = np.random.default_rng(seed)
    pairs = np.arange(0, 2**16, step)
    pairs = np.resize(pairs, -(-len(pairs) // words) * words)
    bits = rng.integers(0, 2**32, (len(pairs), 2), dtype=np.uint32) & np.uint32(0x807FFFFF)
    alike = rng.random(len(pairs)) < 0.25
    low = rng.integers(0, 4, len(pairs), dtype=np.uint32)
    bits[alike, 1] = (bits[alike, 0] ^ low[alike] ^ np.uint32(0x80000000)) & np.uint32(0x807FFFFF)
    bits[:, 0] |= (pairs >> 8).astype(np.uint32) << np.uint32(23)
    bits[:, 1] |= (pairs & 255).astype(np.uint32) << np.uint32(23)
    return np.ascontiguousarray(bits.reshape(-1, words, 2).transpose(0, 2, 1))


def hand_pairs(words: int) -> Words:
    """(beats, 2, words): all ordered pairs of HAND_LIST."""
    first, second = np.meshgrid(HAND_LIST, HAND_LIST)
    pairs = np.stack([first.ravel(), second.ravel()])
    beats = -(-pairs.shape[1] // words)
    full = np.resize(pairs[0], beats * words), np.resize(pairs[1], beats * words)
    return np.stack([each.reshape(beats, words) for each in full], axis=1)


def mark_of_heaviest(
    weight: NDArray[np.int64], ce: NDArray[np.bool_], member: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(beats,): the mark of the member port with the largest weight, the lowest of equal ones."""
    heaviest = np.where(member, weight, -1).argmax(axis=1)
    return np.take_along_axis(ce, heaviest[:, None], axis=1)[:, 0]


def _lines(*fields: tuple[NDArray[np.generic], int]) -> str:
    """One line of hexadecimal digits a beat; the first field lies in the lowest bits.

    fields: ((beats, n) values, bits of one value); value 0 of a field is its lowest
    """
    beats = len(fields[0][0])
    text = []
    for start in range(0, beats, 1024):  # a bit takes a byte on the way, so not all at once
        bits = []
        for values, width in fields:
            part = values[start : start + 1024].astype(np.uint64)
            wide = part[:, :, None] >> np.arange(width, dtype=np.uint64) & np.uint64(1)
            bits.append(wide.astype(np.uint8).reshape(len(part), -1))
        rows = np.packbits(np.concatenate(bits, axis=1), axis=1, bitorder="little")
        text += [row[::-1].tobytes().hex() for row in rows]
    return "\n".join(text) + "\n"
