"""EncoderLayer beside nn.TransformerEncoderLayer: results, gradients, masks, memory, misuse."""

import copy
import functools
import io
import itertools
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from common import gemm, large_tensors, native
from transformer_dm import ops
from transformer_dm.layer import EncoderLayer, optimize
from transformer_dm.options import PLANS
from transformer_dm.reference.layer import keep_mask

FUSED = tuple(plan for plan in PLANS if plan != "unfused")
# Norm-relative. A float32 sum of k terms is off by about sqrt(k) 2^-24 of their size; the longest
# here, weight gradients over 1000 tokens, by 1.9e-6, and a layer chains a dozen products.
FP32 = 5e-6


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """Compile the kernels first: it takes a while, and no test is to blame for it."""
    layer = EncoderLayer(32, 2, 48, plan="ours")
    layer(torch.zeros(1, 2, 32)).sum().backward()


@pytest.fixture(autouse=True)
def quiet():
    """What torch says of its own prototypes and of mixed masks is not about us."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def error(found, wanted):
    """Norm of the difference over the norm wanted."""
    found, wanted = found.double(), wanted.double()
    size = float(wanted.norm())
    return float((found - wanted).norm()) / (size if size else 1.0)


def torch_layer(n=32, heads=2, u=48, activation="relu", dropout=0.0, **options):
    """Torch's layer with no parameter at a value that hides mistakes, such as 0 or 1."""
    layer = nn.TransformerEncoderLayer(
        n, heads, u, dropout, activation, **{"batch_first": True, **options}
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def step(layer, x, d_y, **masks):
    """Output, gradient of x and of every parameter."""
    x = x.detach().clone().requires_grad_()
    y = layer(x, **masks)
    grads = torch.autograd.grad(y, [x, *layer.parameters()], d_y)
    return [y.detach(), *grads]


def assert_same_step(layer, peer, x, **masks):
    d_y = torch.randn_like(x)
    found, wanted = step(layer, x, d_y, **masks), step(peer, x, d_y, **masks)
    names = ["y", "x", *(name for name, _ in layer.named_parameters())]
    for name, one, other in zip(names, found, wanted, strict=True):
        assert one.shape == other.shape, name
        assert one.dtype is other.dtype, name
        if name == "self_attn.in_proj_bias":
            # The gradient of the keys' bias is 0 in exact arithmetic: only its rounding is left.
            n = one.numel() // 3
            one, other = (torch.cat([grad[:n], grad[2 * n :]]) for grad in (one, other))
        assert error(one, other) <= FP32, name


# ---- Results without dropout ----


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("plan", PLANS)
def test_same_step_as_torch(plan, activation, norm_first, bias):
    peer = torch_layer(activation=activation, norm_first=norm_first, bias=bias)
    layer = EncoderLayer.from_torch(peer, plan=plan)
    assert_same_step(layer, peer, torch.randn(3, 9, 32))


@pytest.mark.parametrize("length", [1, 7, 127, 128, 129])
@pytest.mark.parametrize("norm_first", [False, True])
def test_lengths_around_a_group_of_mask_bits(length, norm_first):
    peer = torch_layer(norm_first=norm_first, activation="gelu")
    assert_same_step(EncoderLayer.from_torch(peer), peer, torch.randn(2, length, 32))


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("length", [512, 1000])
def test_long_sequences(plan, length):
    peer = torch_layer(64, 4, 96)
    assert_same_step(EncoderLayer.from_torch(peer, plan=plan), peer, torch.randn(2, length, 64))


@pytest.mark.parametrize("plan", FUSED)
@pytest.mark.parametrize(
    ("n", "heads", "u"),
    [(48, 3, 31), (64, 2, 1), (128, 2, 160), (160, 2, 129), (256, 2, 72), (21, 3, 10), (5, 5, 3)],
)
def test_widths_that_fill_no_vector(plan, n, heads, u):
    peer = torch_layer(n, heads, u)
    assert_same_step(EncoderLayer.from_torch(peer, plan=plan), peer, torch.randn(2, 17, n))


MASKS = {
    "bool": lambda b, h, n: {"src_mask": torch.ones(n, n).triu(1).bool()},
    "float": lambda b, h, n: {"src_mask": torch.randn(n, n)},
    "by head": lambda b, h, n: {"src_mask": torch.randn(b * h, n, n)},
    "padding": lambda b, h, n: {"src_key_padding_mask": padding(b, n)},
    "float padding": lambda b, h, n: {
        "src_key_padding_mask": torch.zeros(b, n).masked_fill(padding(b, n), -torch.inf)
    },
    "weighed padding": lambda b, h, n: {"src_key_padding_mask": torch.randn(b, n)},
    "both": lambda b, h, n: {
        "src_mask": torch.randn(n, n),
        "src_key_padding_mask": torch.zeros(b, n).masked_fill(padding(b, n), -torch.inf),
    },
    "both weighed": lambda b, h, n: {
        "src_mask": torch.randn(b * h, n, n),
        "src_key_padding_mask": torch.randn(b, n),
    },
    "causal": lambda b, h, n: {
        "src_mask": nn.Transformer.generate_square_subsequent_mask(n),
        "is_causal": True,
    },
    "causal and padding": lambda b, h, n: {
        "src_mask": nn.Transformer.generate_square_subsequent_mask(n),
        "is_causal": True,
        "src_key_padding_mask": torch.zeros(b, n).masked_fill(padding(b, n), -torch.inf),
    },
}


def padding(batch, length):
    """True for the tokens behind a sequence's end; every sequence has some."""
    ends = torch.arange(1, batch + 1) * length // batch
    return torch.arange(length) >= ends[:, None]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("plan", PLANS)
def test_masks(plan, mask):
    peer = torch_layer()
    masks = MASKS[mask](3, 2, 13)
    layer = EncoderLayer.from_torch(peer, plan=plan)
    assert_same_step(layer, peer, torch.randn(3, 13, 32), **masks)


@pytest.mark.parametrize("plan", PLANS)
def test_is_causal_needs_no_mask(plan):
    layer = EncoderLayer(32, 2, 48, 0.0, plan=plan)
    x = torch.randn(2, 9, 32)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    torch.testing.assert_close(layer(x, is_causal=True), layer(x, mask), rtol=1e-5, atol=1e-5)
    later = x.clone()
    later[:, 5:] = 0
    assert torch.equal(layer(x, is_causal=True)[:, :5], layer(later, is_causal=True)[:, :5])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_sequence_that_is_all_padding_gets_no_nan(plan, norm_first):
    layer = EncoderLayer(32, 2, 48, 0.0, norm_first=norm_first, plan=plan)
    with torch.no_grad():
        layer.self_attn.out_proj.bias.normal_()
    x = torch.randn(2, 6, 32)
    masked = torch.tensor([[False] * 4 + [True] * 2, [True] * 6])
    found = step(layer, x, torch.randn_like(x), src_key_padding_mask=masked)
    assert all(tensor.isfinite().all() for tensor in found)
    # Nothing attended to is a layer whose attention says its output bias alone.
    bias = layer.self_attn.out_proj.bias
    if norm_first:
        middle = x[1] + bias
        wanted = middle + feed_forward(layer, layer.norm2(middle))
    else:
        middle = layer.norm1(x[1] + bias)
        wanted = layer.norm2(middle + feed_forward(layer, middle))
    torch.testing.assert_close(found[0][1], wanted.detach(), rtol=1e-5, atol=1e-5)


def feed_forward(layer, x):
    return layer.linear2(functional.relu(layer.linear1(x)))


@pytest.mark.parametrize("plan", PLANS)
def test_sequence_first(plan):
    peer = torch_layer(batch_first=False)
    layer = EncoderLayer.from_torch(peer, plan=plan)
    x = torch.randn(7, 3, 32)
    assert_same_step(layer, peer, x, src_key_padding_mask=padding(3, 7))


@pytest.mark.parametrize("plan", PLANS)
def test_input_of_any_strides(plan):
    peer = torch_layer()
    layer = EncoderLayer.from_torch(peer, plan=plan)
    whole = torch.randn(32, 14, 3)
    x = whole.permute(2, 1, 0)[:, ::2]
    assert not x.is_contiguous()
    d_y = torch.randn(3, 7, 32)
    xs = [x.detach().requires_grad_() for _ in range(2)]
    for one, other in zip(
        *(torch.autograd.grad(f(y), y, d_y) for f, y in zip((layer, peer), xs, strict=True)),
        strict=True,
    ):
        assert error(one, other) <= FP32


@pytest.mark.parametrize("plan", FUSED)
@pytest.mark.parametrize("norm_first", [False, True])
def test_recomputing_the_activation_changes_no_bit(plan, norm_first):
    layer = EncoderLayer(
        32, 2, 48, 0.2, "gelu", norm_first=norm_first, plan=plan, deterministic=True
    )
    again = copy.deepcopy(layer)
    again.recompute_activation = True
    x, d_y = torch.randn(2, 9, 32), torch.randn(2, 9, 32)
    results = []
    for one in (layer, again):
        torch.manual_seed(3)
        results.append(step(one, x, d_y))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_in_nothing_out(plan, norm_first, batch):
    layer = EncoderLayer(32, 2, 48, 0.1, norm_first=norm_first, plan=plan)
    x = torch.randn(batch, 0 if batch else 5, 32)
    y, d_x, *grads = step(layer, x, torch.empty_like(x))
    assert y.shape == d_x.shape == x.shape
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("plan", FUSED)
def test_gradients_only_where_they_are_wanted(plan):
    whole = EncoderLayer(32, 2, 48, 0.0, plan=plan, deterministic=True)
    x, d_y = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    wanted = dict(zip(["x", *dict(whole.named_parameters())], step(whole, x, d_y)[1:], strict=True))
    for frozen in ("self_attn", "linear1", "norm1"):
        layer = copy.deepcopy(whole)
        getattr(layer, frozen).requires_grad_(False)
        layer(x).backward(d_y)  # the input wants none either
        for name, parameter in layer.named_parameters():
            if name.startswith(frozen):
                assert parameter.grad is None
            else:
                assert torch.equal(parameter.grad, wanted[name]), name
    y = whole(x)
    with torch.no_grad():
        assert torch.equal(whole(x), y)


@pytest.mark.parametrize("plan", FUSED)
@pytest.mark.parametrize("norm_first", [False, True])
def test_bf16_is_nearly_as_good_as_torchs(plan, norm_first):
    exact = torch_layer(64, 4, 96, "gelu", norm_first=norm_first).double()
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())
    x, d_y = (torch.randn(2, 65, 64).bfloat16() for _ in range(2))
    wanted = step(exact, x.double(), d_y.double())
    peer = copy.deepcopy(exact).bfloat16()
    eager = step(peer, x, d_y)
    found = step(EncoderLayer.from_torch(peer, plan=plan), x, d_y)
    for name, *tensors in zip(
        ["y", "x", *dict(exact.named_parameters())], found, eager, wanted, strict=True
    ):
        if name == "self_attn.in_proj_bias":
            n = tensors[0].numel() // 3
            tensors = [torch.cat([grad[:n], grad[2 * n :]]) for grad in tensors]
        ours, theirs, right = tensors
        assert ours.dtype is torch.bfloat16
        # Rounding the result itself is an error neither can avoid.
        assert error(ours, right) <= max(1.5 * error(theirs, right), 2.0**-8), name


