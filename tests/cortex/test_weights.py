"""Weights from dicts and modules; every problem is named at once."""

import numpy as np
import pytest
import torch

from cortex import models, ra, weights
from cortex.errors import WeightError

MODEL = ra.trace(models.TreeLSTM(4, 9))


def good():
    return weights.seeded(MODEL)


def test_missing_unknown_and_misshapen_are_named_together():
    given = good()
    del given["E"], given["b"]
    given |= {"Extra": np.zeros(3), "Uf": np.zeros((4, 5))}
    with pytest.raises(WeightError) as error:
        weights.load(MODEL, given)
    for part in ("missing E, b", "unknown Extra", "Uf must be [4, 4], got [4, 5]", "TreeLSTM"):
        assert part in str(error.value)


def test_what_is_not_finite_warns_or_is_refused():
    given = good()
    given["Uf"][1, 1] = np.nan
    with pytest.warns(RuntimeWarning, match="Uf"):
        weights.load(MODEL, given)
    with pytest.raises(WeightError, match="not finite: Uf"):
        weights.load(MODEL, given, strict=True)


def test_weights_are_contiguous_copies():
    given = {k: torch.tensor(v).double() for k, v in good().items()}
    given["Uf"] = given["Uf"].T.requires_grad_()
    found = weights.load(MODEL, given)
    assert all(v.flags.c_contiguous and v.dtype == np.float32 for v in found.values())
    np.testing.assert_array_equal(found["Uf"], good()["Uf"].T)
    arrays = good()
    found = weights.load(MODEL, arrays)
    arrays["Uf"][:] = 0
    assert found["Uf"].any()


def test_seeded_weights_depend_on_seed_and_name():
    a, b, c = weights.load(MODEL), weights.load(MODEL, seed=0), weights.load(MODEL, seed=1)
    assert all((a[k] == b[k]).all() and (a[k] != c[k]).any() for k in a)
    assert [*a] == [*MODEL.params]


class Tree(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(9, 16)
        self.iou = torch.nn.Linear(4, 12)
        self.f = torch.nn.Linear(4, 4)


NAMES = {
    "E": "emb.weight",
    "Uiou": "iou.weight.T",
    "Uf": "f.weight[0:4].T",
    "b": "offset? + offset?",
}


def test_a_user_map_names_transposes_slices_and_sums():
    module = Tree()
    for given in ((module, NAMES), weights.Mapped(module.state_dict(), NAMES)):
        found = weights.load(MODEL, given)
        np.testing.assert_array_equal(found["Uiou"], module.iou.weight.detach().numpy().T)
        assert not found["b"].any()


def test_a_map_to_absent_or_unreadable_names_names_them_all():
    names = NAMES | {"Uf": "g.weight", "b": "iou.bias + f.offset", "E": "len(emb)"}
    with pytest.raises(WeightError) as error:
        weights.load(MODEL, (Tree(), names))
    for part in ("g.weight", "f.offset", "len(emb)"):
        assert part in str(error.value)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"proj_size": 2}])
def test_recurrences_of_another_kind_are_refused(options):
    traced = ra.trace(models.LSTM(4, None, inputs="inside", width=3))
    with pytest.raises(WeightError, match=next(iter(options))):
        weights.load(traced, torch.nn.LSTM(3, 4, **options))


def test_other_values_are_refused():
    with pytest.raises(WeightError, match="int"):
        weights.load(MODEL, 3)
    with pytest.raises(WeightError, match="b is no array"):
        weights.load(MODEL, good() | {"b": "text"})
