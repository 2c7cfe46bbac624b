"""All-reduce between hosts as messages: who sends which part of the gradients to whom, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import numpy as np
import numpy.typing as npt

from .plan import Int32, Int64

#: A parameter server answers for a part as soon as it has it from all; so many parts.
SERVER_PARTS = 16


@attrs.frozen(eq=False)
class Collective:
    """Messages between workers; the gradients are cut into `parts` equal parts.

    conn_src, conn_dst: (connections,) workers
    conn:     (messages,) connection, ascending; one connection sends in the order they stand here
    low, high: (messages,) parts low up to but without high are sent as the sender has them then
    adds:     (messages,) the receiver adds them to its own, or replaces its own by them
    before, after: (edges,) message `after` is sent when `before` has arrived whole
    """

    parts: int
    conn_src: Int32
    conn_dst: Int32
    conn: Int32
    low: Int64
    high: Int64
    adds: npt.NDArray[np.bool_]
    before: Int64
    after: Int64


def ring(racks: Int32) -> Collective:
    """Every worker sends to the next: n - 1 steps that add, n - 1 that pass sums on.

    racks: (workers,), not used. In step s worker i sends part i - s; Patarasuk and Yuan 2009.
    """
    n = len(racks)
    steps = 2 * (n - 1)
    worker, step = np.divmod(np.arange(n * steps, dtype=np.int64), steps)
    part = (worker - step) % n
    waits = np.flatnonzero(step > 0)
    workers = np.arange(n, dtype=np.int32)
    return Collective(
        parts=n,
        conn_src=workers,
        conn_dst=(workers + 1) % n,
        conn=worker.astype(np.int32),
        low=part,
        high=part + 1,
        adds=step < n - 1,
        before=(worker[waits] - 1) % n * steps + step[waits] - 1,
        after=waits,
    )


def hierarchical_ring(racks: Int32) -> Collective:
    """Workers of a rack sum among themselves, rings over the racks sum those, racks share out.

    racks: (workers,) rack of each. The gradients are cut into as many columns as the largest rack
    has workers; each rack has an owner of each column, a worker of a small rack owns several.
    """
    members = [np.flatnonzero(racks == rack).tolist() for rack in dict.fromkeys(racks.tolist())]
    n_racks, columns = len(members), max(map(len, members))
    build = _Builder(columns * n_racks)
    whole = {q: (q * n_racks, (q + 1) * n_racks) for q in range(columns)}
    last: dict[tuple[int, int], int] = {}
    for step in range(columns - 1):
        for r, rack in enumerate(members):
            for q in range(columns) if step < len(rack) - 1 else ():
                at = q % len(rack) + 1 + step
                ends = rack[at % len(rack)], rack[(at + 1) % len(rack)]
                last[r, q] = build.add(*ends, *whole[q], True, _known(last.get((r, q))))
    summed = dict(last)
    owner = [[rack[q % len(rack)] for q in range(columns)] for rack in members]
    previous: dict[tuple[int, int], int] = {}
    for step in range(2 * (n_racks - 1)):
        current: dict[tuple[int, int], int] = {}
        for r in range(n_racks):
            for q in range(columns):
                part = q * n_racks + (r - step) % n_racks
                needs = summed.get((r, q)) if step == 0 else previous[(r - 1) % n_racks, q]
                ends = owner[r][q], owner[(r + 1) % n_racks][q]
                adds = step < n_racks - 1
                # Columns have connections of their own even where their ends are the same.
                current[r, q] = build.add(*ends, part, part + 1, adds, _known(needs), lane=1 + q)
        previous = current
    if n_racks > 1:
        last = {(r, q): previous[(r - 1) % n_racks, q] for r, q in previous}
    for step in range(columns - 1):
        for r, rack in enumerate(members):
            for q in range(columns) if step < len(rack) - 1 else ():
                at = q % len(rack) + step
                ends = rack[at % len(rack)], rack[(at + 1) % len(rack)]
                last[r, q] = build.add(*ends, *whole[q], False, [last[r, q]])
    return build.done()


def halving_doubling(racks: Int32) -> Collective:
    """Partners at halving distances exchange halves of what they keep, then the way back.

    racks: (workers,), not used. Where n is no power of two, the workers beyond one first give all
    they have to a neighbour, and get the sum from it (Thakur, Rabenseifner and Gropp 2005).
    """
    n = len(racks)
    power = 1 << (n.bit_length() - 1)
    extra = n - power
    inner = [2 * i + 1 for i in range(extra)] + list(range(2 * extra, n))
    build = _Builder(power)
    got: list[list[int]] = [[] for _ in range(power)]
    for i in range(extra):
        got[i].append(build.add(2 * i, 2 * i + 1, 0, power, True, []))
    low, size = [0] * power, power
    while size > 1:
        size //= 2
        sent = {}
        for v in range(power):
            keeps_low = v & size == 0
            give = low[v] + size if keeps_low else low[v]
            sent[v] = build.add(inner[v], inner[v ^ size], give, give + size, True, got[v])
            low[v] += 0 if keeps_low else size
        for v in range(power):
            got[v] = [*got[v], sent[v ^ size]]
    while size < power:
        sent = {
            v: build.add(inner[v], inner[v ^ size], low[v], low[v] + size, False, got[v])
            for v in range(power)
        }
        for v in range(power):
            got[v] = [*got[v], sent[v ^ size]]
            low[v] &= ~size
        size *= 2
    for i in range(extra):
        build.add(2 * i + 1, 2 * i, 0, power, False, got[i])
    return build.done()


def parameter_server(racks: Int32) -> Collective:
    """All send to the first worker, which sends the sums back; part after part.

    racks: (workers,), not used.
    """
    build = _Builder(SERVER_PARTS)
    others = range(1, len(racks))
    pushed = [
        [build.add(i, 0, part, part + 1, True, []) for i in others] for part in range(SERVER_PARTS)
    ]
    for part in range(SERVER_PARTS):
        for i in others:
            build.add(0, i, part, part + 1, False, pushed[part])
    return build.done()


def in_chunks(collective: Collective, chunks: int) -> Collective:
    """The same for each of `chunks` equal chunks of the gradients, one behind another.

    A connection sends in the order of a wave: what step s is for one chunk, step s - 1 is for the
    next. So it has something to send while it waits for what one chunk needs, and the phases of a
    hierarchy overlap. Messages wait for none of a later step, so that no order of these stalls, and
    those of a chunk keep their order on a connection.
    """
    n = len(collective.conn)
    chunk = np.repeat(np.arange(chunks, dtype=np.int64), n)
    conn = np.tile(collective.conn, chunks)
    order = np.lexsort((chunk, np.tile(_steps(collective), chunks) + chunk, conn))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    shift = np.repeat(np.arange(chunks, dtype=np.int64) * n, len(collective.before))
    first = chunk * collective.parts
    return Collective(
        parts=collective.parts * chunks,
        conn_src=collective.conn_src,
        conn_dst=collective.conn_dst,
        conn=conn[order],
        low=(np.tile(collective.low, chunks) + first)[order],
        high=(np.tile(collective.high, chunks) + first)[order],
        adds=np.tile(collective.adds, chunks)[order],
        before=place[np.tile(collective.before, chunks) + shift],
        after=place[np.tile(collective.after, chunks) + shift],
    )


def _steps(collective: Collective) -> Int64:
    """(messages,) how many others come one after another before each: those it waits for, and those
    before it on its connection."""
    behind = np.flatnonzero(collective.conn[1:] == collective.conn[:-1])
    before = np.concatenate([collective.before, behind])
    after = np.concatenate([collective.after, behind + 1])
    steps = np.zeros(len(collective.conn), dtype=np.int64)
    while True:
        later = steps.copy()
        np.maximum.at(later, after, steps[before] + 1)
        if (later == steps).all():
            return steps
        steps = later


COLLECTIVES: dict[str, Callable[[Int32], Collective]] = {
    "ring": ring,
    "hierarchical_ring": hierarchical_ring,
    "halving_doubling": halving_doubling,
    "parameter_server": parameter_server,
}


def _known(message: int | None) -> list[int]:
    return [] if message is None else [message]


class _Builder:
    """Collects messages in an order in which they can be sent, and sorts them by connection."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._conns: dict[tuple[int, int, int], int] = {}
        self._rows: list[tuple[int, int, int, bool]] = []
        self._edges: list[tuple[int, int]] = []

    def add(
        self,
        src: int,
        dst: int,
        low: int,
        high: int,
        adds: bool,
        needs: Iterable[int],
        lane: int = 0,
    ) -> int:
        """One more message; connections are told apart by their ends and lane."""
        conn = self._conns.setdefault((src, dst, lane), len(self._conns))
        number = len(self._rows)
        self._rows.append((conn, low, high, adds))
        self._edges += [(need, number) for need in needs]
        return number

    def done(self) -> Collective:
        rows = np.array(self._rows, dtype=np.int64).reshape(len(self._rows), 4)
        order = np.argsort(rows[:, 0], kind="stable")
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        edges = place[np.array(self._edges, dtype=np.int64).reshape(len(self._edges), 2)]
        ends = np.array(list(self._conns), dtype=np.int32)
        rows = rows[order]
        return Collective(
            parts=self._parts,
            conn_src=ends[:, 0].copy(),
            conn_dst=ends[:, 1].copy(),
            conn=rows[:, 0].astype(np.int32),
            low=rows[:, 1].copy(),
            high=rows[:, 2].copy(),
            adds=rows[:, 3] == 1,
            before=edges[:, 0].copy(),
            after=edges[:, 1].copy(),
        )
