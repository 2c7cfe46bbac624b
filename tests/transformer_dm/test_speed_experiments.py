"""Speed experiments at tiny settings in a real run folder: what they record, claims, charts."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch

from common import claims, roofline
from common.experiment import Options
from common.record import Record
from common.results import Store
from common.runner import Job, run_one
from transformer_dm import mkl
from transformer_dm.experiments import (
    EXPERIMENTS,
    breakdown,
    encoder,
    encoder_s2,
    kernels,
    memory,
    mha,
    qkv,
    shared,
    table3,
)

LAYER = {"batch": 1, "length": 16, "heads": 2, "head_size": 16, "width": 64}
BRIEF = {"halfwidth": 0.9, "max_seconds": 0.02}
SETTINGS = {
    "breakdown": breakdown.Settings(**LAYER, dropout=0.1, precisions=["fp32", "bf16"], repeats=6),
    "qkv": qkv.Settings(
        batch=1, length=16, d_model=32, precisions=["fp32"], gemms=["aten", "auto"], **BRIEF
    ),
    "kernels": kernels.Settings(
        **LAYER,
        attention_batch=1,
        kernels=list(kernels.KERNELS),
        dropouts=[0.1, 0.0],
        precisions=["fp32"],
        **BRIEF,
    ),
    "table3": table3.Settings(**LAYER, dropout=0.1, precisions=["fp32"], mkl=["stock"], **BRIEF),
    "mha": mha.Settings(
        batch=1, length=16, heads=2, head_size=16, dropouts=[0.1, 0.0], precisions=["fp32"],
        peers=["pytorch", "plain", "sdpa"], stages=["forward", "backward"], mkl=["stock"], **BRIEF,
    ),
    "encoder": encoder.Settings(
        **LAYER, dropouts=[0.1, 0.0], precisions=["fp32"], peers=["pytorch"],
        plans=["ours_stored", "paper_plan", "unfused"], stages=["forward", "backward", "both"],
        mkl=["stock"], **BRIEF,
    ),
    "encoder_s2": encoder_s2.Settings(
        **LAYER, dropouts=[0.1], precisions=["fp32"], peers=["pytorch"], plans=[], stages=["both"],
        mkl=["stock"], **BRIEF,
    ),
    "memory": memory.Settings(
        heads=2, head_size=16, dropout=0.1, saved=[64], grown=[64, 128, 256, 512],
        systems=["ours", "ours_stored", "pytorch"],
    ),
}  # fmt: skip
MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (breakdown, qkv, kernels, table3, mha, encoder, encoder_s2, memory)
}
#: Measuring the machine takes seconds and is tested elsewhere.
PEAKS = roofline.Roofline(
    fp32_gflops=100.0, bf16_gflops=200.0, read_gbs=10.0, triad_gbs=10.0, l2_gbs=50.0, gemm={},
    contended=False, threads=1,
)  # fmt: skip


def run_into(folder, name, settings):
    """Run an experiment in this process; returns the frame of its records."""
    (experiment,) = (e for e in EXPERIMENTS if e.name == f"transformer_dm_{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "cached", lambda threads: PEAKS)
        outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    return Store(folder).frame()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs an experiment once in this process; gives its frame."""
    found = {}

    def run_once(name):
        if name not in found:
            found[name] = run_into(tmp_path_factory.mktemp(name), name, SETTINGS[name])
        return found[name]

    return run_once


@pytest.mark.parametrize("name", SETTINGS)
def test_charts_draw_what_was_recorded(run, name):
    charts = MODULES[name].charts(run(name), claims.load("transformer_dm"))
    assert charts
    assert all(len(chart.rows) for chart in charts)
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


@pytest.mark.parametrize("name", SETTINGS)
def test_records_fit_the_claims_they_carry(run, name):
    frame = run(name)
    judged = frame[frame["claim"].notna()]
    assert len(judged)
    for row in judged.to_dict("records"):
        claim = claims.find(row["claim"])
        assert (claim.metric, claim.unit) == (row["metric"], row["unit"])


def by_claim(frame, claim):
    return frame[frame["claim"] == f"transformer_dm.{claim}"]


