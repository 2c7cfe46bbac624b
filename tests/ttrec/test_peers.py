"""The peers compute what ours does; the index streams and the work count are what they say."""

import sys

import numpy as np
import pytest
import torch

from common.extras import MissingExtra
from ttrec import peers
from ttrec.cost import step_work
from ttrec.init import make_cores
from ttrec.shapes import TTShape
from ttrec.synthetic import draw_indices

SHAPE = TTShape(480, 16, (8, 8, 8), (2, 2, 4), (8, 8))


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    return peers.Problem(
        shape=SHAPE,
        cores=tuple(make_cores(SHAPE, target_var=1.0, generator=generator)),
        indices=torch.randint(0, 480, (60,), generator=generator),
        bounds=torch.tensor([0, 10, 10, 35, 60]),
        d_out=torch.randn(4, 16, generator=generator),
        lr=0.1,
    )


def test_tensor_train_candidates_make_the_same_step(problem):
    peers.assert_same_step(problem)


def test_a_wrong_candidate_is_caught(problem, monkeypatch):
    def lazy(problem):
        right = peers.torch_bmm(problem)
        start = right.rows(torch.arange(480))
        return peers.Candidate(right.step, lambda index: start[index])  # it never learns

    monkeypatch.setitem(peers.TENSOR_TRAIN, "torch_bmm", lazy)
    with pytest.raises(AssertionError):
        peers.assert_same_step(problem)


@pytest.mark.parametrize("name", list(peers.DENSE))
def test_dense_candidates_start_equal_and_step_their_rows(problem, name):
    candidate = peers.DENSE[name](problem)
    table = peers.reference.full(problem.cores, 480)
    index = torch.arange(480)
    peers.assert_close(candidate.rows(index), table)
    out = candidate.step()
    peers.assert_close(out, peers.ours(problem).step())
    owner = torch.repeat_interleave(torch.arange(4), torch.diff(problem.bounds))
    wanted = table.index_add(0, problem.indices, problem.d_out[owner], alpha=-0.1)
    peers.assert_close(candidate.rows(index), wanted)


def test_candidates_leave_the_problem_untouched(problem):
    before = [core.clone() for core in problem.cores]
    for make in (peers.TENSOR_TRAIN | peers.DENSE).values():
        make(problem).step()
    assert all(torch.equal(a, b) for a, b in zip(problem.cores, before, strict=True))


def test_missing_fbgemm_gives_the_pip_line(problem, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "fbgemm_gpu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingExtra, match=r'fbgemm_gpu is needed .*"mlsys21\[ttrec\]"'):
        peers.fbgemm(problem)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.05])
def test_indices_follow_the_law(exponent):
    rows, count = 50, 100_000
    index = draw_indices(rows, count, exponent, np.random.default_rng(0))
    share = np.arange(1, rows + 1) ** -exponent
    expected = count * share / share.sum()
    chi_square = ((np.bincount(index, minlength=rows) - expected) ** 2 / expected).sum()
    # 49 degrees of freedom: mean 49, standard deviation 9.9.
    assert chi_square < 49 + 4 * 9.9
    assert index.dtype == np.int64


def test_negative_exponents_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        draw_indices(5, 5, -1.0, np.random.default_rng(0))


def test_work_counts_every_distinct_prefix_once():
    shape = TTShape(480, 8, (8, 8, 8), (2, 2, 2), (4, 3))
    row = 3 * 64 + 5 * 8 + 1
    # P2 (2 x 4 by 4 x 6) once; P3 (4 x 3 by 3 x 2) for two rows that share both first digits.
    flops, moved = step_work(shape, np.array([row, row, row + 1]), batch=2)
    assert flops == 3 * 2 * (2 * 4 * 6 + 2 * 4 * 3 * 2)
    slices = 2 * 4 + 4 * 2 * 3 + 2 * (3 * 2)
    assert moved == 2 * 4 * slices + 2 * 4 * 2 * 8 + 8 * (3 + 3)
    alone, _ = step_work(shape, np.array([row]), batch=1)
    assert alone == 3 * 2 * (2 * 4 * 6 + 4 * 3 * 2)
