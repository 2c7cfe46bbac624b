"""The step of training set beside the recursion tree by tree."""

import attrs
import pytest
import torch

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.checkpoints import THREE_FIT
from costmodel.experiments import EXPERIMENTS, training_step
from costmodel.model import CostModel


def test_all_ways_give_one_loss_and_one_gradient():
    trees = training_step.random_trees(12, 3, seed=1)
    assert len(trees) == 12
    assert 1 < len({tree.shape for tree in trees}) < 12
    torch.manual_seed(0)
    model = CostModel(attrs.evolve(THREE_FIT, dropout=0.0))
    model.fit_scaling(trees)
    calls = training_step.steps(model, trees)
    loss, length = calls[training_step.BY_TREE]()
    assert length > 0
    for way in (training_step.OURS, training_step.BY_SHAPE):
        assert calls[way]()[0].item() == pytest.approx(loss.item(), rel=1e-5)
        assert calls[way]()[1].item() == pytest.approx(length.item(), rel=1e-4)


def test_both_peers_are_recorded_and_one_is_judged(tmp_path):
    settings = training_step.Settings(batch=6, schedules=2, halfwidth=5.0, max_seconds=0.5)
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_training_step")
    outcome = run_one(Job(experiment, settings, Options(results=tmp_path, isolate=False)))
    assert outcome.status == "ok", outcome.error
    store = Store(tmp_path)
    (found,) = store.run_list()
    claims = {r.axes["peer"]: r.claim for r in found.records if r.metric == "speedup"}
    assert claims == {
        training_step.BY_TREE: "costmodel.ours.training_step",
        training_step.BY_SHAPE: None,
    }
    assert [len(chart.to_svg()) > 1000 for chart in training_step.charts(store.frame(), {})] == [
        True
    ]