def test_encoder_holds_the_abstract_s_claim_and_our_own(run):
    frame = run("encoder")
    for claim in ("abstract.encoder_speedup", "ours.fp32_over_eager", "ours.peak_share_fp32"):
        (row,) = by_claim(frame, claim).to_dict("records")
        assert (row["axis.system"], row["axis.baseline"], row["axis.stage"]) == (
            "ours", "pytorch", "both",
        )  # fmt: skip
        assert row["axis.dropout"] == 0.1
    (row,) = by_claim(frame, "ours.no_dropout").to_dict("records")
    assert row["axis.dropout"] == 0.0
    stages = by_claim(frame, "tab.encoder_speedup")["axis.stage"].tolist()
    assert stages == ["forward", "backward", "both"]
    plans = frame[(frame["metric"] == "speedup") & (frame["axis.dropout"] == 0.1)]
    assert set(plans["axis.system"]) == {
        "ours", "ours_stored", "paper_plan", "unfused", shared.LIMIT,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("peer", "precision", "p", "mkl_", "stage", "wanted"),
    [
        ("torch_compile", "fp32", 0.1, "stock", "both", {"ours.fp32_over_compile"}),
        ("torch_compile", "fp32", 0.1, "unlocked", "both", {"ours.unlocked_over_compile"}),
        ("torch_compile", "bf16", 0.1, "stock", "both", {"ours.bf16_over_compile"}),
        ("torch_compile", "bf16", 0.1, "unlocked", "both", set()),
        ("torch_compile", "fp32", 0.1, "stock", "forward", set()),
        ("torch_compile", "fp32", 0.0, "stock", "both", set()),
        ("pytorch", "fp32", 0.0, "unlocked", "both", {"ours.no_dropout_unlocked"}),
        ("pytorch", "bf16", 0.1, "stock", "both",
         {"abstract.encoder_speedup", "ours.bf16_over_eager"}),
        ("pytorch", "fp32", 0.1, "unlocked", "both",
         {"abstract.encoder_speedup", "tab.encoder_speedup", "sec.readme_encoder_speedup_s1",
          "ours.unlocked_over_eager"}),
    ],
)  # fmt: skip
def test_targets_stand_where_they_are_meant(peer, precision, p, mkl_, stage, wanted):
    axes = {"precision": precision, "dropout": p, "mkl": mkl_}
    found = encoder.claims_of(encoder.NAME, axes, peer, stage)
    assert {claim.removeprefix("transformer_dm.") for claim in found} == wanted


def test_the_second_size_has_the_readme_s_claim(run):
    frame = run("encoder_s2")
    (row,) = by_claim(frame, "sec.readme_encoder_speedup_s2").to_dict("records")
    assert row["value"] == by_claim(frame, "ours.s2_over_eager")["value"].item()


def test_the_limit_is_the_arithmetic_at_the_peak(run):
    frame = run("encoder")
    both = frame[(frame["axis.stage"] == "both") & (frame["axis.dropout"] == 0.0)]
    limit = both[(both["metric"] == "speedup") & (both["axis.system"] == shared.LIMIT)]
    share = both[(both["metric"] == "peak_share") & (both["axis.system"] == "pytorch")]
    assert limit["value"].item() == pytest.approx(100 / share["value"].item())
    assert limit["low"].item() <= limit["value"].item() <= limit["high"].item()


def test_table_sums_its_rows_by_class(run):
    frame = run("table3")
    rows = by_claim(frame, "tab.kernel_speedup")
    points = {point.axes["kernel"] for point in claims.find(rows["claim"].iloc[0]).points}
    assert set(rows["axis.kernel"]) == points
    assert set(by_claim(frame, "ours.class_sums")["axis.class"]) == {
        "contraction", "normalisation", "elementwise",
    }  # fmt: skip
    times = frame[frame["metric"] == "class_time_us"].set_index(["axis.class", "axis.system"])
    for system in ("ours", "pytorch"):
        parts = [times["value"][cls, system] for cls in
                 ("contraction", "normalisation", "elementwise")]  # fmt: skip
        assert sum(parts) == pytest.approx(times["value"]["all", system])
    # Torch stores the scores, whichever plan of ours it stands beside.
    assert times["value"]["all, flash", "pytorch"] == pytest.approx(
        times["value"]["all", "pytorch"]
    )


