"""MUE on cases worked by hand, its bounds, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_dm.describe import encoder_graph
from transformer_dm.mue import mue
from transformer_dm.volume import lower_bound


def test_a_perfect_copy_has_all_of_it():
    # 1e9 words of 4 bytes in 0.1 s are 40 GB/s, the peak.
    assert mue(1e9, 1e9, 0.1, 4, 40e9) == pytest.approx(100)


def test_moving_twice_what_is_needed_at_half_the_speed_is_a_quarter():
    assert mue(1e9, 2e9, 0.4, 4, 40e9) == pytest.approx(25)


def test_an_operator_bound_by_computing_has_little():
    # 4 MB of lower bound, 8 MB moved at 1% of the peak.
    assert mue(1e6, 2e6, 0.02, 4, 40e9) == pytest.approx(0.5)


@given(
    d=st.floats(1, 1e12),
    share=st.floats(0, 1),
    itemsize=st.sampled_from([2, 4]),
    peak=st.floats(1e6, 1e13),
    slowdown=st.floats(1, 1e6),
)
def test_at_most_100_when_nothing_beats_its_bound(d, share, itemsize, peak, slowdown):
    seconds = d * itemsize / peak * slowdown
    value = mue(share * d, d, seconds, itemsize, peak)
    # Four roundings of relative size 2**-53.
    assert 0 <= value <= 100 * (1 + 8 * 2**-53)


@pytest.mark.parametrize("name", ["seconds", "peak_bytes_per_s", "itemsize", "d_words"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_what_must_be_positive_is_named(name, value):
    arguments = {"q_words": 0, "d_words": 1, "seconds": 1, "itemsize": 4, "peak_bytes_per_s": 1}
    with pytest.raises(ValueError, match=f"{name} must be above 0, got {value}"):
        mue(**{**arguments, name: value})


@pytest.mark.parametrize("q", [-1, 3])
def test_a_bound_above_what_was_moved_is_no_bound(q):
    with pytest.raises(ValueError, match=f"got q_words={q}, d_words=2"):
        mue(q, 2, 1, 4, 1)


def test_lower_bound_of_a_contraction_grows_as_the_fast_memory_shrinks():
    graph = encoder_graph(1, 64, 2, 32, 256)
    op = graph.op("linear 1")
    compulsory = sum(graph.words(op))
    # 64 * 64 * 256 multiplications; with 64 words: 2 * 2**20 / 8 - 128.
    assert lower_bound(graph, op, 64) == 2 * 2**20 / 8 - 128
    assert lower_bound(graph, op, 10**6) == lower_bound(graph, op) == compulsory
    assert lower_bound(graph, graph.op("relu"), 64) == sum(graph.words(graph.op("relu")))
    with pytest.raises(ValueError, match="fast_words must be at least 1, got 0"):
        lower_bound(graph, op, 0)
