"""What a layer keeps for its backward, and how the memory of attention grows with the length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, min_len

from common.experiment import Context
from transformer_dm.experiments import shared

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from common.claims import Claim
    from common.report.charts import Chart

SLOPE = "transformer_dm.ours.attention_memory_slope"
#: Lengths with a target of our own on what is kept.
SAVED = {512: "transformer_dm.ours.saved_512", 1024: "transformer_dm.ours.saved_1024"}
SYSTEMS = ("ours", "ours_stored", "pytorch")


@attrs.frozen
class Settings:
    """A layer whose feed-forward part is four times as wide as the embedding.

    heads, head_size: bytes a token and width depend on length / head_size alone
    saved:   lengths at which the bytes kept for backward are counted
    grown:   lengths over which the most memory attention takes is measured, forward and backward
    systems: measured over `grown`
    """

    heads: int = attrs.field(validator=ge(1))
    head_size: int = attrs.field(validator=ge(1))
    dropout: float = attrs.field(validator=shared.is_rate)
    saved: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    grown: list[int] = attrs.field(validator=[min_len(2), deep_iterable(ge(1))])
    systems: list[str] = attrs.field(validator=shared.one_of(SYSTEMS))


def run(settings: Settings, ctx: Context) -> None:
    """Count bytes kept by both layers, then follow the memory of attention over lengths."""
    for length in settings.saved:
        _record_saved(settings, ctx, length)
    for system in settings.systems:
        peaks = {}
        for length in sorted(settings.grown):
            peaks[length] = _peak(settings, ctx, system, length)
            ctx.record(
                None, "peak_mb", peaks[length] / 1e6, "MB", system=system, length=length
            )  # fmt: skip
        claim = SLOPE if system == "ours" else None
        ctx.record(claim, "memory_slope", slope(peaks), "", system=system)


def slope(values: Mapping[int, float]) -> float:
    """The exponent of growth: of the straight line through the logarithms."""
    import numpy as np

    found, _ = np.polyfit([math.log(n) for n in values], [math.log(v) for v in values.values()], 1)
    return float(found)


def _record_saved(settings: Settings, ctx: Context, length: int) -> None:
    import torch

    from transformer_dm.layer import EncoderLayer

    n = settings.heads * settings.head_size
    peer = torch.nn.TransformerEncoderLayer(
        n, settings.heads, 4 * n, settings.dropout, batch_first=True
    )
    x = torch.randn(1, length, n, generator=ctx.torch_rng("x"), requires_grad=True)
    layers = {
        "pytorch": peer,
        "ours": EncoderLayer.from_torch(peer),
        "ours_stored": EncoderLayer.from_torch(peer, plan="ours"),
        "ours_recomputed": EncoderLayer.from_torch(peer, recompute_activation=True),
    }
    kept = {name: saved_bytes(layer, x) for name, layer in layers.items()}
    for name, n_bytes in kept.items():
        axes: dict[str, Any] = {"length": length, "system": name}
        ctx.record(None, "saved_words", n_bytes / x.nbytes, "u", **axes)
        if name != "pytorch":
            claim = SAVED.get(length) if name == "ours" else None
            ctx.record(claim, "saved_share", n_bytes / kept["pytorch"], "x", **axes)


def saved_bytes(layer: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes a layer keeps for backward beside its parameters, each storage once."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)  # held until the count is done: addresses must not come back
    del y
    return sum(kept.values())


def _peak(settings: Settings, ctx: Context, system: str, length: int) -> int:
    """Most bytes in tensors at once during attention, forward and backward, beside its input."""
    import torch

    from transformer_dm import stored_scores
    from transformer_dm.kernels import attention

    generator = ctx.torch_rng(f"attention {length}")
    qkv = torch.randn(1, length, 3, settings.heads, settings.head_size, generator=generator)
    d_o = torch.randn(1, length, settings.heads, settings.head_size, generator=generator)
    p = settings.dropout

    def ours() -> None:
        o, lse = attention.attention_forward(qkv, None, None, False, p, 1)
        attention.attention_backward(d_o, qkv, o, lse, None, None, False, p, 1)

    def stored() -> None:
        _, softmax, dropped, bits = stored_scores.forward(qkv, None, None, False, p, 1, "native")
        stored_scores.backward(d_o, qkv, softmax, dropped, bits, p, "native")

    def torch_() -> None:
        leaf = qkv.detach().requires_grad_()
        q, k, v = leaf.permute(2, 0, 3, 1, 4).unbind(0)
        o = torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=p)
        torch.autograd.grad(o, leaf, d_o.transpose(1, 2))

    return peak_bytes({"ours": ours, "ours_stored": stored, "pytorch": torch_}[system])


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that torch's allocator held at once for `run`, what was there before left out.

    Runs in a thread of its own: kernels keep a workspace a thread, which a new one has to get; and
    with no memory kept from earlier tensors, which the allocator does not count.
    """
    from concurrent.futures import ThreadPoolExecutor

    def watched() -> int:
        import torch
        from torch.profiler import ProfilerActivity

        from common import large_tensors

        with (
            large_tensors.not_kept(),
            torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found,
        ):
            run()
        results = found.profiler.kineto_results
        events = [event for event in results.events() if event.name() == "[memory]"]
        held = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()  # below 0 where memory is given back
            most = max(most, held)
        return most

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(watched).result()


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Memory of attention over lengths, and what layers keep for backward."""
    from common.report.charts import bars, lines

    found = []
    peaks = frame[frame["metric"] == "peak_mb"]
    if len(peaks):
        slopes = frame[frame["metric"] == "memory_slope"].set_index("axis.system")["value"]
        grows = ", ".join(f"{name} {value:.2f}" for name, value in slopes.items())
        found.append(
            lines(
                peaks,
                "axis.length",
                "Memory of attention by length",
                "Most bytes in tensors at once, forward and backward with dropout, one sequence. "
                f"Exponents of growth: {grows}.",
                x_title="length",
                y_title="MB",
                log_x=True,
                log_y=True,
            )
        )
    words = frame[frame["metric"] == "saved_words"]
    if len(words):
        words = words.assign(setting=[f"length {int(length)}" for length in words["axis.length"]])
        found.append(
            bars(
                words,
                "setting",
                "What a layer keeps for its backward",
                "Words a token and width of the embedding, parameters left out, dropout at every "
                "site. A recomputed activation costs a few percent of time.",
                y_title="words / (B L N)",
            )
        )
    return found