def test_kernels_record_each_target_and_the_use_of_memory(run):
    frame = run("kernels")
    targets = {f"transformer_dm.ours.kernel_{name}" for name in kernels.TARGETS.values()}
    assert set(frame["claim"].dropna()) == targets
    assert (frame[frame["metric"] == "mue"]["value"] > 0).all()


def test_attention_holds_every_peer_to_ours(run):
    fastest = by_claim(run("mha"), "ours.mha_fastest")
    assert set(fastest["axis.baseline"]) == {"pytorch", "plain", "sdpa"}
    assert set(fastest["axis.system"]) == {"ours"}
    assert set(fastest["axis.dropout"]) == {0.0, 0.1}
    paper = by_claim(run("mha"), "tab.attention_speedup")
    assert set(zip(paper["axis.baseline"], paper["axis.stage"], strict=True)) == {
        ("pytorch", "forward"), ("pytorch", "backward"),
    }  # fmt: skip


def test_stacking_is_compared_with_both_products(run):
    frame = run("qkv")
    times = by_claim(frame, "tab.qkv_stacking")
    assert set(times["axis.system"]) == {"separate", "qk", "qkv"}
    assert len(times) == 3 * 2 * 2
    assert set(by_claim(frame, "ours.qkv_stacking")["axis.gemm"]) == {"aten", "auto"}


def test_a_wrong_way_of_stacking_is_caught():
    x, weight, d_y = torch.randn(4, 8), torch.randn(24, 8), torch.randn(4, 24)
    apart, whole = (
        qkv.make_way(x, weight, d_y, qkv.STACKS[n], "aten") for n in ("separate", "qkv")
    )
    assert qkv.same_forward(apart[0](), whole[0]())
    assert qkv.same_backward(apart[1](), whole[1]())
    first, *rest = apart[0]()
    assert not qkv.same_forward([first * 1.01, *rest], whole[0]())
    d_x, *d_weights = apart[1]()
    assert not qkv.same_backward([d_x * 1.01, *d_weights], whole[1]())


def test_shares_are_of_the_whole_time(monkeypatch, tmp_path):
    times = {"contraction": 600.0, "normalisation": 200.0, "elementwise": 150.0, "movement": 50.0}
    monkeypatch.setattr(breakdown, "profile", lambda step: times)
    monkeypatch.setattr(shared, "usable", lambda precisions, ctx: precisions)
    frame = run_into(tmp_path, "breakdown", SETTINGS["breakdown"])
    for precision in ("fp32", "bf16"):
        part = by_claim(frame, "tab.runtime_share")
        part = part[part["axis.precision"] == precision].set_index("axis.class")
        assert part["value"].to_dict() == {cls: time / 10 for cls, time in times.items()}
    (row,) = by_claim(frame, "ours.contraction_time_share").to_dict("records")
    assert (row["axis.precision"], row["value"]) == ("bf16", 60.0)


def test_a_profile_finds_the_work_of_a_layer():
    x = torch.randn(64, 64)
    found = breakdown.profile(lambda: torch.softmax(x @ x, -1) * 2)
    assert all(found[cls] > 0 for cls in breakdown.CLASSES)


def test_bf16_is_left_out_where_the_processor_has_no_products_for_it(monkeypatch, caplog):
    class Machine:
        roofline = PEAKS
        log = logging.getLogger("test")

    monkeypatch.setattr("common.gemm.onednn_takes", lambda dtype: dtype is torch.float32)
    assert shared.usable(["fp32", "bf16"], Machine) == ["fp32"]
    assert "bf16 is not measured" in caplog.text
    monkeypatch.setattr("common.gemm.onednn_takes", lambda dtype: True)
    assert shared.usable(["fp32", "bf16"], Machine) == ["fp32", "bf16"]


