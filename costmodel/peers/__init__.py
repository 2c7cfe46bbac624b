"""Systems to compare with, each behind one function: a program goes in, an Entry comes out.

    gcc, graphite, clang, polly    plain C of the program, optimized by a compiler
    isl                            isl's schedule and tiles of 32, the algorithm of Pluto
    mullapudi2016, li2018, adams2019
                                   Halide's auto-schedulers, compiled ahead of time

An Entry stands beside our own variants in costmodel.measure.time_batch, which checks its results
against the baseline's and times all of them in turns over the same arrays.
"""

from costmodel.peers.registry import PEERS, Peer, build, why_absent

__all__ = ["PEERS", "Peer", "build", "why_absent"]
