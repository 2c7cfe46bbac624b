"""Published shapes to the last parameter, and the rules every suggested shape obeys."""

import math
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttrec
from ttrec.cardinalities import KAGGLE, MLPERF, TERABYTE
from ttrec.shapes import PAPER_P, TTShape, max_useful_ranks, model_ratio, suggest_shape

CLAIMS = {
    claim["id"]: claim
    for claim in tomllib.loads(
        (Path(ttrec.__file__).parent / "claims.toml").read_text(encoding="utf-8")
    )["claim"]
}


def points(claim_id):
    return [(p["axes"], p["value"]) for p in CLAIMS[claim_id]["points"]]


@pytest.mark.parametrize(("axes", "params"), points("ttrec.tab.table_params"))
def test_published_parameter_counts_are_exact(axes, params):
    assert suggest_shape(axes["rows"], 16, axes["rank"], preset="paper").params == params


@pytest.mark.parametrize(("axes", "ratio"), points("ttrec.tab.table_ratio"))
def test_published_table_ratios_are_met_to_the_integer(axes, ratio):
    found = suggest_shape(axes["rows"], 16, axes["rank"], preset="paper").ratio
    assert round(found) == ratio


@pytest.mark.parametrize("dataset", [KAGGLE, TERABYTE], ids=lambda d: d.name)
def test_published_model_ratios_are_met_within_a_tenth(dataset):
    for axes, ratio in points(f"ttrec.fig.{dataset.name}_ratio"):
        assert abs(model_ratio(dataset, axes["tables"], axes["rank"]) - ratio) <= 0.1, axes


def test_data_set_totals_are_the_published_ones():
    assert KAGGLE.total_rows == 33_762_577
    assert TERABYTE.total_rows == 49_126_297
    assert round(KAGGLE.dense_params * 4 / 1e9, 3) == 2.161
    assert round(TERABYTE.dense_params * 4 / 1e9, 3) == 12.576
    assert [d.interaction_width for d in (KAGGLE, TERABYTE)] == [367, 415]
    assert [len(d.rows) for d in (KAGGLE, TERABYTE, MLPERF)] == [26, 26, 26]
    assert MLPERF.source == "remembered"


def test_preset_covers_the_seven_largest_tables_of_both_data_sets():
    for dataset in (KAGGLE, TERABYTE):
        assert all((rows, dataset.dim) in PAPER_P for rows in dataset.largest(7))


def test_preset_refuses_other_sizes_and_names_the_default():
    with pytest.raises(ValueError, match=r"1000 rows, dim 16.*preset=None"):
        suggest_shape(1000, 16, preset="paper")


@given(
    rows=st.integers(1, 2**31 - 1),
    dim=st.integers(1, 512),
    d=st.integers(2, 5),
    balance=st.sampled_from(["entropy", "waste"]),
)
def test_suggested_factors_cover_the_table_and_are_balanced(rows, dim, d, balance):
    shape = suggest_shape(rows, dim, 1, d, balance=balance)
    assert rows <= math.prod(shape.p) <= 1.15 * rows
    assert math.prod(shape.q) == dim
    if rows > 1000 and balance == "entropy":
        assert max(shape.p) <= 2 * min(shape.p)


@pytest.mark.parametrize("d", [2, 3, 4, 5])
def test_every_width_to_512_is_factored_exactly(d):
    assert all(math.prod(suggest_shape(10**6, dim, 1, d).q) == dim for dim in range(1, 513))


