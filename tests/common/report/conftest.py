"""A results folder as the five papers could leave it; claims and numbers are made for the tests."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest

from common import PAPERS
from common.claims import Claim
from common.claims_file import parse
from common.experiment import Experiment
from common.record import Record, RunInfo
from common.results import RunFolder, Store

MACHINE = {
    "id": "4f21c0ffee99",
    "cpu": "AMD EPYC 9B45 processor",
    "isa": ["avx2", "fma", "avx512f", "avx512_bf16"],
    "cores": 2,
    "cpu_quota": None,
    "cache_bytes": {"L1d": 49152, "L2": 1048576, "L3": 33554432},
    "ram_gb": 23.4,
    "gpu": None,
    "kernel": "Linux 6.1",
    "python": "CPython 3.11.9",
    "torch": "2.13.0+cpu",
    "blas": ["openblas 0.3.30 SkylakeX"],
    "environment": {"OMP_WAIT_POLICY": "passive"},
    "load": 0.42,
    "steal_share": 0.003,
}


def sample_claims() -> dict[str, Claim]:
    """Claims of all five papers, frozen: the real ones change as work goes on."""
    claims: dict[str, Claim] = {}
    for paper in PAPERS:
        claims |= parse(Path(__file__).parent / "claims" / f"{paper}.toml", paper)
    return claims


@attrs.frozen
class Sample:
    """A results folder under construction: runs are written as the runner writes them."""

    root: Path
    claims: Mapping[str, Claim]
    experiments: dict[str, Experiment] = attrs.field(factory=dict)

    @property
    def store(self) -> Store:
        return Store(self.root)

    @property
    def known(self) -> dict[str, Any]:
        """Arguments that make the report use these claims and experiments."""
        return {"claims": self.claims, "experiments": self.experiments}

    def run(
        self, experiment: str, records: Sequence[Record], *, status: str = "ok", **fields: Any
    ) -> RunInfo:
        """Write one run; what is not given gets a plain value."""
        settings = fields.pop("settings", {"batch": 512, "ranks": [8, 16, 32, 64]})
        started = fields.pop("started", f"2026-03-0{1 + len(experiment) % 8}T10:15:00+00:00")
        text = f"{experiment}{settings}{started}{fields}".encode()
        info = RunInfo(
            **{
                "experiment": experiment,
                "key": hashlib.sha256(text).hexdigest()[:16],
                "settings": settings,
                "profile": "quick",
                "seed": 0,
                "threads": 1,
                "machine_id": MACHINE["id"],
                "machine": MACHINE,
                "git_sha": "0dc09f7a1b2c3d4e5f60718293a4b5c6d7e8f901",
                "git_dirty": False,
                "started": started,
                "command": f"python -m scripts.reproduce experiment={experiment}",
                **fields,
            }
        )
        folder = RunFolder(self.root, experiment, info.key)
        folder.begin(info)
        for record in records:
            folder.append(record)
        error = fields.get("error")
        finished: RunInfo = folder.finish(status, seconds=12.3, peak_mb=412.0, error=error)
        return finished

    def declare(self, name: str, charts: Callable[..., Any] | None) -> Experiment:
        """List an experiment whose module holds just this charts function."""
        # A name of this sample's own: several live at once, and each forgets its modules.
        module = ModuleType(f"{self.root.parent.name}_{name}")
        if charts is not None:
            module.charts = charts
        sys.modules[module.__name__] = module
        self.experiments[name] = Experiment(name, module.__name__, ())
        return self.experiments[name]

    def forget(self) -> None:
        """Take the made-up modules away again."""
        for experiment in self.experiments.values():
            sys.modules.pop(experiment.module, None)


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Sample]:
    """An empty results folder beside the claims of the five papers."""
    found = Sample(tmp_path / "results", sample_claims())
    yield found
    found.forget()


@pytest.fixture(scope="session")
def five_papers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """Runs of all five papers with most verdicts and kinds of figure; tests must not add to it."""
    found = Sample(tmp_path_factory.mktemp("five_papers") / "results", sample_claims())
    fill(found)
    yield found
    found.forget()


def fill(sample: Sample) -> None:
    """Write runs for four papers and the layer; the fifth paper stays without experiments."""
    from common.report import charts

    rng = np.random.default_rng(21)

    def timed(metric: str, value: float, halfwidth: float = 0.02, **fields: Any) -> Record:
        axes = fields.pop("axes", {})
        return Record(
            metric,
            value,
            "x",
            low=value * (1 - halfwidth),
            high=value * (1 + halfwidth),
            axes=axes,
            rounds=30,
            noise=float(rng.uniform(0.006, 0.019)),
            seconds=float(rng.uniform(1e-4, 2e-3)),
            **fields,
        )

    # ttrec: kernel speed by rank and system, table sizes exactly, accuracy too noisy to decide.
    kernels = []
    for rank, ours, fbgemm, onednn in ((8, 4.9, 2.1, 1.2), (16, 4.4, 1.9, 1.3), (32, 3.6, 1.6, 1.4),
                                       (64, 3.2, 1.5, 1.4)):  # fmt: skip
        for system, value in (("ours", ours), ("fbgemm", fbgemm), ("onednn", onednn)):
            kernels.append(
                timed(
                    "speedup",
                    value,
                    claim="ttrec.abstract.kernel_speedup" if system == "ours" else None,
                    axes={"rank": rank, "system": system, "baseline": "t3nsor"},
                    noisy=(rank, system) == (64, "onednn"),
                    fraction_of_roofline=0.11 * value,
                )
            )
    sample.run("ttrec_kernels", kernels)
    kernel_claim = sample.claims["ttrec.abstract.kernel_speedup"]
    sample.declare(
        "ttrec_kernels",
        lambda frame, claims: [
            charts.bars(
                frame, "axis.rank", "Lookup and pooling by rank",
                "Speedup over the T3nsor-style lookup, one thread; the rule at 1 is that baseline.",
                log_y=True, paper=charts.paper_rows(kernel_claim),
            ),
            charts.lines(
                frame, "axis.rank", "The same along the rank", "", log_x=True, log_y=True,
            ),
        ],
    )  # fmt: skip
    sizes = [
        Record("model_ratio", value, "x", claim="ttrec.fig.kaggle_ratio",
               axes={"tables": tables, "rank": rank, "system": "ours"})
        for tables, values in ((3, (4.1, 4.1, 4.1, 3.9)), (5, (58.3, 55.8, 48.3, 31.7)),
                               (7, (221.9, 187.0, 117.4, 48.0)))
        for rank, value in zip((8, 16, 32, 64), values, strict=True)
    ]  # fmt: skip
    sample.run("ttrec_compression", sizes)
    sample.declare(
        "ttrec_compression",
        lambda frame, claims: [
            charts.lines(
                frame, "axis.rank", "Model size, Kaggle",
                "How many times smaller than the dense model, by number of compressed tables.",
                log_x=True, log_y=True, column="axis.tables",
            )
        ],
    )  # fmt: skip
    sample.run(
        "ttrec_accuracy",
        [Record("accuracy_loss", 0.11, "points", claim="ttrec.abstract.accuracy_loss", low=-0.2,
                high=0.42, axes={"rank": 32})],
    )  # fmt: skip
    sample.declare("ttrec_accuracy", None)

    # costmodel: predicted against measured, error spread, search quality.
    pairs = []
    for system, spread in (("ours", 0.18), ("GBM", 0.35), ("flat_lstm", 0.28)):
        for measured in np.exp(rng.normal(0.1, 0.9, 120)):
            predicted = float(measured * np.exp(rng.normal(0, spread)))
            pairs.append(
                Record("predicted", predicted, "x",
                       axes={"measured": float(measured), "system": system})
            )  # fmt: skip
    for claim_id, value in (("costmodel.abstract.mape", 21.4), ("costmodel.sec.pearson", 0.87)):
        claim = sample.claims[claim_id]
        pairs.append(Record(claim.metric, value, claim.unit, claim=claim_id, low=value * 0.97,
                            high=value * 1.03))  # fmt: skip
    sample.run("costmodel_accuracy", pairs)
    sample.declare(
        "costmodel_accuracy",
        lambda frame, claims: [
            charts.points(
                frame[frame.metric == "predicted"], "axis.measured",
                "Predicted against measured speedup",
                "Every marker is a program with a schedule; on the dashed line the two agree.",
                log_x=True, log_y=True, diagonal=True, x_title="measured speedup",
                y_title="predicted speedup",
            ),
            charts.density(
                frame[frame.metric == "predicted"], "Spread of predictions", "",
                x_title="predicted speedup", log_x=True,
            ),
        ],
    )  # fmt: skip
    search = [
        timed("speedup", float(value), axes={"kernel": kernel, "system": system},
              claim="costmodel.abstract.search_speedup" if system == "ours" else None)
        for kernel, ours, halide, polly in (
            ("box blur", 9.8, 9.1, 4.0), ("conv + relu", 14.1, 16.8, 6.6),
            ("heat 2d", 5.5, 4.9, 3.2), ("doitgen", 7.4, 6.1, 5.9), ("mvt", 3.1, 2.2, 0.8))
        for system, value in (("ours", ours), ("halide", halide), ("polly", polly))
    ]  # fmt: skip
    sample.run("costmodel_search_quality", search, profile="full")
    sample.declare(
        "costmodel_search_quality",
        lambda frame, claims: [
            charts.bars(
                frame, "axis.kernel", "Speed of what the search finds",
                "Speedup over the unoptimized program.", log_y=True,
            )
        ],
    )  # fmt: skip

    # cortex: one run that works, one that crashed.
    def broken(frame: Any, claims: Any) -> list[Any]:
        raise KeyError("axis.hidden")

    trees = [
        timed("speedup", value, claim="cortex.abstract.latency_reduction",
              axes={"model": model, "batch": batch, "system": "ours", "baseline": "dynet"})
        for model, values in (("TreeFC", (6.1, 13.0)), ("TreeLSTM", (4.9, 14.6)),
                              ("MV-RNN", (2.4, 3.3)))
        for batch, value in zip((1, 10), values, strict=True)
    ]  # fmt: skip
    sample.run("cortex_overall", trees)
    sample.declare("cortex_overall", broken)
    sample.run(
        "cortex_sequence", [], status="failed", started="2026-03-09T08:00:00+00:00",
        error="killed by signal 11 (SIGSEGV)\nlinearized 255 nodes\ncompiling gru_step\n"
              "gru_step: first call",
    )  # fmt: skip
    sample.declare("cortex_sequence", None)

    # transformer_dm: numbers that hold exactly and one that misses.
    encoder = []
    for system, value in (("ours", 1.52), ("compile", 1.21), ("sdpa", 1.12)):
        for precision, factor in (("fp32", 1.0), ("bf16", 0.92)):
            encoder.append(
                timed("speedup", value * factor, axes={"precision": precision, "system": system},
                      claim="transformer_dm.abstract.encoder_speedup" if system == "ours" else None)
            )  # fmt: skip
    encoder.append(timed("speedup", 1.08, claim="transformer_dm.abstract.bert_speedup"))
    movement = sample.claims["transformer_dm.abstract.movement_reduction"]
    encoder.append(Record(movement.metric, 22.91, movement.unit, claim=movement.id))
    sample.run("transformer_dm_encoder", encoder)
    sample.declare(
        "transformer_dm_encoder",
        lambda frame, claims: [
            charts.bars(
                frame[frame["axis.precision"].notna()], "axis.precision", "Encoder layer, training",
                "Forward and backward of one BERT-large layer over PyTorch eager.",
                paper=charts.paper_rows(claims["transformer_dm.abstract.encoder_speedup"]),
            )
        ],
    )  # fmt: skip
    sample.declare("transformer_dm_movement", None)

    # The layer: roofline and noise.
    roofline = [
        Record(metric, value, unit)
        for metric, value, unit in (
            ("fp32_peak", 258.0, "GFLOP/s"), ("bf16_peak", 981.0, "GFLOP/s"),
            ("read_bandwidth", 22.1, "GB/s"), ("triad_bandwidth", 15.3, "GB/s"),
            ("l2_bandwidth", 190.0, "GB/s"), ("gemm_torch_fp32", 106.0, "GFLOP/s"),
            ("gemm_torch_bf16", 467.0, "GFLOP/s"), ("gemm_numpy", 221.0, "GFLOP/s"))
    ]  # fmt: skip
    sample.run("common_roofline", roofline)
    sample.declare(
        "common_roofline",
        lambda frame, claims: [
            charts.roofline(
                frame, "Roofline of this machine",
                "Measured ceilings of one core, and what a large matrix product reaches.",
            )
        ],
    )  # fmt: skip
