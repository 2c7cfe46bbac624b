"""The peers by name, and what to install for those that are absent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from common.extras import MissingExtra, require
from costmodel.ir import Program
from costmodel.peers import compilers, halide
from costmodel.translation_unit import Entry

Peer = Callable[[Program, int], Entry]

PEERS: dict[str, Peer] = {
    "gcc": compilers.gcc,
    "graphite": compilers.graphite,
    "isl": compilers.isl,
    "isl_whole": partial(compilers.isl, tile=0),
    "isl_apart": partial(compilers.isl, fuse=False),
    "isl_apart_whole": partial(compilers.isl, tile=0, fuse=False),
    "clang": compilers.clang,
    "polly": compilers.polly,
    "mullapudi2016": lambda p, threads: halide.halide(p, "Mullapudi2016", threads),
    "li2018": lambda p, threads: halide.halide(p, "Li2018", threads),
    "adams2019": lambda p, threads: halide.halide(p, "Adams2019", threads),
}

_NEEDS: dict[str, Callable[[], object]] = {
    "clang": compilers.require_clang,
    "polly": compilers.require_clang,
    **dict.fromkeys(
        ("mullapudi2016", "li2018", "adams2019"),
        partial(require, "halide", "costmodel_peers", "Halide's auto-schedulers"),
    ),
}


def build(name: str, program: Program, threads: int = 1) -> Entry:
    """The program as this peer makes it, to be checked and timed by costmodel.measure.time_batch.

    Raises MissingExtra with the line that installs it, UnsupportedProgram for what it cannot
    express, CompileError for what it refuses, ValueError for an unknown name.
    """
    if name not in PEERS:
        raise ValueError(f"peer must be one of {', '.join(PEERS)}, got '{name}'")
    return PEERS[name](program, threads)


def why_absent(name: str) -> str | None:
    """One sentence with what to install, or None for a peer that can run."""
    try:
        _NEEDS.get(name, lambda: None)()
    except MissingExtra as missing:
        return str(missing)
    return None
