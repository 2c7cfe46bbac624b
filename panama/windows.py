"""How many packets fill a path: base round trips and the caps of windows that follow from them."""

from __future__ import annotations

import numpy as np

from .plan import Int32, Int64, Network, Wire
from .routes import Paths

#: Of Ethernet beside its payload: preamble and start 8, header 14, check 4, gap 12.
_ETHERNET = 38
#: Of an aggregation packet inside Ethernet: IPv4 20, UDP 8, PANAMA's own 22.
_SUM_INNER = 50
#: Its payload is whole beats of the accelerator.
_BEAT = 64
#: IPv4 and TCP headers.
_TCP = 40


def wire_of(mtu: int) -> Wire:
    """Packets of a network whose Ethernet payload has at most `mtu` bytes."""
    least = _SUM_INNER + _BEAT
    if mtu < least or mtu > 9216:
        raise ValueError(f"mtu must be from {least} to 9216 bytes, got {mtu}; usual are 1500, 9000")
    return Wire(
        payload=mtu - _TCP,
        header=_TCP + _ETHERNET,
        sum_payload=(mtu - _SUM_INNER) // _BEAT * _BEAT,
        sum_header=_SUM_INNER + _ETHERNET,
    )


def round_trips(net: Network, paths: Paths, out: int, back: int) -> Int64:
    """(paths,) ps that a packet of `out` bytes and one of `back` bytes the other way take alone."""
    if not len(paths.links):
        return np.zeros(len(paths), dtype=np.int64)
    ways = paths.links
    there = net.ps_per_byte[ways] * out + net.prop_ps[ways]
    home = net.ps_per_byte[net.back[ways]] * back + net.prop_ps[net.back[ways]]
    total: Int64 = np.add.reduceat(there + home, paths.ptr[:-1])
    return total


def window_caps(net: Network, paths: Paths, wire: Wire, bdp: float) -> Int32:
    """(paths,) packets of DCTCP: `bdp` products of the slowest rate and the round trip, at least
    a first window."""
    if not len(paths):
        return np.zeros(0, dtype=np.int32)
    packet = wire.payload + wire.header
    slowest = np.maximum.reduceat(net.ps_per_byte[paths.links], paths.ptr[:-1])
    trip = round_trips(net, paths, packet, wire.ack)
    packets = np.ceil(bdp * trip / (slowest * packet))
    caps: Int32 = np.maximum(packets, wire.first_window).astype(np.int32)
    return caps
