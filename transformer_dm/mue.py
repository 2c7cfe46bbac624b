"""Memory usage efficiency (sec. on MUE): how near an operator comes to the least traffic, fastest.

    MUE = 100 * (Q / D) * (Bw / Bw_peak),   Bw = D / time

Q is the least data any implementation moves, D what this one moves. Near 100: bound by memory and
well done. Low beside a high share of the peak of arithmetic: bound by computing.
"""

from __future__ import annotations

__all__ = ["mue"]


def mue(
    q_words: float, d_words: float, seconds: float, itemsize: int, peak_bytes_per_s: float
) -> float:
    """Memory usage efficiency in percent; D cancels, but has to be no less than Q.

    Raises ValueError for a time, peak, size of word or D not above 0, a Q below 0, or D < Q, for
    then Q is no lower bound.
    """
    for name, value in (
        ("seconds", seconds),
        ("peak_bytes_per_s", peak_bytes_per_s),
        ("itemsize", itemsize),
        ("d_words", d_words),
    ):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if not 0 <= q_words <= d_words:
        raise ValueError(
            f"q_words must lie between 0 and d_words, which it bounds from below: "
            f"got q_words={q_words}, d_words={d_words}"
        )
    bandwidth = d_words * itemsize / seconds
    return 100.0 * (q_words / d_words) * (bandwidth / peak_bytes_per_s)
