"""Speed floors of this package; see common.gates."""

from collections.abc import Callable
from typing import Any

from common.floors import Floor
from common.gates import Gate

_Made = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], object]]


def make_layer_step() -> _Made:
    """Training step of a layer, eager torch's beside ours: 512 wide, 128 tokens, dropout 0.1."""
    import torch

    from transformer_dm import peers
    from transformer_dm.sizes import LayerSize

    generator = torch.Generator().manual_seed(0)
    size = LayerSize(batch=1, length=128, heads=8, head_size=64, width=2048)
    problem = peers.make_problem(size, "fp32", 0.1, generator)
    peers.assert_same_step(problem, peers.LAYERS, ["ours"])
    return (
        peers.our_layer(problem).step,
        peers.pytorch_layer(problem).step,
        peers.same_shapes,
    )


def make_norm_kernel() -> _Made:
    """Bias, dropout, residual and layer normalisation forward: 1024 rows of 1024."""
    return _kernel("bdrln", "forward")


def make_norm_kernel_backward() -> _Made:
    """The same, backward."""
    return _kernel("bdrln", "backward")


def make_activation_kernel() -> _Made:
    """Bias, GELU and dropout forward: 1024 rows of 4096."""
    return _kernel("bgd", "forward")


def make_attention_kernel() -> _Made:
    """Attention with dropout forward: 4 heads of 64, 256 tokens."""
    return _kernel("attention", "forward")


def make_attention_kernel_backward() -> _Made:
    """The same, backward."""
    return _kernel("attention", "backward")


def _kernel(name: str, stage: Any) -> _Made:
    import torch

    from transformer_dm import operator_pairs, peers
    from transformer_dm.sizes import LayerSize

    is_attention = name == "attention"
    size = LayerSize(
        batch=1,
        length=256 if is_attention else 1024,
        heads=4 if is_attention else 16,
        head_size=64,
        width=4096,
    )

    def make(p: float) -> operator_pairs.Pair:
        generator = torch.Generator().manual_seed(0)
        (pair,) = operator_pairs.make_pairs(size, torch.float32, p, [name], generator, [stage])
        return pair

    operator_pairs.assert_same(make(0.0))
    pair = make(0.1)
    return pair.ours, pair.torch, peers.same_shapes


def movement_reduction() -> float:
    """Percent of the words that the paper's kernels save a layer of size S1, in bytes."""
    import attrs

    from transformer_dm.describe import encoder_graph
    from transformer_dm.fusion import named_plan, unfused
    from transformer_dm.sizes import SIZES
    from transformer_dm.volume import reduction

    graph = encoder_graph(*attrs.astuple(SIZES["S1"]))
    words = (made.words("bytes") for made in (unfused(graph, "bytes"), named_plan(graph, "paper")))
    return reduction(*words)


# 0.7 of what a busy two-core AVX2 machine gave: 1.18, 8.6, 1.7, 9.1, 4.7 and 1.17; never below 1.
GATES = (
    Gate(
        "transformer_dm_layer_step",
        make_layer_step,
        floor=1.01,
        claims=("transformer_dm.abstract.encoder_speedup",),
    ),
    Gate("transformer_dm_norm", make_norm_kernel, floor=6.0),
    Gate("transformer_dm_norm_backward", make_norm_kernel_backward, floor=1.2),
    Gate("transformer_dm_activation", make_activation_kernel, floor=6.3),
    Gate("transformer_dm_attention", make_attention_kernel, floor=3.2),
    Gate("transformer_dm_attention_backward", make_attention_kernel_backward, floor=1.01),
)
FLOORS = (
    Floor(
        "transformer_dm_movement",
        movement_reduction,
        floor=22.0,
        claims=("transformer_dm.abstract.movement_reduction",),
    ),
)
