"""The growth experiment: what it compares, the ceiling it holds workspaces to, and its charts."""

import attrs
import numpy as np
import pytest

from common import claims
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from ttrec import TTShape, problems
from ttrec.experiments import EXPERIMENTS, growth
from ttrec.kernels import library
from ttrec.synthetic import draw_indices

SETTINGS = growth.Settings(
    dim=16,
    rank=8,
    virtual_rows=[1000, 10_000_000],
    batches=[1, 3],
    exponents=[0.0, 1.05],
    workspaces=["16x1", "8x4"],
    workspace_dims=[16],
    workspace_ranks=[8],
    model_rank=1,
    halfwidth=0.5,
    max_seconds=0.05,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Records and frame of one run."""
    folder = tmp_path_factory.mktemp("results")
    (experiment,) = (e for e in EXPERIMENTS if e.name == "ttrec_growth")
    outcome = run_one(Job(experiment, SETTINGS, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_tables_of_many_and_few_rows_are_compared_once(run):
    (record,) = [r for r in run[0] if r.metric == "rows_time_ratio"]
    assert record.axes["rows"] == 10_000_000
    assert record.axes["rows_of_baseline"] == 1000
    assert record.claim == "ttrec.ours.rows_time"


def test_every_small_batch_is_set_beside_torch(run):
    found = {r.axes["batch"]: r for r in run[0] if r.metric == "small_speedup"}
    assert set(found) == {1, 3}
    assert {r.axes["baseline"] for r in found.values()} == {"torch_bmm"}


def test_models_of_every_size_are_drawn(run):
    found = {r.axes["tables"]: r for r in run[0] if r.metric == "init_seconds"}
    assert set(found) == {3, 5, 7}
    assert all(r.value > 0 for r in found.values())
    # Rank 1: a slice of q entries for every digit of every table.
    assert found[3].axes["entries"] < found[7].axes["entries"]


def test_ceiling_is_its_formula():
    shape = TTShape(8, 16, (2, 2, 2), (2, 2, 4), (3, 5))
    ends = 2 * (1 * 2 * 3) + 2 * (5 * 4 * 1)
    assert growth.workspace_ceiling(shape, 100, 40) == (
        16 * 100 + (8 + 4 * 16) * 40 + 2**20 + 4 * ends
    )
    assert (
        growth.workspace_ceiling(shape, 10**6, 40) - growth.workspace_ceiling(shape, 10**6 - 1, 40)
        == 16
    )
    assert growth.workspace_ceiling(shape, 4096, 0) == 16 * 4096 + 2**20 + 4 * 2 * ends


@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("rank", [8, 16, 32, 64])
def test_workspaces_of_the_benchmark_stay_below_their_ceiling(dim, rank, rng):
    shape = problems.benchmark_shape(dim, rank)
    kernels = library.kernels_of(tuple(shape.core_shapes))
    for bags, pooling in [(128, 1), (512, 1), (2048, 1), (4096, 1), (512, 20), (512, 100)]:
        for exponent in (0.0, 1.05):
            n = bags * pooling
            distinct = np.unique(draw_indices(shape.rows, n, exponent, rng)).size
            used = library.workspace_bytes(kernels, n, distinct)
            assert used <= growth.workspace_ceiling(shape, n, distinct), (n, exponent)


def test_charts_draw(run):
    drawn = growth.charts(run[1], claims.load("ttrec"))
    assert [chart.title for chart in drawn] == [
        "Small batches over gather + bmm in torch",
        "Workspace over its ceiling",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dim": 17}, "dim"),
        ({"workspaces": ["0x4"]}, "workspaces"),
        ({"virtual_rows": [10]}, "virtual_rows"),
    ],
)
def test_settings_refuse_what_cannot_be_measured(change, words):
    with pytest.raises(ValueError, match=words):
        attrs.evolve(SETTINGS, **change)
