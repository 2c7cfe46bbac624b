"""What the native layer costs: a checked call, a registered operator, a build and a cache hit."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

BUILDERS = ("ours", "load_inline", "ours_sanitized")
_ROOT = Path(__file__).parents[2]
_SCALE = """
#include <stdint.h>
EXPORT void scale(const float* x, const float* w, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * w[i];
}
"""
_PROTOTYPE = "void scale(const float* x, const float* w, float* out, int64_t n)"
_DOUBLE = """
#include <stdint.h>
EXPORT void twice(const float* x, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = 2 * x[i];
}
"""
_DOUBLE_PROTOTYPE = "void twice(const float* x, float* out, int64_t n)"
#: So few elements that the call is all there is to time.
_N = 4


@attrs.frozen
class Settings:
    """How often and how exactly.

    first_builds, hits: processes that build from nothing, and that find the library built
    builders: what builds, ours or another; ours_sanitized has the address and undefined-behaviour
              sanitizers, load_inline is torch's and takes most of a minute to build its first
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    first_builds: int = attrs.field(validator=ge(1))
    hits: int = attrs.field(validator=ge(1))
    builders: list[str] = attrs.field(validator=deep_iterable(in_(BUILDERS)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Time calls against raw ctypes, operators against plain functions, builds against torch's."""
    _compare_calls(settings, ctx)
    for grad in (False, True):
        _compare_operators(settings, ctx, grad)
    for system in ctx.progress(settings.builders, "builder"):
        _time_builds(settings, ctx, system)


def _compare_calls(settings: Settings, ctx: Context) -> None:
    import torch

    from common import native

    library = native.build_source("scale", _SCALE)
    checked = library.function(_PROTOTYPE)
    bare = _ctypes_function(library.path)
    x, w = torch.arange(float(_N)), torch.ones(_N)

    def through(call: Callable[..., Any], view: Callable[[torch.Tensor], Any]) -> Callable[[], Any]:
        out = torch.zeros(_N)  # of its own, so that verify sees who wrote it
        a, b, c = view(x), view(w), view(out)

        def once() -> torch.Tensor:
            call(a, b, c, _N)
            return out

        return once

    comparison = ctx.compare(
        "checked_over_raw",
        {
            "checked": through(checked, torch.Tensor.detach),
            "checked_numpy": through(checked, torch.Tensor.numpy),
            "raw_cffi": through(checked.raw, torch.Tensor.data_ptr),
            "raw_ctypes": through(bare, torch.Tensor.data_ptr),
        },
        baseline="checked",
        verify=torch.testing.assert_close,
        claim="common.ours.checked_call_ratio",
        subject="raw_ctypes",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
    )
    ctx.record(
        "common.ours.checked_call_us",
        "checked_call",
        1e6 * comparison.baseline_seconds,
        "us",
        low=1e6 * comparison.baseline_low,
        high=1e6 * comparison.baseline_high,
        timed=True,
        system="checked",
    )


def _ctypes_function(library: Path) -> Callable[..., Any]:
    import ctypes

    function = ctypes.CDLL(str(library)).scale
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64]
    function.restype = None
    return function


def _compare_operators(settings: Settings, ctx: Context, grad: bool) -> None:
    import torch

    x = torch.arange(float(_N), requires_grad=grad)
    functions = _operators()
    ctx.compare(
        "registered_over_plain",
        {name: functools.partial(function, x) for name, function in functions.items()},
        baseline="registered",
        verify=torch.testing.assert_close,
        claim=None if grad else "common.ours.registered_op_ratio",
        subject="plain",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        grad=grad,
    )


@functools.cache
def _operators() -> dict[str, Callable[..., Any]]:
    """The same kernel as a function and as a torch operator in every way torch offers."""
    import torch

    from common import native, torch_ops

    double = native.build_source("double", _DOUBLE).function(_DOUBLE_PROTOTYPE)

    def plain(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        double(x, out, x.numel())
        return out

    def backward(_: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad

    def save_nothing(ctx: Any, inputs: Any, output: Any) -> None: ...

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
            return plain(x)

        @staticmethod
        def backward(_: Any, grad: torch.Tensor) -> torch.Tensor:
            return 2 * grad

    decorated = torch.library.custom_op(
        "mlsys21_overhead::decorated", plain, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    decorated.register_autograd(backward, setup_context=save_nothing)
    return {
        "registered": torch_ops.register(
            "mlsys21_overhead::registered",
            "(Tensor x) -> Tensor",
            plain,
            torch.empty_like,
            backward,
            save_nothing,
        ),
        "plain": plain,
        "autograd_function": Function.apply,
        "custom_op": decorated,
    }


# Each prints the seconds to a callable that has run once: from before the import of the builder,
# which users pay too, and from after it, which tells builders apart.
_OURS = f"""
import time
import numpy
x = numpy.ones({_N}, numpy.float32)
start = time.perf_counter()
from common import native
imported = time.perf_counter()
scale = native.build_source("scale", {_SCALE!r}).function({_PROTOTYPE!r})
scale(x, x, x.copy(), {_N})
end = time.perf_counter()
print(json.dumps({{"alone": end - imported, "with import": end - start}}))
"""
_LOAD_INLINE = f"""
import time
import torch
x = torch.ones({_N})
start = time.perf_counter()
from torch.utils.cpp_extension import load_inline
imported = time.perf_counter()
text = '''
void scale(at::Tensor x, at::Tensor w, at::Tensor out, int64_t n) {{
    const float *px = x.const_data_ptr<float>(), *pw = w.const_data_ptr<float>();
    float *po = out.data_ptr<float>();
    for (int64_t i = 0; i < n; i++) po[i] = px[i] * pw[i];
}}
'''
flags = ["-O3", "-march=native"]
scale = load_inline("scale", [text], functions=["scale"], extra_cflags=flags).scale
scale(x, x, x.clone(), {_N})
end = time.perf_counter()
print(json.dumps({{"alone": end - imported, "with import": end - start}}))
"""


def _time_builds(settings: Settings, ctx: Context, system: str) -> None:
    import numpy as np

    from common.paired import FEWEST, median_interval

    first, hits = [], []
    for n in range(settings.first_builds):
        cache = ctx.scratch / f"{system}-{n}"
        cache.mkdir(mode=0o700)
        try:
            first.append(_in_new_process(system, cache))
        except subprocess.CalledProcessError as error:
            ctx.log.warning("%s does not build here: %s", system, error.stderr.strip()[-300:])
            return
    for _ in range(settings.hits):
        hits.append(_in_new_process(system, cache))
    for metric, runs in (("first_build", first), ("cache_hit", hits)):
        for counted in ("alone", "with import"):
            is_claim = (system, metric, counted) == ("ours", "cache_hit", "alone")
            milliseconds = 1e3 * np.array([run[counted] for run in runs])
            low = high = None
            if len(runs) >= FEWEST:  # fewer values have no 95% interval
                low, high = median_interval(milliseconds)
            ctx.record(
                "common.ours.cache_hit_ms" if is_claim else None,
                metric,
                float(np.median(milliseconds)),
                "ms",
                low=low,
                high=high,
                timed=True,
                system=system,
                counted=counted,
                processes=len(runs),
            )


def _in_new_process(system: str, cache: Path) -> dict[str, float]:
    environment = {**os.environ, "MLSYS21_CACHE": str(cache), "TORCH_EXTENSIONS_DIR": str(cache)}
    if system == "ours_sanitized":
        asked = ["cc", "-print-file-name=libasan.so"]
        runtime = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        environment |= {
            "MLSYS21_SANITIZE": "address,undefined",
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",
        }
    script = _LOAD_INLINE if system == "load_inline" else _OURS
    done = subprocess.run(
        [sys.executable, "-c", f"import json\n{script}"],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Overheads of calls and operators as ratios, and time to a callable."""
    from common.report.charts import bars

    found = []
    calls = frame[frame["metric"] == "checked_over_raw"]
    if len(calls):
        found.append(
            bars(
                calls.assign(call=calls["axis.system"]),
                "call",
                "A checked call over other calls",
                "Time of a call with checked torch tensors over that of the same function called "
                "otherwise; the raw ones take addresses and check nothing.",
                y_title="checked / this call",
            )
        )
    operators = frame[frame["metric"] == "registered_over_plain"]
    if len(operators):
        graded = operators["axis.grad"].astype(bool).map({True: "with grad", False: "no grad"})
        found.append(
            bars(
                operators.assign(input=graded),
                "input",
                "A registered operator over other wrappings",
                "Time of an operator registered by define and impl, with autograd, over that of "
                "the same function wrapped otherwise.",
                y_title="registered / this wrapping",
                log_y=True,
            )
        )
    builds = _over_ours(frame)
    if len(builds):
        found.append(
            bars(
                builds,
                "stage",
                "From source to callable",
                "Time another builder takes over the time ours takes, medians over fresh "
                "processes, with and without the import of the builder.",
                y_title="their time / our time",
                log_y=True,
            )
        )
    return found


def _over_ours(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Rows of the other builders, their times divided by ours of the same stage."""
    builds = frame[frame["metric"].isin(["first_build", "cache_hit"])]
    stage = builds["metric"].str.replace("_", " ") + ", " + builds["axis.counted"]
    builds = builds.assign(stage=stage)
    is_ours = builds["axis.system"] == "ours"
    ours = builds[is_ours].groupby("stage")["value"].median()
    others = builds[~is_ours]
    # The intervals are of times, not of their ratio.
    ratio = others["value"] / others["stage"].map(ours)
    return others.assign(value=ratio, low=None, high=None, unit="x")
