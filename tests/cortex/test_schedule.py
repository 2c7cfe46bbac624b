"""Schedules: values that are refused, and primitives that take effect or say why not."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cortex import models, ra, structures  # noqa: E402
from cortex.compiled import compile  # noqa: E402
from cortex.errors import ScheduleError  # noqa: E402
from cortex.lower import lower  # noqa: E402
from cortex.schedule import Schedule  # noqa: E402

VOCAB = 30


def traced(name: str, hidden: int = 6) -> ra.Model:
    return ra.trace(getattr(models, name)(hidden, VOCAB))


@pytest.mark.parametrize(
    "schedule",
    [Schedule.none(), Schedule.paper(), Schedule.paper().tabulate().dedup().partition("auto")],
)
def test_schedules_survive_a_dict(schedule: Schedule) -> None:
    assert Schedule.from_dict(schedule.to_dict()) == schedule


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("by_height", 1, "by_height is true or false, got 1"),
        ("tables", "yes", "tables is true or false, got 'yes'"),
        ("depth", 0, "depth takes an integer of at least 1, got 0"),
        ("rows", 2.0, "rows takes an integer of at least 1, got 2.0"),
        ("columns", True, "columns takes an integer of at least 1, got True"),
        ("fused", "all", "fused takes one of 'none', 'cell', 'level', 'model', got 'all'"),
        ("parts", None, "parts takes one of 'tree', 'row', 'column', 'auto', got None"),
        ("cut", 3, "cut is the name of a parameter or None, got 3"),
        ("table_bytes", -1, "table_bytes is an integer of at least 0, got -1"),
        ("children_apart", True, "needs leaf_apart too"),
        ("wide", 1, "got wide"),
    ],
)
def test_a_dict_of_wrong_values_is_refused(field: str, value: Any, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        Schedule.from_dict({field: value})


@pytest.mark.parametrize(
    ("schedule", "primitive"),
    [
        (Schedule().specialize("leaf"), "specialize"),
        (Schedule().tabulate(), "tabulate"),
        (Schedule().specialize("children"), "specialize"),
        (Schedule().fuse("level"), "fuse"),
    ],
)
def test_primitives_that_need_batches_are_refused_without(
    schedule: Schedule, primitive: str
) -> None:
    with pytest.raises(ScheduleError, match=rf"{primitive}.* is illegal .*one by one.*add batch"):
        lower(traced("TreeLSTM"), schedule)


@pytest.mark.parametrize("partition", ["row", "column"])
@pytest.mark.parametrize("name", ["TreeLSTM", "TreeGRU", "LSTM"])
def test_a_fused_level_is_a_parallel_region_and_equals_one_for_the_call(
    name: str, partition: Any
) -> None:
    model = traced(name, 64)
    base = Schedule.paper().partition(partition).tile(4, 16)
    call, level = (
        compile(model, schedule=base.fuse(how), threads=2, keep="all") for how in ("model", "level")
    )
    for net in (call, level):
        assert net._kernel is not None
        net._kernel.alone = 0
    assert call.source.count("#pragma omp parallel") == 1
    assert level.source.count("#pragma omp parallel") == 2  # leaves, and each level above
    if partition == "row":
        assert "team.wait()" in call.source
        assert "team.wait()" not in level.source
    forest = (
        structures.sequence([9, 4], list(range(13)))
        if name == "LSTM"
        else structures.perfect(5, 3, VOCAB, 0)
    )
    for state in model.states:
        assert torch.equal(call(forest).node(state), level(forest).node(state))


def test_unrolled_blocks_of_a_fused_level_are_regions() -> None:
    model = traced("TreeRNN", 16)
    base = Schedule.paper().unroll(2)
    forest = structures.perfect(5, 3, VOCAB, 0)
    call, level = (compile(model, schedule=base.fuse(how), threads=2) for how in ("model", "level"))
    assert level._kernel is not None
    level._kernel.alone = 0
    assert level.source.count("#pragma omp parallel") == 2
    assert torch.equal(call(forest).root["h"], level(forest).root["h"])


@pytest.mark.parametrize(
    ("name", "parts"), [("TreeLSTM", "row"), ("LSTM", "column"), ("DAGRNN", "column")]
)
def test_auto_chooses_columns_where_levels_are_narrow(name: str, parts: str) -> None:
    model = traced(name)
    auto = Schedule.paper().partition("auto")
    assert auto.resolved(model).parts == parts
    assert lower(model, auto).program == lower(model, auto.partition(parts)).program  # type: ignore[arg-type]
    assert auto.fuse("none").resolved(model).parts == "row"


def test_persistence_is_the_columns_of_a_thread_and_else_says_why_it_adds_nothing() -> None:
    model = traced("TreeLSTM")
    assert dict(lower(model, Schedule.paper().partition("column"), threads=2).refused) == {}
    rows = compile(model, schedule=Schedule.paper(), threads=2).explain()
    assert "refused persist" in rows
    assert "partition('column') keeps a part" in rows
    one = compile(model, schedule=Schedule.paper().partition("column"), threads=1).explain()
    assert "one thread reads all of them" in one
    two = compile(model, schedule=Schedule.paper().partition("column"), threads=2).explain()
    assert "persist: each of 2 threads keeps its columns" in two
