"""Flop and words of the layer: every row of the paper's table to the digits printed, and totals."""

import pytest

from transformer_dm.describe import encoder_graph
from transformer_dm.volume import (
    CONVENTIONS,
    class_totals,
    convention,
    reduction,
    rows,
    table,
    traffic,
)

S1 = (8, 512, 16, 64, 4096)
S2 = (96, 128, 16, 64, 4096)
ELEMENT, NORM, PRODUCT = "elementwise", "normalisation", "contraction"

#: Rows as printed, in running order: class, Gflop, words in and out in millions. A dash is no flop.
PRINTED = [
    ("qkv", PRODUCT, "25.770", "7.3", "12.6"),
    ("input bias", ELEMENT, "0.013", "12.6", "12.6"),
    ("qkt", PRODUCT, "4.295", "8.4", "33.6"),
    ("softmax + attention dropout", NORM, "0.201", "33.6", "100.7"),
    ("gamma", PRODUCT, "4.295", "37.7", "4.2"),
    ("out", PRODUCT, "8.590", "5.2", "4.2"),
    ("out bias", ELEMENT, "0.004", "4.2", "4.2"),
    ("out dropout", ELEMENT, "0.004", "4.2", "8.4"),
    ("residual 1", ELEMENT, "0.004", "8.4", "4.2"),
    ("layernorm 1", NORM, "0.029", "4.2", "4.2"),
    ("linear 1", PRODUCT, "34.360", "8.4", "16.8"),
    ("linear 1 bias", ELEMENT, "0.017", "16.8", "16.8"),
    ("relu", ELEMENT, "0.000", "16.8", "16.8"),
    ("activation dropout", ELEMENT, "0.017", "16.8", "33.6"),
    ("linear 2", PRODUCT, "34.360", "21.0", "4.2"),
    ("linear 2 bias", ELEMENT, "0.004", "4.2", "4.2"),
    ("linear 2 dropout", ELEMENT, "0.004", "4.2", "8.4"),
    ("residual 2", ELEMENT, "0.004", "8.4", "4.2"),
    ("layernorm 2", NORM, "0.029", "4.2", "4.2"),
    ("layernorm 2 dW", NORM, "0.017", "8.4", "0.0"),
    ("layernorm 2 dX", NORM, "0.038", "8.4", "4.2"),
    ("linear 2 dropout dX", ELEMENT, "0.004", "8.4", "4.2"),
    ("linear 2 bias gradient", NORM, "0.004", "4.2", "0.0"),
    ("linear 2 dX", PRODUCT, "34.360", "8.4", "16.8"),
    ("linear 2 dW", PRODUCT, "34.360", "21.0", "4.2"),
    ("activation dropout dX", ELEMENT, "0.017", "33.6", "16.8"),
    ("relu dX", ELEMENT, "0.000", "33.6", "16.8"),
    ("linear 1 bias gradient", NORM, "0.017", "16.8", "0.0"),
    ("linear 1 dX", PRODUCT, "34.360", "21.0", "4.2"),
    ("linear 1 dW", PRODUCT, "34.360", "21.0", "4.2"),
    ("y1 fan-in", ELEMENT, "0.004", "8.4", "4.2"),
    ("layernorm 1 dW", NORM, "0.017", "8.4", "0.0"),
    ("layernorm 1 dX", NORM, "0.038", "8.4", "4.2"),
    ("out dropout dX", ELEMENT, "0.004", "8.4", "4.2"),
    ("out bias gradient", NORM, "0.004", "4.2", "0.0"),
    ("out dX", PRODUCT, "8.590", "5.2", "4.2"),
    ("out dW", PRODUCT, "8.590", "8.4", "1.0"),
    ("gamma d_alpha_kept", PRODUCT, "4.295", "8.4", "33.6"),
    ("gamma d_value", PRODUCT, "4.295", "37.7", "4.2"),
    ("attention dropout dX + softmax dX", NORM, "0.168", "100.7", "33.6"),
    ("qkt d_query", PRODUCT, "4.295", "37.7", "4.2"),
    ("qkt d_key", PRODUCT, "4.295", "37.7", "4.2"),
    ("input bias gradient", NORM, "0.013", "12.6", "0.0"),
    ("qkv dX", PRODUCT, "25.770", "15.7", "4.2"),
    ("qkv dW", PRODUCT, "25.770", "16.8", "3.1"),
    ("x fan-in", ELEMENT, "0.004", "8.4", "4.2"),
]