def test_bf16_has_targets_and_a_peak_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(shared, "usable", lambda precisions, ctx: precisions)
    settings = attrs.evolve(
        SETTINGS["encoder"], precisions=["bf16"], dropouts=[0.1], stages=["both"], plans=[]
    )
    frame = run_into(tmp_path, "encoder", settings)
    assert set(frame["claim"].dropna()) == {
        "transformer_dm.abstract.encoder_speedup",
        "transformer_dm.ours.bf16_over_eager",
        "transformer_dm.ours.peak_share_bf16",
    }
    share = frame[(frame["metric"] == "peak_share") & (frame["axis.system"] == "pytorch")]
    limit = frame[(frame["metric"] == "speedup") & (frame["axis.system"] == shared.LIMIT)]
    assert limit["value"].item() == pytest.approx(100 / share["value"].item())


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("aten::addmm", "contraction"),
        ("aten::bmm", "contraction"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "contraction"),
        ("aten::_softmax", "normalisation"),
        ("aten::_softmax_backward_data", "normalisation"),
        ("aten::native_layer_norm", "normalisation"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::sum", "normalisation"),
        ("aten::bernoulli_", "elementwise"),
        ("aten::div_", "elementwise"),
        ("aten::threshold_backward", "elementwise"),
        ("aten::copy_", "movement"),
        ("aten::empty", "movement"),
    ],
)
def test_operators_have_their_class(name, cls):
    assert breakdown.class_of(name) == cls


def test_only_stored_scores_take_memory_by_the_square_of_the_length(run):
    frame = run("memory")
    slopes = frame[frame["metric"] == "memory_slope"].set_index("axis.system")["value"]
    assert slopes["ours"] <= 1.1
    assert slopes["pytorch"] > 1.5
    peaks = frame[frame["metric"] == "peak_mb"].set_index(["axis.system", "axis.length"])["value"]
    # Scratch of the products, the same for every length, hides the square where it is short.
    growth = peaks["ours_stored", 512] - peaks["ours_stored", 256]
    assert growth > 2 * (peaks["ours_stored", 256] - peaks["ours_stored", 128])
    assert peaks["ours_stored", 512] > 10 * peaks["ours", 512]


def test_slope_is_the_exponent():
    assert memory.slope({n: 7.0 * n**1.5 for n in (2, 4, 16)}) == pytest.approx(1.5)


def test_peak_counts_what_lives_at_once():
    def frees():
        for _ in range(3):
            torch.empty(2**20, dtype=torch.uint8)

    def keeps():
        return [torch.empty(2**20, dtype=torch.uint8) for _ in range(3)]

    assert memory.peak_bytes(frees) == pytest.approx(2**20, rel=0.01)
    assert memory.peak_bytes(keeps) == pytest.approx(3 * 2**20, rel=0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [("dropouts", [0.95]), ("precisions", ["fp16"]), ("peers", ["jax"]), ("mkl", ["fast"])],
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        attrs.evolve(SETTINGS["encoder"], **{field: value})


# ---- A process of its own for MKL unlocked ----


def test_what_the_other_process_measured_is_kept_as_if_measured_here(monkeypatch, tmp_path):
    asked = []

    def records_of(experiment, settings, ctx):
        asked.append(settings)
        axes = {"precision": "fp32", "dropout": 0.1, "mkl": "unlocked", "stage": "both",
                "system": "ours", "baseline": "pytorch"}  # fmt: skip
        claim = "transformer_dm.ours.unlocked_over_eager"
        return [Record("speedup", 2.0, "x", claim=claim, low=1.9, high=2.1, axes=axes, rounds=15)]

    monkeypatch.setattr(shared, "_records_of", records_of)
    settings = attrs.evolve(SETTINGS["encoder_s2"], mkl=["unlocked"])
    frame = run_into(tmp_path, "encoder", settings)
    assert asked == [settings]
    (row,) = frame.to_dict("records")
    assert (row["value"], row["axis.mkl"]) == (2.0, "unlocked")


@pytest.mark.slow
def test_a_fresh_interpreter_measures_with_mkl_unlocked(tmp_path):
    settings = attrs.evolve(SETTINGS["encoder"], mkl=["unlocked"], plans=[], dropouts=[0.1])
    frame = run_into(tmp_path, "encoder", settings)
    assert set(frame["axis.mkl"]) == {"unlocked"}
    assert len(by_claim(frame, "ours.unlocked_over_eager")) == 1


def test_the_preloaded_library_answers_for_mkl():
    # Without torch, which is slow to load: that MKL asks it is seen in what it then measures.
    code = "from transformer_dm import mkl; print(mkl.is_unlocked())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **mkl.environment()},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"
