"""Shortest paths between hosts, one of the equally short chosen by a hash."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from .plan import Int32, Int64, Network


@attrs.frozen(eq=False)
class Paths:
    """Links of many paths: those of path i are links[ptr[i]:ptr[i + 1]]."""

    ptr: Int64
    links: Int32

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def __getitem__(self, i: int) -> Int32:
        return self.links[self.ptr[i] : self.ptr[i + 1]]


@attrs.frozen(eq=False)
class Routes:
    """Next links of every node towards every group of hosts.

    Hosts on the same switches form a group, as the way to them differs only in its last link.

    group:    (nodes,) group of a host, -1 for switches
    hops:     (nodes, groups) links to a host of the group; of a host in the group to another one
    next_ptr, next: of node * groups + group: the links on shortest paths, none where the next node
              is the host itself
    last:     keys node * nodes + host of links to hosts, sorted, and their links
    """

    n_nodes: int
    n_groups: int
    group: Int32
    hops: Int32
    next_ptr: Int64
    next: Int32
    last_key: Int64
    last_link: Int32
    dst: Int32

    @classmethod
    def of(cls, net: Network) -> Routes:
        """Routes of a network; hosts forward nothing."""
        n = len(net.is_host)
        to_host = np.flatnonzero(net.is_host[net.dst])
        group = np.full(n, -1, dtype=np.int32)
        known: dict[tuple[int, ...], int] = {}
        switches_of: dict[int, list[int]] = {int(h): [] for h in np.flatnonzero(net.is_host)}
        for into in to_host:
            switches_of[int(net.dst[into])].append(int(net.src[into]))
        for host, switches in switches_of.items():
            group[host] = known.setdefault(tuple(sorted(switches)), len(known))
        n_groups = len(known)
        far = np.iinfo(np.int32).max
        hops = np.full((n, n_groups), far, dtype=np.int32)
        for known_switches, number in known.items():
            hops[list(known_switches), number] = 1
        # Backwards from the groups over links that end in a switch and start anywhere.
        onward = np.flatnonzero(net.is_host[net.dst] == 0)
        between = onward[net.is_host[net.src[onward]] == 0]
        for level in range(1, n + 1):
            step, to = np.nonzero(
                (hops[net.dst[between]] == level) & (hops[net.src[between]] > level + 1)
            )
            if not len(step):
                break
            hops[net.src[between[step]], to] = level + 1
        start = onward[net.is_host[net.src[onward]] == 1]
        ahead = hops[net.dst[start]]
        np.minimum.at(hops, net.src[start], np.where(ahead < far, ahead + 1, far))
        link, g = np.nonzero(
            (hops[net.dst[onward]] < far)
            & (hops[net.src[onward]].astype(np.int64) == hops[net.dst[onward]].astype(np.int64) + 1)
        )
        cell = net.src[onward[link]].astype(np.int64) * n_groups + g
        order = np.lexsort((onward[link], cell))
        next_ptr = np.zeros(n * n_groups + 1, dtype=np.int64)
        np.cumsum(np.bincount(cell, minlength=n * n_groups), out=next_ptr[1:])
        key = net.src[to_host].astype(np.int64) * n + net.dst[to_host]
        by_key = np.argsort(key)
        return cls(
            n_nodes=n,
            n_groups=n_groups,
            group=group,
            hops=hops,
            next_ptr=next_ptr,
            next=onward[link[order]].astype(np.int32),
            last_key=key[by_key],
            last_link=to_host[by_key].astype(np.int32),
            dst=net.dst,
        )

    def paths(self, src: Any, dst: Any, key: Any, seed: int) -> Paths:
        """One shortest path for each (src, dst), among equals by hash(seed, key, hop).

        src, dst: (pairs,) hosts, src != dst; key: (pairs,) whole numbers
        """
        at = np.array(src, dtype=np.int64)
        end = np.asarray(dst, dtype=np.int64)
        keys = np.asarray(key, dtype=np.int64).astype(np.uint64)
        group = self.group[end].astype(np.int64)
        length = self.hops[at, group].astype(np.int64)
        ptr = np.zeros(len(at) + 1, dtype=np.int64)
        np.cumsum(length, out=ptr[1:])
        links = np.empty(ptr[-1], dtype=np.int32)
        longest = int(length.max(initial=0))
        for hop in range(longest - 1):
            alive = np.flatnonzero(length > hop + 1)
            cell = at[alive] * self.n_groups + group[alive]
            first = self.next_ptr[cell]
            count = (self.next_ptr[cell + 1] - first).astype(np.uint64)
            pick = mix(keys[alive] ^ mix(np.uint64(seed % 2**64) + np.uint64(hop << 48))) % count
            link = self.next[first + pick.astype(np.int64)]
            links[ptr[alive] + hop] = link
            at[alive] = self.dst[link]
        last = np.searchsorted(self.last_key, at * self.n_nodes + end)
        links[ptr[1:] - 1] = self.last_link[last]
        return Paths(ptr, links)


def mix(x: Any) -> Any:
    """Finalizer of splitmix64 (Steele, Lea, Flood 2014), on uint64 arrays."""
    x = np.atleast_1d(np.asarray(x, dtype=np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