def test_every_row_is_the_paper_s_to_the_printed_digits():
    found = encoder_graph(*S1).table("paper")
    ours = [
        (row, cls, f"{flop / 1e9:.3f}", f"{words_in / 1e6:.1f}", f"{words_out / 1e6:.1f}")
        for row, cls, flop, words_in, words_out in zip(
            *(found[name] for name in ("row", "class", "flop", "words_in", "words_out")),
            strict=True,
        )
    ]
    assert ours == PRINTED


def test_class_totals_are_the_paper_s():
    totals = class_totals(table(encoder_graph(*S1)))
    assert {name: f"{work / 1e9:.3f}" for name, work in totals.items()} == {
        PRODUCT: "335.007",
        NORM: "0.575",
        ELEMENT: "0.105",
    }
    everything = sum(totals.values())
    assert f"{everything / 1e9:.3f}" == "335.687"
    shares = [f"{100 * totals[name] / everything:.2f}" for name in (PRODUCT, NORM, ELEMENT)]
    assert shares == ["99.80", "0.17", "0.03"]


@pytest.mark.parametrize(
    ("name", "n_rows", "millions"),
    # framework: 1317.089; a sum of the table's rounded rows reads 1317.0 or 1317.1.
    [
        ("paper", 46, 1216.4),
        ("framework", 48, 1317.1),
        ("framework+scale", 50, 1451.3),
        ("bytes", 48, 1229.0),
    ],
)
def test_rows_and_words_of_each_convention(name, n_rows, millions):
    found = encoder_graph(*S1).table(name)
    assert len(found) == n_rows
    assert (found["words_in"] + found["words_out"]).sum() / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", list(CONVENTIONS))
@pytest.mark.parametrize("norm_first", [False, True])
def test_rows_hold_every_operator_once(name, norm_first):
    graph = encoder_graph(*S2, norm_first=norm_first)
    listed = [op for row in rows(graph, convention(name)) for op in row.ops]
    assert sorted(listed) == sorted(op.name for op in graph.ops())


def test_the_scale_costs_arithmetic_only_where_it_is_a_pass():
    graph = encoder_graph(*S1)
    flop = {name: table(graph, name)["flop"].sum() for name in CONVENTIONS}
    scores = 8 * 16 * 512 * 512
    assert flop["framework+scale"] - flop["framework"] == 2 * scores
    assert flop["paper"] == flop["framework"] == flop["bytes"]


def test_flop_per_word_as_the_dataflow_figures_print_it():
    found = encoder_graph(*S1).table("paper").set_index("row")
    # The figures count in units of 2**30.
    assert found.loc["out", "flop"] / 2**30 == 8
    assert found.loc["out", "flop_per_word"] == pytest.approx(910, abs=0.5)
    assert found.loc["qkt", "flop"] / 2**30 == 4
    assert found.loc["qkt", "flop_per_word"] == pytest.approx(102, abs=0.5)
    assert found.loc["relu", "flop_per_word"] == 0


def test_a_mask_is_as_large_as_the_convention_says():
    sizes = {name: (c.mask_words(), c.mask_words("bit")) for name, c in CONVENTIONS.items()}
    assert sizes.pop("bytes") == (1 / 4, 1 / 32)
    assert set(sizes.values()) == {(1.0, 1 / 16)}


def test_unknown_convention_lists_all():
    message = r"convention must be one of paper, framework, framework\+scale, bytes, got 'metric'"
    with pytest.raises(ValueError, match=message):
        encoder_graph(*S1).table("metric")


def test_a_tensor_made_and_used_up_inside_costs_nothing():
    graph = encoder_graph(*S1)
    together = traffic(graph, ["relu", "activation dropout"])
    assert together.reads == ("hidden_biased",)
    assert together.writes == ("active_kept", "mask_f")


def test_words_grow_linearly_with_the_batch():
    def moved(batch):
        found = encoder_graph(batch, *S1[1:]).table("framework")
        return (found["words_in"] + found["words_out"]).sum()

    assert moved(3) - moved(2) == moved(2) - moved(1) > 0


def test_a_graph_of_nothing_has_no_reduction():
    assert reduction(0, 0) == 0
    assert reduction(200, 50) == 75
