"""Collectives: their messages, carried out in any order allowed, give everyone the sum."""

import numpy as np
import pytest

from panama.collectives import (
    COLLECTIVES,
    Collective,
    halving_doubling,
    hierarchical_ring,
    in_chunks,
    parameter_server,
    ring,
)

RACKS = {
    "one": lambda n: np.zeros(n, dtype=np.int32),
    "single": lambda n: np.arange(n, dtype=np.int32),
    "pairs": lambda n: np.arange(n, dtype=np.int32) // 2,
    "uneven": lambda n: np.sqrt(np.arange(n)).astype(np.int32),
    "mixed": lambda n: (np.arange(n, dtype=np.int32) * 7) % 3,
}


def carry_out(col: Collective, n: int, rng: np.random.Generator):
    """(workers, parts) whole numbers that the workers start with, and what they have at the end.

    A message takes what its sender has when it is sent, and is applied when it arrives; which of
    the possible next things happens is drawn.
    """
    start = rng.integers(0, 1000, (n, col.parts))
    have = start.copy()
    waits = np.bincount(col.after, minlength=len(col.conn))
    followers = [[] for _ in col.conn]
    for before, after in zip(col.before, col.after, strict=True):
        followers[before].append(after)
    queues = [list(np.flatnonzero(col.conn == c)) for c in range(len(col.conn_src))]
    flying: list[list[tuple[int, np.ndarray]]] = [[] for _ in queues]
    while True:
        can_send = [("send", c) for c, q in enumerate(queues) if q and waits[q[0]] == 0]
        can_land = [("land", c) for c, q in enumerate(flying) if q]
        if not can_send + can_land:
            break
        what, c = (can_send + can_land)[rng.integers(len(can_send) + len(can_land))]
        if what == "send":
            m = queues[c].pop(0)
            flying[c].append((m, have[col.conn_src[c], col.low[m] : col.high[m]].copy()))
            continue
        m, data = flying[c].pop(0)
        target = have[col.conn_dst[c], col.low[m] : col.high[m]]
        if col.adds[m]:
            target += data
        else:
            target[:] = data
        for after in followers[m]:
            waits[after] -= 1
    assert not any(queues), "some messages can never be sent"
    return start, have


@pytest.mark.parametrize("racks", RACKS)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 12, 16])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_every_worker_ends_with_the_sum(name, n, racks):
    if racks != "one" and name != "hierarchical_ring":
        racks = "one"
    col = COLLECTIVES[name](RACKS[racks](n))
    for seed in range(3):
        start, have = carry_out(col, n, np.random.default_rng(seed))
        assert np.array_equal(have, np.broadcast_to(start.sum(0), have.shape))


def test_an_order_that_is_not_kept_shows():
    # The check above can fail: without what messages wait for, sums are wrong.
    col = ring(RACKS["one"](5))
    none = np.zeros(0, dtype=np.int64)
    loose = Collective(
        col.parts, col.conn_src, col.conn_dst, col.conn, col.low, col.high, col.adds, none, none
    )
    start, have = carry_out(loose, 5, np.random.default_rng(0))
    assert not np.array_equal(have, np.broadcast_to(start.sum(0), have.shape))


@pytest.mark.parametrize("chunks", [1, 2, 5])
@pytest.mark.parametrize("racks", ["single", "pairs", "uneven", "mixed"])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_chunks_one_behind_another_end_with_the_sum(name, racks, chunks):
    for n in (2, 5, 8, 11):
        whole = COLLECTIVES[name](RACKS[racks](n))
        col = in_chunks(whole, chunks)
        assert (np.diff(col.conn) >= 0).all()
        assert np.allclose(sent_and_received(col, n), sent_and_received(whole, n))
        for seed in range(3):
            start, have = carry_out(col, n, np.random.default_rng(seed))
            assert np.array_equal(have, np.broadcast_to(start.sum(0), have.shape))


def test_a_ring_sends_the_first_step_of_the_next_chunk_before_the_last_of_this_one():
    col = in_chunks(ring(RACKS["one"](4)), 3)
    mine = col.low[col.conn == 0] // 4  # chunk of each message that worker 0 sends
    assert mine.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 2, 2]


def sent_and_received(col, n):
    """(workers,) share of the gradients that each sends, and gets."""
    share = (col.high - col.low) / col.parts
    sent = np.bincount(col.conn_src[col.conn], share, n)
    return sent, np.bincount(col.conn_dst[col.conn], share, n)


@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_a_ring_sends_the_least_possible(n):
    for total in sent_and_received(ring(RACKS["one"](n)), n):
        assert total == pytest.approx(2 * (n - 1) / n)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_halving_and_doubling_of_a_power_of_two_sends_the_least_possible(n):
    for total in sent_and_received(halving_doubling(RACKS["one"](n)), n):
        assert total == pytest.approx(2 * (n - 1) / n)


def test_halving_and_doubling_of_six_gives_two_workers_to_neighbours():
    sent, received = sent_and_received(halving_doubling(RACKS["one"](6)), 6)
    # Workers 0 and 2 send and get everything once; their neighbours do that and the work of four.
    inner = 2 * 3 / 4
    assert sent == pytest.approx([1, 1 + inner, 1, 1 + inner, inner, inner])
    assert received == pytest.approx(sent)


@pytest.mark.parametrize(("racks", "per_rack"), [(4, 4), (2, 8), (1, 5), (5, 1)])
def test_a_hierarchical_ring_of_equal_racks_sends_the_least_possible_inside_and_between(
    racks, per_rack
):
    n = racks * per_rack
    rack = np.repeat(np.arange(racks, dtype=np.int32), per_rack)
    col = hierarchical_ring(rack)
    share = (col.high - col.low) / col.parts
    between = rack[col.conn_src[col.conn]] != rack[col.conn_dst[col.conn]]
    inside = np.bincount(col.conn_src[col.conn][~between], share[~between], n)
    assert inside == pytest.approx(2 * (per_rack - 1) / per_rack)
    assert share[between].sum() == pytest.approx(2 * (racks - 1))


def test_a_parameter_server_takes_and_gives_all():
    n = 7
    sent, received = sent_and_received(parameter_server(RACKS["one"](n)), n)
    assert sent == pytest.approx([n - 1] + [1] * (n - 1))
    assert received == pytest.approx(sent)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_messages_stand_by_connection_and_connect_different_workers(name):
    col = COLLECTIVES[name](RACKS["uneven"](11))
    assert (np.diff(col.conn) >= 0).all()
    assert set(col.conn) == set(range(len(col.conn_src)))
    assert (col.conn_src != col.conn_dst).all()
    assert (col.low < col.high).all()
