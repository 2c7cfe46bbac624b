"""Model sizes of the paper: parameters of every compressed table, ratios of whole models."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, in_, le

from common.experiment import Context
from ttrec.cardinalities import DATASETS, Dataset
from ttrec.shapes import TTShape, model_ratio, suggest_shape

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

#: Settings behind the ratios printed in the abstracts: (data set, tables, rank) -> claim.
ABSTRACT = {
    ("kaggle", 3, 8): "ttrec.abstract.kaggle_ratio",
    ("kaggle", 7, 8): "ttrec.abstract.kaggle_ratio",
    ("kaggle", 7, 32): "ttrec.abstract.kaggle_ratio_arxiv",
    ("terabyte", 7, 8): "ttrec.abstract.terabyte_ratio",
}
#: Data sets whose factors are published.
PUBLISHED = ("kaggle", "terabyte")


@attrs.frozen
class Settings:
    """datasets: whose sizes are computed;  built: whose compressed tables are made and counted.

    tables: how many of the largest tables are compressed;  ranks: of every compressed table
    """

    datasets: list[str] = attrs.field(validator=deep_iterable(in_(tuple(DATASETS))))
    built: list[str] = attrs.field(validator=deep_iterable(in_(tuple(DATASETS))))
    tables: list[int] = attrs.field(validator=deep_iterable([ge(1), le(26)]))
    ranks: list[int] = attrs.field(validator=deep_iterable(ge(1)))


def run(settings: Settings, ctx: Context) -> None:
    """Compute every size, and count the parameters of real modules where they are built."""
    for name in settings.datasets:
        dataset = DATASETS[name]
        for rank in ctx.progress(settings.ranks, f"{name}, rank"):
            counted = _table_params(dataset, max(settings.tables), rank, name in settings.built)
            for rows, (params, origin) in counted.items():
                _record_table(ctx, dataset, rows, rank, params, origin)
            for tables in settings.tables:
                compressed = dataset.largest(tables)
                dense = (dataset.total_rows - sum(compressed)) * dataset.dim
                total = dense + sum(counted[rows][0] for rows in compressed)
                _record_model(ctx, dataset, tables, rank, dataset.dense_params / total)


def _shape(dataset: Dataset, rows: int, rank: int) -> TTShape:
    preset = "paper" if dataset.name in PUBLISHED else None
    return suggest_shape(rows, dataset.dim, rank, preset=preset)  # type: ignore[arg-type]  # "paper" or None


def _table_params(
    dataset: Dataset, tables: int, rank: int, is_built: bool
) -> dict[int, tuple[int, str]]:
    """Parameters of the largest tables, by rows: counted in a real module, or computed."""
    shapes = [_shape(dataset, rows, rank) for rows in dataset.largest(tables)]
    if not is_built:
        return {shape.rows: (shape.params, "computed") for shape in shapes}
    from ttrec.bag import TTEmbeddingBag

    counted = {}
    for shape in shapes:
        bag = TTEmbeddingBag(shape.rows, shape.dim, shape=shape)
        counted[shape.rows] = (sum(p.numel() for p in bag.parameters()), "counted")
    return counted


def _record_table(
    ctx: Context, dataset: Dataset, rows: int, rank: int, params: int, origin: str
) -> None:
    is_claimed = dataset.name == "kaggle"
    axes: dict[str, Any] = {"dataset": dataset.name, "rows": rows, "rank": rank, "origin": origin}
    for metric, value, unit in (
        ("table_params", params, "parameters"),
        ("table_ratio", rows * dataset.dim / params, "x"),
    ):
        claim = f"ttrec.tab.{metric}" if is_claimed else None
        ctx.record(claim, metric, value, unit, **axes)


def _record_model(ctx: Context, dataset: Dataset, tables: int, rank: int, ratio: float) -> None:
    axes: dict[str, Any] = {"dataset": dataset.name, "tables": tables, "rank": rank}
    shapes = "published" if dataset.name in PUBLISHED else "suggested"
    claim = f"ttrec.fig.{dataset.name}_ratio" if dataset.name in PUBLISHED else None
    ctx.record(claim, "model_ratio", ratio, "x", **axes, shapes=shapes)
    if shapes == "published":
        suggested = model_ratio(dataset, tables, rank, published=False)
        ctx.record(None, "model_ratio", suggested, "x", **axes, shapes="suggested")
    abstract = ABSTRACT.get((dataset.name, tables, rank))
    if abstract is not None:
        ctx.record(abstract, "abstract_ratio", ratio, "x", **axes)


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Ratio bars by tables x rank, one chart a data set, the paper's values hollow."""
    from common.report.charts import bars, paper_rows

    found = []
    models = frame[frame["metric"] == "model_ratio"]
    for name, rows in models.groupby("axis.dataset", sort=False):
        claim = claims.get(f"ttrec.fig.{name}_ratio")
        paper = None if claim is None else _labelled(paper_rows(claim))
        found.append(
            bars(
                _labelled(rows),
                "setting",
                f"Model-size ratio, {name}",
                "Embedding parameters dense over compressed, by number of tables in TT form and "
                "rank. Published: the paper's row factors; suggested: those of suggest_shape.",
                color="axis.shapes",
                log_y=True,
                paper=paper,
            )
        )
    return found


def _labelled(rows: "pd.DataFrame") -> "pd.DataFrame":
    settings = [
        f"{int(tables)} tables, R={int(rank)}"
        for tables, rank in zip(rows["axis.tables"], rows["axis.rank"], strict=True)
    ]
    return rows.assign(setting=settings).sort_values(["axis.tables", "axis.rank"])