def test_suggestions_are_what_a_search_over_all_factors_finds():
    def entropy(factors):
        return -sum(f / sum(factors) * math.log(f / sum(factors)) for f in factors)

    for rows in (7, 30, 101, 250, 1025):
        best = max(
            entropy((a, b, c))
            for a in range(1, rows + 1)
            for b in range(a, rows + 1)
            if a * b * b <= 1.15 * rows
            for c in range(b, int(1.15 * rows) // (a * b) + 1)
            if rows <= a * b * c <= 1.15 * rows
        )
        assert entropy(suggest_shape(rows, 1, 1).p) == pytest.approx(best, abs=1e-12), rows


def test_less_waste_pads_fewer_rows():
    loose, tight = (suggest_shape(10_131_227, 16, waste=w) for w in (0.15, 1e-5))
    assert tight.padded_rows <= 10_131_227 * (1 + 1e-5) < loose.padded_rows


def test_unreachable_waste_names_one_that_would_do():
    with pytest.raises(ValueError, match=r"waste=0\.0.* would do") as error:
        suggest_shape(65537 * 11, 8, 4, 2, waste=0.0)
    reachable = float(str(error.value).split("; waste=")[1].split()[0])
    assert suggest_shape(65537 * 11, 8, 4, 2, waste=reachable).padded_rows >= 65537 * 11


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p": (3, 3, 3)}, r"prod\(3, 3, 3\) = 27 for 100 rows.*would do"),
        ({"q": (2, 2, 4)}, r"prod\(2, 2, 4\) = 16 for dim 8.*would do"),
        ({"ranks": (0, 2)}, r"rank must be at least 1, got \(0, 2\)"),
        ({"ranks": (2, 2, 2)}, r"3 factors need 2 ranks, got 3"),
        ({"ranks": (4, 99)}, r"largest useful ones \(10, 10\).*use ranks=\(4, 10\)"),
        ({"p": (100,), "q": (8,), "ranks": ()}, r"2 to 5 factors.*got 1"),
        ({"p": (2,) * 7, "q": (2,) * 3 + (1,) * 4, "ranks": (2,) * 6}, r"2 to 5 factors.*got 7"),
        ({"p": (2**16, 1, 1)}, r"below 65536.*d=4"),
        ({"q": (2, 4)}, r"as many factors as p"),
        ({"rows": 0}, r"rows and dim must be at least 1, got rows=0"),
        ({"p": (5, -4, -5)}, r"factors must be at least 1"),
    ],
)
def test_wrong_shapes_are_refused_with_what_would_do(change, words):
    with pytest.raises(ValueError, match=words):
        TTShape(
            **({"rows": 100, "dim": 8, "p": (5, 4, 5), "q": (2, 2, 2), "ranks": (4, 4)} | change)
        )


def test_fractional_factors_are_refused():
    with pytest.raises(TypeError):
        TTShape(100, 8, (5, 4, 5.0), (2, 2, 2), (4, 4))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"d": 6}, r"d must lie in 2\.\.5.*got 6"),
        ({"d": 1}, r"got 1"),
        ({"waste": -0.1}, r"waste must be 0 or more"),
        ({"balance": "none"}, r"'entropy' or 'waste'"),
        ({"preset": "other"}, r"preset must be 'paper' or None"),
        ({"ranks": 50}, r"clamp_rank=True"),
        ({"ranks": (4, 4, 4)}, r"need 2 ranks, got 3"),
    ],
)
def test_wrong_requests_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        suggest_shape(**({"rows": 100, "dim": 8, "ranks": 4} | arguments))


def test_two_cores_cannot_hold_more_than_16_bit_digits():
    with pytest.raises(ValueError, match="larger d"):
        suggest_shape(2**33, 8, 4, 2)


def test_clamp_rank_gives_the_largest_useful_ranks():
    shape = suggest_shape(100, 8, 1000, clamp_rank=True)
    assert shape.ranks == max_useful_ranks(shape.p, shape.q)


def test_digits_count_rows_in_order():
    shape = TTShape(100, 8, (5, 4, 5), (2, 2, 2), (4, 4))
    assert [shape.digits(i) for i in (0, 1, 5, 20, 99)] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (4, 3, 4),
    ]  # fmt: skip
    with pytest.raises(IndexError, match=r"0\.\.99, got 100"):
        shape.digits(100)


def test_sizes_follow_from_the_core_shapes():
    shape = TTShape(100, 8, (5, 4, 5), (2, 2, 2), (4, 3))
    assert shape.core_shapes == ((5, 1, 2, 4), (4, 4, 2, 3), (5, 3, 2, 1))
    assert shape.params == 40 + 96 + 30
    assert shape.bytes() == 4 * 166
    assert shape.bytes(torch.float64) == 8 * 166
    assert shape.ratio == pytest.approx(800 / 166)
    assert shape.full_ranks == (1, 4, 3, 1)


def test_shapes_are_values():
    a, b = (TTShape(100, 8, [5, 4, 5], [2, 2, 2], [4, 4]) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert eval(repr(a)) == a
