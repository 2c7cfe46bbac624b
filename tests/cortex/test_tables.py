"""Tables over the vocabulary: rows of any number equal the value computed for one token."""

import numpy as np
import pytest

from cortex import models, ra, tables, weights
from cortex.lower import lower
from cortex.schedule import Schedule


@pytest.mark.parametrize("vocab", [1, 7, 1025])
@pytest.mark.parametrize("model", [models.TreeLSTM, models.TreeGRU, models.TreeFC])
def test_rows_are_those_of_one_token_alone(monkeypatch, model, vocab):
    monkeypatch.setattr(tables, "_ROWS", 4)
    traced = ra.trace(model(5, vocab))
    found = lower(traced, Schedule.auto(traced)).tables
    params = {k: np.asarray(v) for k, v in weights.seeded(traced, seed=1).items()}
    built = tables.build(found, params)
    looked_up = {
        e.param.name for t in found for e in ra.walk((t.expr,)) if isinstance(e, ra.Lookup)
    }
    assert found
    assert looked_up
    for token in {0, vocab // 2, vocab - 1}:
        alone = {k: v[token : token + 1] if k in looked_up else v for k, v in params.items()}
        wanted = tables.build(found, alone)
        for name in built:
            assert built[name].dtype == np.float32
            assert len(built[name]) == vocab
            np.testing.assert_allclose(built[name][token], wanted[name][0], rtol=1e-6, atol=1e-7)


def test_a_value_of_two_tables_is_computed_once(monkeypatch):
    traced = ra.trace(models.TreeLSTM(4, 9))
    found = lower(traced, Schedule.auto(traced)).tables
    params = {k: np.asarray(v) for k, v in weights.seeded(traced, seed=1).items()}
    calls = []
    tanh = tables._UNARY["tanh"]
    monkeypatch.setitem(tables._UNARY, "tanh", lambda x: (calls.append(x.shape), tanh(x))[1])
    tables.build(found, params)
    distinct = {e for t in found for e in ra.walk((t.expr,)) if isinstance(e, ra.Unary)}
    assert len(calls) == sum(e.op == "tanh" for e in distinct)
