"""The registered operators: opcheck, torch.compile, and the same result as the eager path."""

import copy

import pytest
import torch

from ttrec.bag import TTEmbeddingBag
from ttrec.kernels import tt_bag
from ttrec.kernels.tt_bag import MEAN, SHARE_ALL, SUM
from ttrec.optim import SGD, Adagrad

MAX = tt_bag.MAX
P, Q, R = (5, 4, 5), (2, 2, 2), (1, 4, 3, 1)


def make_cores(requires_grad):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(P[k], R[k], Q[k], R[k + 1], generator=generator).requires_grad_(requires_grad)
        for k in range(3)
    ]


INDEX, OFFSETS = torch.tensor([1, 99, 5, 5]), torch.tensor([0, 2, 2])


def arguments(cores, weights, mode, anchor=None, states=(), control=None, rule=0):
    return (
        cores, INDEX, OFFSETS, weights, anchor, list(states), control, False, mode, 100, -1, False,
        rule, False, True, tt_bag.AUTO, SHARE_ALL, 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("is_weighted", "mode"), [(False, SUM), (True, SUM), (False, MEAN), (False, MAX)]
)
def test_dense_operators_pass_opcheck(is_weighted, mode):
    weights = torch.rand(4).requires_grad_() if is_weighted else None
    torch.library.opcheck(
        torch.ops.ttrec.bag_forward.default, arguments(make_cores(True), weights, mode)
    )
    plain = make_cores(False)
    fixed = None if weights is None else weights.detach()
    _, *planned = tt_bag.bag_forward(*arguments(plain, fixed, mode))
    torch.library.opcheck(
        torch.ops.ttrec.bag_backward.default,
        (torch.randn(3, 8), plain, *planned, fixed, 4, is_weighted, False),
    )


@pytest.mark.parametrize("rule", [1, 2])
def test_fused_operators_pass_opcheck(rule):
    cores = make_cores(False)
    states = [torch.zeros_like(core) for core in cores] if rule == 2 else []
    control = torch.tensor([0.0, 0.0, 0.1, 1e-10], dtype=torch.float64)
    anchor = torch.empty(0, requires_grad=True)
    # Backward steps the cores, so running an example twice cannot give equal results; schema and
    # fake kernels are checked here, the rest by compiling below.
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        torch.ops.ttrec.bag_forward.default,
        arguments(cores, None, SUM, anchor, states, control, rule),
        test_utils=checks,
    )
    _, *planned = tt_bag.bag_forward(*arguments(cores, None, SUM, None, states, control, rule))
    torch.library.opcheck(
        torch.ops.ttrec.bag_backward_fused.default,
        (torch.randn(3, 8), cores, states, control, *planned, None, 4, False, False, rule, True),
        test_utils=checks,
    )


@pytest.mark.parametrize("engine", ["aot_eager", "inductor"])
@pytest.mark.parametrize("optimizer", [None, SGD(0.1), Adagrad(0.1)])
def test_compiled_whole_equals_eager(optimizer, engine):
    torch.manual_seed(0)
    eager = TTEmbeddingBag(500, 16, rank=4, optimizer=optimizer, target_var=1.0)
    module = copy.deepcopy(eager)
    compiled = torch.compile(module, fullgraph=True, backend=engine)
    for seed in range(3):
        index = torch.randint(0, 500, (6, 4), generator=torch.Generator().manual_seed(seed))
        outs = [bag(index) for bag in (eager, compiled)]
        assert torch.equal(*outs)
        for out in outs:
            out.square().sum().backward()
        for a, b in zip(eager.cores, module.cores, strict=True):
            assert torch.equal(a, b)
            assert optimizer is not None or torch.equal(a.grad, b.grad)
    torch._dynamo.reset()


def test_eager_path_and_operator_agree_bit_for_bit():
    cores = make_cores(True)
    d_out = torch.randn(3, 8)
    by_operator = tt_bag.bag_forward(*arguments(cores, None, SUM))[0]
    wanted = torch.autograd.grad(by_operator, cores, d_out)
    *given, _needs_grad, store, sharing, number = arguments(cores, None, SUM)
    directly = tt_bag.pool(*given, store, sharing, number)
    assert directly.grad_fn.name() == "TTBagBackward"
    assert torch.equal(directly, by_operator)
    for a, b in zip(torch.autograd.grad(directly, cores, d_out), wanted, strict=True):
        assert torch.equal(a, b)
