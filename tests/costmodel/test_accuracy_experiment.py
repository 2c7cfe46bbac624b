"""The experiment on how well speedups are predicted."""

import attrs
import numpy as np
import pytest

from common import claims
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, accuracy, pairs
from tests.costmodel.small_models import tiny_checkpoint
from tests.costmodel.small_pairs import write_pairs

SETTINGS = accuracy.Settings(
    model="",
    data="",
    programs=8,
    schedules=4,
    scored="all",
    again=1,
    seeds=1,
    systems=["recursive", "feed_forward", "constant", "best_constant"],
    epochs=1,
    batch=16,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "set", 10, 4)
    model = tiny_checkpoint(folder / "tiny.pt")
    return attrs.evolve(SETTINGS, data=str(folder / "set"), model=str(model))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings):
    """Records and frame of a run with nothing made up."""
    return run(tmp_path_factory.mktemp("results"), settings)


def run(folder, settings):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_accuracy")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_the_model_trained_before_is_judged_by_the_papers_claims(whole):
    records, frame = whole
    judged = {r.claim for r in records if r.claim}
    wanted = {claim for group in accuracy.CLAIMS.values() for claim in group}
    assert wanted | {"costmodel.ours.mape_of_constant"} <= judged
    # Ten programs say nothing about which model is better.
    assert not judged & {*accuracy.ORDERS.values()}
    assert judged <= set(claims.load("costmodel"))
    for chart in accuracy.charts(frame, {}):
        assert len(chart.to_svg()) > 1000


def test_every_system_is_scored_on_the_same_programs(whole):
    records, _ = whole
    here = {r.axes["system"] for r in records if r.axes.get("trained") == "here"}
    assert here == {*SETTINGS.systems}
    mape = {r.axes["system"]: r.value for r in records if r.metric == "mape" and "seed" in r.axes}
    assert mape["best_constant"] <= min(mape["constant"], 100.0)
    assert all(r.low <= r.value <= r.high for r in records if r.low is not None)
    errors = [r for r in records if r.metric == "mape_by_speedup"]
    counts = [r for r in records if r.metric == "pairs_by_speedup"]
    total = next(r for r in records if r.metric == "mape" and r.axes["trained"] == "before")
    mean = sum(e.value * c.value for e, c in zip(errors, counts, strict=True))
    assert mean / sum(c.value for c in counts) == pytest.approx(total.value)


def test_orders_are_judged_where_there_are_programs_enough(tmp_path, settings, monkeypatch):
    from costmodel.experiments import models

    monkeypatch.setattr(accuracy, "LEAST_TO_JUDGE", 2)
    monkeypatch.setattr(models, "predicted", lambda *data, **options: data[3].speedups)
    records, _ = run(tmp_path, attrs.evolve(settings, again=0))
    found = {(r.claim, r.axes["system"]) for r in records if r.claim in accuracy.ORDERS.values()}
    pair = "costmodel.sec.recursive_over_feed_forward"
    assert {(pair, "recursive"), (pair, "feed_forward")} <= found
    assert ("costmodel.ours.recursive_over_constant", "constant") in found


def test_a_second_measurement_is_near_the_first(settings):
    from costmodel.shards import labels, read_rows

    rows = pairs.first_programs(labels(read_rows(settings.data)), 1)
    found = pairs.measured_again(rows)
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_pairs_are_made_once_and_found_again(tmp_path, monkeypatch):
    from costmodel import dataset

    made = []
    monkeypatch.setattr(dataset, "generate", lambda *given, **options: made.append(given))

    class Given:
        log = None

        def data_folder(self, name, version):
            return tmp_path / f"{name}-v{version}"

    ctx = Given()
    ctx.log = type("Log", (), {"info": staticmethod(print)})
    own = pairs.folder(ctx, "", 3, 4)
    assert made == [(own, 3, 4)]
    write_pairs(tmp_path / "given", 2, 3)
    assert pairs.folder(ctx, str(tmp_path / "given"), 3, 4) == tmp_path / "given"
    assert len(made) == 1
