"""What several speed experiments of this package do alike."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, in_

from common.experiment import Context, Experiment, Options
from transformer_dm.sizes import LayerSize

if TYPE_CHECKING:
    import pandas as pd

    from common.comparison import Comparison

PRECISIONS = ("fp32", "bf16")
#: How MKL stands: as torch comes, or told that the processor is an Intel one (see mkl.py).
MKL = ("stock", "unlocked")
LIMIT = "machine's limit"
_FOLDER_KEY = "0" * 16


def one_of(names: Iterable[str]) -> Any:
    """Validator of a list of some of the names."""
    return deep_iterable(in_(tuple(names)))


def is_rate(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Validator of a rate of dropout at which there is still something to time."""
    if not 0 <= value <= 0.9:
        raise ValueError(f"'{attribute.name}' must be from 0 to 0.9, got {value!r}")


def usable(precisions: Iterable[str], ctx: Context) -> list[str]:
    """The precisions this processor multiplies in; says which it leaves out.

    Without an instruction for it torch computes a bf16 product some fifty times slower than a
    float32 one. To win against that says nothing about data movement.
    """
    from common.gemm import onednn_takes
    from transformer_dm.peers import DTYPES

    found = []
    for precision in precisions:
        if onednn_takes(DTYPES[precision]) and peak_gflops(ctx, precision) is not None:
            found.append(precision)
        else:
            ctx.log.warning(
                "%s is not measured: this processor has no instruction for its products, and "
                "torch does without a fast path", precision,
            )  # fmt: skip
    return found


def peak_gflops(ctx: Context, precision: str) -> float | None:
    """Highest rate of multiply-adds in this precision, None without an instruction for it."""
    roofline = ctx.roofline
    return roofline.fp32_gflops if precision == "fp32" else roofline.bf16_gflops


def layer_flops(size: LayerSize, stage: str) -> float:
    """Arithmetic of a layer's contractions; stage "forward", "backward" or "both"."""
    n, rows = size.d_model, size.batch * size.length
    forward = 2.0 * rows * (4 * n * n + 2 * n * size.width) + 4.0 * rows * size.length * n
    return forward * {"forward": 1, "backward": 2, "both": 3}[stage]


def record_limit(
    ctx: Context,
    compared: Comparison,
    flops: float,
    share_claim: str | None = None,
    **axes: Any,
) -> None:
    """What share of the peak each candidate reaches, and how far the peak itself is.

    The limit is the baseline's time over that of the flops at the peak: no implementation of the
    same arithmetic can be that much faster.

    axes: of the comparison, "precision" among them
    """
    peak = peak_gflops(ctx, axes["precision"])
    if peak is None:
        return
    least = flops / peak / 1e9
    base = compared.baseline
    ctx.record(
        None,
        "speedup",
        compared.baseline_seconds / least,
        "x",
        low=compared.baseline_low / least,
        high=compared.baseline_high / least,
        timed=True,
        **axes,
        system=LIMIT,
        baseline=base,
    )
    share = 100 * least / compared.baseline_seconds
    shares = {
        base: (share, 100 * least / compared.baseline_high, 100 * least / compared.baseline_low)
    }
    for name, found in compared.items():
        # The ratios are paired, the baseline's median is one number: its spread is in neither.
        shares[name] = (share * found.estimate, share * found.low, share * found.high)
    for name, (value, low, high) in shares.items():
        claim = share_claim if name == "ours" else None
        ctx.record(
            claim, "peak_share", value, "%", low=low, high=high, timed=True, **axes,
            system=name, baseline=base,
        )  # fmt: skip


def in_each_process(
    settings: Any, ctx: Context, name: str, experiments: Sequence[Experiment]
) -> Iterable[str]:
    """Yield how MKL stands here, if that is asked for; run the rest in an interpreter of its own.

    settings.mkl lists what is asked for. The other interpreter runs the same experiment with what
    is left of the list, and its records are kept as if they had been made here.
    """
    from transformer_dm import mkl

    here = "unlocked" if mkl.is_unlocked() else "stock"
    if here in settings.mkl:
        _record_product_rate(ctx, here)
        yield here
    elif here == "unlocked":
        ctx.log.warning("MKL is unlocked in this process: there are no rows of it as torch comes")
    if here == "unlocked" or "unlocked" not in settings.mkl:
        return
    if not mkl.has_mkl():
        ctx.log.warning("torch has no MKL here: the rows of an unlocked one repeat the stock ones")
    (experiment,) = (e for e in experiments if e.name == name)
    ctx.adopt(_records_of(experiment, attrs.evolve(settings, mkl=["unlocked"]), ctx))


def _record_product_rate(ctx: Context, here: str) -> None:
    """Share of the peak of torch's own float32 product: what MKL holds back, or does not."""
    import time

    import torch

    # A millisecond or so, so that some calls escape being interrupted.
    a, b = torch.randn(256, 512), torch.randn(512, 512)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    rate = 2.0 * a.numel() * b.shape[1] / min(seconds) / 1e9
    share = 100 * rate / ctx.roofline.fp32_gflops
    ctx.log.info("torch.mm reaches %.0f%% of the fp32 peak with MKL %s", share, here)
    ctx.record(None, "mm_peak_share", share, "%", timed=True, mkl=here, system="pytorch")


def _records_of(experiment: Experiment, settings: Any, ctx: Context) -> list[Any]:
    """Run an experiment in a fresh interpreter whose MKL is unlocked."""
    from common.isolation import run_isolated
    from common.run_folder import RunFolder
    from common.runner import Job, run_info
    from transformer_dm import mkl

    root = Path(ctx.scratch, "unlocked")
    options = Options(
        results=root,
        profile=ctx.profile,
        seed=ctx.seed,
        threads=ctx.threads,
        # The runner watches this process and all that it starts.
        timeout_s=math.inf,
        memory_gb=math.inf,
        resume=False,
        contended=ctx.contended,
    )
    folder = RunFolder(root, experiment.name, _FOLDER_KEY)
    folder.begin(run_info(Job(experiment, settings, options)))
    with _log_kept(folder, ctx):
        ending = run_isolated(experiment, settings, folder, options, env=mkl.environment())
    if ending.status != "ok":
        raise RuntimeError(
            f"with MKL unlocked the experiment ended {ending.status}: {ending.error}"
        )
    return folder.records()


@contextlib.contextmanager
def _log_kept(folder: Any, ctx: Context) -> Any:
    """Copy the other interpreter's log into ours, however it ended."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for line in folder.log.read_text(errors="replace").splitlines():
                ctx.log.info("unlocked: %s", line)


def once(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a frame without those that repeat a value for a second claim."""
    columns = [name for name in frame.columns if name.startswith("axis.")]
    return frame.drop_duplicates(subset=["metric", "value", *columns])