def test_float64_runs_in_plain_torch():
    peer = torch_layer(activation="gelu").double()
    layer = EncoderLayer(32, 2, 48, 0.0, "gelu", dtype=torch.float64)
    layer.load_state_dict(peer.state_dict())
    x, d_y = torch.randn(2, 5, 32).double(), torch.randn(2, 5, 32).double()
    for one, other in zip(step(layer, x, d_y), step(peer, x, d_y), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("norm_first", [False, True])
def test_gradients_of_the_reference_by_differences(norm_first):
    layer = EncoderLayer(
        6, 2, 5, (0.3, 0.2, 0.3, 0.2), "gelu", norm_first=norm_first, dtype=torch.float64
    )

    def run(x):
        torch.manual_seed(8)  # the same masks at every point
        return layer(x)

    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, x)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("plan", PLANS)
def test_special_numbers_spread_as_in_torch(plan, value):
    peer = torch_layer()
    layer = EncoderLayer.from_torch(peer, plan=plan)
    x = torch.randn(2, 5, 32)
    x[1, 2, 3] = value
    found, wanted = layer(x), peer(x)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert found[0].isfinite().all()


# ---- Dropout ----


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("plan", FUSED)
def test_dropout_is_plain_torch_with_the_same_masks(plan, activation, norm_first):
    peer = torch_layer(activation=activation, norm_first=norm_first)
    layer = EncoderLayer.from_torch(peer, plan=plan)
    plain = EncoderLayer.from_torch(peer, plan="unfused")
    x, d_y = torch.randn(2, 37, 32), torch.randn(2, 37, 32)
    one_each = [tuple(0.5 * (site == i) for i in range(4)) for site in range(4)]
    for rates in ((0.1, 0.2, 0.3, 0.4), *one_each):
        results = []
        for one in (layer, plain):
            set_rates(one, rates)
            torch.manual_seed(11)
            results.append(step(one, x, d_y))
        assert error(results[0][0], peer(x)) > 0.05
        for found, wanted in zip(*results, strict=True):
            assert error(found, wanted) <= FP32


