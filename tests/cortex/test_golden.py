"""TreeFC's lowered programs as text, and the structure of the paper's listing in them (sec. 5)."""

import os
from pathlib import Path

import pytest

from cortex import ilir as il
from cortex import models, ra
from cortex.lower import lower
from cortex.lower.barriers import barriers_a_pass, count_barriers
from cortex.schedule import Schedule

GOLDEN = Path(__file__).with_name("golden")
SCHEDULES = {
    "none": Schedule.none(),
    "batch": Schedule().batch(),
    "batch_specialize": Schedule().batch().specialize("leaf"),
    "paper": Schedule.paper(),
}


def program_of(name):
    return lower(ra.trace(models.TreeFC(256, 1000)), SCHEDULES[name]).program


def loops(stmt, dim):
    return [n for n in il.walk(stmt) if isinstance(n, il.For) and n.dim == dim]


def calls(node):
    return {n.fn for n in il.walk(node) if isinstance(n, il.Call)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_printed_programs_are_the_golden_ones(name):
    """MLSYS21_UPDATE_SNAPSHOTS=1 writes the files anew, and fails so that no such run passes."""
    file, found = GOLDEN / f"treefc_{name}.txt", str(program_of(name))
    if os.environ.get("MLSYS21_UPDATE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(found)
        pytest.fail(f"{file.name} is written; run the test again without the variable")
    assert file.read_text() == found


@pytest.mark.parametrize("name", SCHEDULES)
def test_children_are_read_through_the_structure(name):
    loads = [n for n in il.walk(program_of(name).body) if isinstance(n, il.Load)]
    read = [n.index[0].fn for n in loads if n.tensor == "h" and isinstance(n.index[0], il.Call)]
    assert set(read) == {"child0", "child1"}


def test_without_batching_nodes_are_processed_one_by_one_under_a_check():
    program = program_of("none")
    assert not loops(program.body, "level")
    (nodes,) = loops(program.body, "node")
    assert (nodes.kind, nodes.extent) == ("serial", il.N_NODES)
    assert nodes.body.cond == il.Less(il.Var("n"), il.N_LEAVES)
    assert count_barriers(program.body) == 0


def test_with_batching_a_loop_of_variable_bound_is_inside_the_level_loop():
    program = program_of("batch")
    (levels,) = loops(program.body, "level")
    (nodes,) = loops(levels.body, "node")
    assert (levels.kind, nodes.kind) == ("serial", "parallel")
    assert calls(nodes.begin) == {"level_begin"}
    assert calls(nodes.extent) == {"level_begin", "level_end"}
    assert isinstance(nodes.body, il.If)
    assert barriers_a_pass(program) == count_barriers(program.body) == 1


@pytest.mark.parametrize("name", ["batch_specialize", "paper"])
def test_specialized_leaves_have_a_nest_of_their_own_and_no_check(name):
    program = program_of(name)
    assert not any(isinstance(n, il.If) for n in il.walk(program.body))
    (levels,) = loops(program.body, "level")
    assert levels.begin == il.Int(1)
    before, *_ = program.body.body
    assert isinstance(before, il.For)
    assert before.kind == "parallel"
    assert {"n_leaves", "token"} <= calls(before)
    assert not {"child0", "level_begin"} & calls(before)
    assert "token" not in calls(levels)
    inner = [n for n in il.walk(levels.body) if isinstance(n, il.For) and n.kind == "parallel"]
    assert inner
    assert all({"level_begin", "level_end"} <= calls(n.extent) for n in inner)


def test_one_nest_and_one_barrier_a_batch_when_fused():
    program = program_of("paper")
    (levels,) = loops(program.body, "level")
    parallel = [n for n in il.walk(levels.body) if isinstance(n, il.For) and n.kind == "parallel"]
    assert len(parallel) == 1
    assert barriers_a_pass(program) == count_barriers(program.body) == 1