def set_rates(layer, rates):
    layer.self_attn.dropout, layer.dropout1.p, layer.dropout.p, layer.dropout2.p = rates


def test_masks_of_the_reference_are_dropout():
    """Torch's layer with its four dropouts replaced by the masks: the reference adds nothing."""
    peer = torch_layer(dropout=0.25)
    layer = EncoderLayer.from_torch(peer, plan="unfused")
    seed = torch.tensor(5)
    x = torch.randn(2, 9, 32)

    def dropped(stream):
        def forward(tensor):
            columns = tensor.shape[-1]
            kept = keep_mask(seed, tensor.numel() // columns, columns, 0.25, stream)
            return tensor * kept.view(tensor.shape) / 0.75

        return forward

    peer.self_attn.dropout = 0.0
    set_rates(layer, (0.0, 0.25, 0.25, 0.25))
    for part, stream in (("dropout1", 1), ("dropout", 2), ("dropout2", 3)):
        getattr(peer, part).forward = dropped(stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformer_dm.layer._draw_seed", lambda: seed)
        assert error(layer(x), peer(x)) <= FP32


@pytest.mark.parametrize("plan", FUSED)
def test_gradient_agrees_with_differences_along_a_line(plan):
    layer = EncoderLayer(32, 2, 48, 0.2, "gelu", plan=plan)
    x, d_y, line = (torch.randn(2, 9, 32) for _ in range(3))

    def along(distance):
        torch.manual_seed(4)
        with torch.no_grad():
            return float((layer(x + distance * line).double() * d_y).sum())

    torch.manual_seed(4)
    d_x = step(layer, x, d_y)[1]
    slope = float((d_x.double() * line).sum())
    # A difference over 2h is off by h^2, and by rounding, 1e-7 of the sum, over h.
    assert (along(1e-3) - along(-1e-3)) / 2e-3 == pytest.approx(slope, rel=5e-3, abs=2e-2)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("site", range(4))
def test_dropping_everything_gives_finite_gradients(plan, site):
    rates = [0.0] * 4
    rates[site] = 1.0
    layer = EncoderLayer(32, 2, 48, tuple(rates), plan=plan)
    x = torch.randn(2, 5, 32)
    found = step(layer, x, torch.randn_like(x))
    assert all(tensor.isfinite().all() for tensor in found)
    gone = ("self_attn.in_proj", "self_attn.out_proj.", "linear1.", "linear2.")[site]
    for (name, _), grad in zip(layer.named_parameters(), found[2:], strict=True):
        assert not name.startswith(gone) or (grad == 0).all(), name


@pytest.mark.parametrize("plan", PLANS)
def test_seed_comes_from_torchs_generator_and_only_where_it_is_used(plan):
    layer = EncoderLayer(32, 2, 48, 0.3, plan=plan)
    x = torch.randn(1, 5, 32)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    before = torch.get_rng_state()
    layer.eval()(x)
    set_rates(layer.train(), (1e-6,) * 4)  # rounds to no dropout
    layer(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_all_plans_drop_the_same_elements():
    layers = [EncoderLayer(32, 2, 48, 0.3, plan=plan) for plan in PLANS]
    x = torch.randn(2, 9, 32)
    results = []
    for layer in layers:
        layer.load_state_dict(layers[0].state_dict())
        torch.manual_seed(2)
        results.append(layer(x))
    for other in results[1:]:
        assert error(other, results[0]) <= FP32


# ---- Determinism ----


@pytest.mark.parametrize("how", ["argument", "context"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plan", FUSED)
def test_same_bits_for_any_number_of_threads(plan, dtype, how):
    layer = EncoderLayer(64, 4, 96, 0.1, plan=plan, dtype=dtype, deterministic=how == "argument")
    x, d_y = (torch.randn(2, 70, 64).to(dtype) for _ in range(2))
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            torch.manual_seed(6)
            if how == "argument":
                results.append(step(layer, x, d_y))
            else:
                leaf = x.clone().requires_grad_()
                with gemm.deterministic():
                    y = layer(leaf)
                # Backward is outside, and still repeats.
                results.append([y, *torch.autograd.grad(y, [leaf, *layer.parameters()], d_y)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


# ---- The module ----


@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_goes_both_ways(bias):
    peer = nn.TransformerEncoderLayer(32, 2, 48, bias=bias, batch_first=True)
    layer = EncoderLayer(32, 2, 48, bias=bias)
    layer.load_state_dict(peer.state_dict(), strict=True)
    assert list(layer.state_dict()) == list(peer.state_dict())
    back = nn.TransformerEncoderLayer(32, 2, 48, bias=bias)
    back.load_state_dict(layer.state_dict(), strict=True)
    for name, value in peer.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)
    assert set(layer.state_dict()) <= set(ops.PARAMETERS)


def test_first_values_are_torchs():
    torch.manual_seed(9)
    peer = nn.TransformerEncoderLayer(32, 2, 48)
    torch.manual_seed(9)
    layer = EncoderLayer(32, 2, 48)
    for name, value in peer.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name


@pytest.mark.parametrize(
    "activation", ["relu", "gelu", functional.relu, functional.gelu, nn.ReLU(), nn.GELU()]
)
def test_layers_convert_both_ways_and_share_parameters(activation):
    peer = torch_layer(activation=activation, norm_first=True, layer_norm_eps=1e-3).eval()
    layer = EncoderLayer.from_torch(peer)
    set_rates(layer, (0.1, 0.2, 0.3, 0.4))
    back = layer.to_torch()
    assert type(back) is nn.TransformerEncoderLayer
    assert (back.self_attn.dropout, back.dropout1.p, back.dropout.p, back.dropout2.p) == layer.rates
    assert not layer.training
    assert not back.training
    for other in (layer, back):
        for one, two in zip(peer.named_parameters(), other.named_parameters(), strict=True):
            assert one[0] == two[0]
            assert one[1] is two[1]
    x = torch.randn(2, 5, 32)
    assert error(layer(x), peer(x)) <= FP32
    assert error(back(x), peer(x)) <= FP32


@pytest.mark.parametrize("plan", PLANS)
def test_copies_compute_the_same(plan):
    rates = (0.1, 0.2, 0.3, 0.4)
    layer = EncoderLayer(32, 2, 48, rates, "gelu", norm_first=True, plan=plan, deterministic=True)
    x = torch.randn(2, 5, 32)

    def run(one):
        torch.manual_seed(1)
        return one(x)

    wanted = run(layer)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(run(other), wanted)
        assert repr(other) == repr(layer)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("plan", FUSED)
def test_activation_checkpointing_gives_the_same_gradients(plan, reentrant):
    layer = EncoderLayer(32, 2, 48, 0.2, plan=plan, deterministic=True)
    x, d_y = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    torch.manual_seed(1)
    wanted = step(layer, x, d_y)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(1)
    y = checkpoint(layer, leaf, use_reentrant=reentrant)
    assert torch.equal(y, wanted[0])
    y.backward(d_y)
    found = [leaf.grad, *(parameter.grad for parameter in layer.parameters())]
    for one, other in zip(found, wanted[1:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("plan", FUSED)
def test_gradients_accumulate(plan):
    layer = EncoderLayer(32, 2, 48, 0.0, plan=plan, deterministic=True)
    xs, d_ys = torch.randn(2, 2, 5, 32), torch.randn(2, 2, 5, 32)
    parts = [step(layer, x, d_y)[2:] for x, d_y in zip(xs, d_ys, strict=True)]
    for x, d_y in zip(xs, d_ys, strict=True):
        layer(x).backward(d_y)
    for parameter, one, other in zip(layer.parameters(), *parts, strict=True):
        assert torch.equal(parameter.grad, one + other)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("plan", ["flash", "ours"])
def test_fifty_steps_of_training_follow_torchs(plan, norm_first):
    peer = torch_layer(activation="gelu", norm_first=norm_first)
    layer = EncoderLayer.from_torch(copy.deepcopy(peer), plan=plan)
    x, target = torch.randn(4, 11, 32), torch.randn(4, 11, 32)
    losses = []
    for one in (layer, peer):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(50):
            optimizer.zero_grad()
            loss = functional.mse_loss(one(x), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss))
    assert losses[0][-1] < 0.9 * losses[0][0]
    for ours, theirs in zip(*losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


# ---- Memory ----


def saved_bytes(layer, x):
    """Bytes kept for backward beside the parameters, each storage counted once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert y.requires_grad
    return sum(kept.values())


# A quarter of the paper's widths: what counts is values a token and width, H L / N as there.
@pytest.mark.parametrize(("length", "most"), [(512, 0.36), (1024, 0.25)])
def test_backward_keeps_a_third_of_what_torchs_keeps(length, most):
    peer = nn.TransformerEncoderLayer(256, 4, 1024, 0.1, batch_first=True)
    layer = EncoderLayer.from_torch(peer)
    x = torch.randn(1, length, 256, requires_grad=True)
    ours, theirs = saved_bytes(layer, x), saved_bytes(peer, x)
    assert ours <= most * theirs
    # x, qkv, o, two normalised sums, y1, h and a; statistics and bits in the remaining fifth.
    assert 16 <= ours / x.nbytes <= 16.3
    layer.recompute_activation = True
    assert 12 <= saved_bytes(layer, x) / x.nbytes <= 12.3


def largest_allocation(run):
    with large_tensors.not_kept(), torch.profiler.profile(profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


def test_flash_never_holds_the_scores():
    heads, length = 8, 512
    scores = heads * length**2 * 4
    x, d_y = torch.randn(1, length, 128), torch.randn(1, length, 128)
    for plan, holds in (("flash", False), ("ours", True)):
        layer = EncoderLayer(128, heads, 128, 0.1, plan=plan)
        step(layer, x, d_y)  # memory of the kernels' own is there from now on
        largest = largest_allocation(functools.partial(step, layer, x, d_y))
        assert (largest >= scores) == holds


# ---- Tracing ----


def operands(plan, p, bias, norm_first, needs_grad):
    layer = EncoderLayer(32, 2, 48, p, "gelu", norm_first=norm_first, bias=bias)
    present = [parameter.detach().requires_grad_(needs_grad) for parameter in layer.parameters()]
    names = list(dict(layer.named_parameters()))
    order = [names.index(name) for name in ops.PARAMETERS if name in names]
    x = torch.randn(2, 5, 32, requires_grad=needs_grad)
    how = (plan, 2, "gelu", [p] * 4, [1e-5] * 2, norm_first, False, norm_first, False)
    return x, [present[i] for i in order], how


@pytest.mark.parametrize(
    ("plan", "p", "bias", "norm_first"),
    [
        ("flash", 0.1, True, False),
        ("flash", 0.0, False, True),
        ("ours", 0.1, True, True),
        ("paper", 0.0, True, False),
    ],
)
def test_operators_pass_opcheck(plan, p, bias, norm_first):
    seed, mask = torch.tensor(7), torch.randn(5, 5)
    x, present, how = operands(plan, p, bias, norm_first, True)
    torch.library.opcheck(ops.encoder_forward, (x, present, mask, padding(2, 5), seed, *how))
    x, present, how = operands(plan, p, bias, norm_first, False)
    y, *saved = ops.encoder_forward(x, present, mask, padding(2, 5), seed, *how)
    needs = [True] * (1 + len(present))
    torch.library.opcheck(
        ops.encoder_backward,
        (torch.randn_like(y), x, present, saved, mask, padding(2, 5), seed, needs, *how),
    )


def test_mask_operator_passes_opcheck():
    torch.library.opcheck(keep_mask, (torch.tensor(3), 4, 130, 0.3, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "bias"), [*((plan, True) for plan in PLANS), ("flash", False)])
def test_compiles_into_one_graph(plan, bias):
    torch._dynamo.reset()  # it gives up after as many layers as there are cases
    layer = EncoderLayer(32, 2, 48, 0.2, "gelu", bias=bias, plan=plan)
    compiled = torch.compile(layer, fullgraph=True)
    x, d_y = torch.randn(2, 7, 32), torch.randn(2, 7, 32)
    masks = {"src_key_padding_mask": padding(2, 7)}
    # Every call has a seed of its own.
    assert not torch.equal(compiled(x, **masks), compiled(x, **masks))
    layer.eval()
    found, wanted = step_of(compiled, layer, x, d_y, masks), step(layer, x, d_y, **masks)
    for one, other in zip(found, wanted, strict=True):
        assert error(one, other) <= FP32


def step_of(compiled, layer, x, d_y, masks):
    x = x.clone().requires_grad_()
    y = compiled(x, **masks)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], d_y)]


def test_compiled_layer_traced_eagerly_draws_and_differentiates():
    layer = EncoderLayer(32, 2, 48, 0.2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, d_y = torch.randn(2, 7, 32), torch.randn(2, 7, 32)
    torch.manual_seed(1)
    found = step_of(compiled, layer, x, d_y, {})
    torch.manual_seed(1)
    for one, other in zip(found, step(layer, x, d_y), strict=True):
        assert error(one, other) <= FP32


# ---- In models ----


def test_works_inside_torchs_encoder():
    layer = torch_layer()
    peer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
    found = optimize(peer)
    assert found.replaced == ("layers.0", "layers.1")
    assert not found.left_alone
    assert all(type(one) is EncoderLayer for one in found.module.layers)
    assert all(type(one) is nn.TransformerEncoderLayer for one in peer.layers)
    x, masked = torch.randn(3, 7, 32), padding(3, 7)
    wanted = peer(x, src_key_padding_mask=masked)
    assert error(found.module(x, src_key_padding_mask=masked), wanted) <= FP32
    # Torch would pack the batch here, and lose what is computed for padding.
    found.module.eval()
    with torch.no_grad():
        y = found.module(x, src_key_padding_mask=masked)
    assert error(y, wanted) <= FP32


def test_optimize_in_place_keeps_parameters():
    model = nn.ModuleDict({"a": torch_layer(), "b": nn.Linear(3, 3)})
    model["c"] = model["a"]  # used twice, replaced by one
    before = list(model.parameters())
    found = optimize(model, inplace=True, plan="ours", recompute_activation=True)
    assert found.module is model
    assert set(found.replaced) == {"a", "c"}
    assert model["a"] is model["c"]
    assert model["a"].plan == "ours"
    assert model["a"].recompute_activation
    assert all(one is two for one, two in zip(before, model.parameters(), strict=True))


def test_optimize_of_a_layer_is_its_replacement():
    assert type(optimize(torch_layer()).module) is EncoderLayer


class Odd(nn.TransformerEncoderLayer):
    pass


def hooked():
    layer = torch_layer()
    layer.linear1.register_forward_hook(lambda *_: None)
    return layer


def patched():
    layer = torch_layer()
    layer.linear1 = nn.Sequential(layer.linear1)
    return layer


def mixed():
    layer = torch_layer()
    layer.norm1.double()
    return layer


def parametrized():
    layer = torch_layer()
    nn.utils.parametrizations.weight_norm(layer.linear1)
    return layer


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Odd(32, 2), "Odd is a subclass"),
        (lambda: torch_layer(activation=torch.sigmoid), "activation is .*neither ReLU nor GELU"),
        (lambda: torch_layer(activation=nn.GELU("tanh")), "neither ReLU nor GELU"),
        (lambda: torch_layer().double(), "float64"),
        (lambda: torch_layer().half(), "float16"),
        (hooked, "hooks are registered on linear1"),
        (patched, "linear1 is Sequential"),
        (mixed, "several types"),
        (parametrized, "linear1 is Parametrized"),
    ],
)
def test_what_cannot_be_replaced_is_left_and_said(make, why):
    layer = make()
    model = nn.ModuleDict({"good": torch_layer(), "bad": layer})
    found = optimize(model, inplace=True)
    assert found.replaced == ("good",)
    assert list(found.left_alone) == ["bad"]
    assert model["bad"] is layer
    with pytest.raises(ValueError, match=why):
        EncoderLayer.from_torch(layer)
    assert found.left_alone["bad"]


# ---- Misuse ----


X = torch.zeros(2, 5, 32)


def make(**options):
    return lambda: EncoderLayer(**{"d_model": 32, "nhead": 2, "dim_feedforward": 48, **options})


def call(x=X, dtype=torch.float32, **masks):
    return lambda: EncoderLayer(32, 2, 48, dtype=dtype)(x, **masks)


@pytest.mark.parametrize(
    ("run", "kind", "words"),
    [
        (make(nhead=5), ValueError, "multiple of nhead, got 32 and 5"),
        (make(plan="best"), ValueError, "plan must be one of flash, ours, .* got 'best'"),
        (make(activation="tanh"), ValueError, "activation must be .*'tanh'"),
        (make(dropout=-0.1), ValueError, "dropout attention .*-0.1"),
        (make(dropout=(0.1, 0.1, 1.5, 0.1)), ValueError, "dropout activation .*1.5"),
        (make(dropout=float("nan")), ValueError, "dropout attention .*nan"),
        (make(dropout=(0.1, 0.1)), ValueError, "4 .*got 2"),
        (call(X[0]), ValueError, r"\(B, L, d_model\) with d_model = 32, got \(5, 32\)"),
        (call(X[..., :31]), ValueError, r"got \(2, 5, 31\)"),
        (call(X.half(), torch.float16), TypeError, "float32, bfloat16 .*got torch.float16"),
        (call(X.bfloat16()), TypeError, "one type, got torch.bfloat16 and torch.float32"),
        (call(X.to("meta")), ValueError, "one device, got meta and cpu"),
        (call(X.to_sparse()), NotImplementedError, "dense tensor.*to_dense"),
        (
            lambda: call(torch.nested.nested_tensor([X[0], X[1, :3]]))(),
            NotImplementedError,
            "nested one.*src_key_padding_mask",
        ),
        (call(src_mask=X[0, :4, :5]), ValueError, r"\(5, 5\) .*\(4, 5, 5\), got \(4, 5\)"),
        (call(src_mask=X[0, :5, :5].int()), ValueError, "bool or floating.*int32"),
        (call(src_key_padding_mask=X[0, :, :2]), ValueError, r"\(2, 5\), got \(5, 2\)"),
        (call(src_key_padding_mask=X[:, 0, :5].long()), ValueError, "bool or floating.*int64"),
        (
            call(src_mask=torch.zeros(5, 5, requires_grad=True)),
            NotImplementedError,
            'src_mask no gradient.*plan="unfused"',
        ),
    ],
)
def test_misuse_is_named(run, kind, words):
    with pytest.raises(kind, match=words):
        run()


@pytest.mark.parametrize("plan", FUSED)
def test_second_derivatives_are_refused(plan):
    layer = EncoderLayer(32, 2, 48, 0.0, plan=plan)
    x = torch.randn(1, 3, 32, requires_grad=True)
    with pytest.raises(NotImplementedError, match=r'create_graph.*plan="unfused"'):
        torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    layer.plan = "unfused"
    (d_x,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    d_x.square().sum().backward()
    assert x.grad.isfinite().all()


def test_mask_that_learns_gets_its_gradient_without_kernels():
    layer = EncoderLayer(32, 2, 48, 0.0, plan="unfused")
    mask = torch.zeros(5, 5, requires_grad=True)
    layer(torch.randn(2, 5, 32), mask).square().sum().backward()
    assert (mask.grad != 0).any()


def test_unfused_needs_no_compiler(monkeypatch):
    def refuse(*_, **__):
        raise native.CompilerNotFound("C++", "c++")

    monkeypatch.setattr(native, "build", refuse)
    layer = EncoderLayer(32, 2, 48, 0.1, plan="unfused")
    found = step(layer, torch.randn(2, 5, 32), torch.randn(2, 5, 32))
    assert all(tensor.isfinite().all() for tensor in found)


@pytest.mark.parametrize("plan", FUSED)
def test_missing_compiler_names_the_way_out(plan, monkeypatch):
    def refuse(*_):
        raise native.CompilerNotFound("C++", "c++")

    monkeypatch.setattr(ops, "forward", refuse)
    with pytest.raises(native.CompilerNotFound) as caught:
        EncoderLayer(32, 2, 48, plan=plan)(X)
    assert any('plan="unfused"' in note for note in caught.value.__notes__)


def test_autocast_leaves_the_layer_in_its_own_type():
    layer = EncoderLayer(32, 2, 48, 0.0, deterministic=True)
    x, d_y = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    wanted = step(layer, x, d_y)
    with torch.autocast("cpu", torch.bfloat16):
        found = step(layer, x, d_y)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


# ---- Two processes ----


def train_in_parallel(rank, port, path):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = EncoderLayer(32, 2, 48, 0.0, deterministic=True)
    parallel = nn.parallel.DistributedDataParallel(layer)
    x, d_y = torch.randn(4, 5, 32), torch.randn(4, 5, 32)
    parallel(x[rank::2]).backward(d_y[rank::2])
    torch.save([parameter.grad for parameter in layer.parameters()], f"{path}/{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_distributed_data_parallel_averages_gradients(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_in_parallel, (port, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    layer = EncoderLayer(32, 2, 48, 0.0, deterministic=True)
    x, d_y = torch.randn(4, 5, 32), torch.randn(4, 5, 32)
    parts = [step(layer, x[rank::2], d_y[rank::2])[2:] for rank in range(2)]
    found = [torch.load(tmp_path / str(rank)) for rank in range(2)]
    for first, second, one, other in zip(*found, *parts, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, (one + other) / 2, rtol=1e-6, atol=1e-6)


def test_no_plan_with_kernels_falls_back_unseen():
    for plan, dtype in itertools.product(FUSED, (torch.float32, torch.bfloat16)):
        layer = EncoderLayer(32, 2, 48, 0.0, plan=plan, dtype=dtype)
        y = layer(torch.zeros(1, 2, 32, dtype=dtype, requires_grad=True))
        assert type(y.grad_fn).__name__ == "_EagerLayerBackward"
