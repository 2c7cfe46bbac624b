"""Run a plan in the native event core; what it does is said in RULES.md."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from common import native
from panama.errors import StallError
from panama.plan import Outcome, Plan
from panama.plan_checks import LATEST_PS, check_plan

_KERNELS = Path(__file__).with_name("kernels")
_REASONS = ("done", "horizon", "budget", "stalled")
#: In the order of Counter in kernels/plan.h.
COUNTERS = (
    "sent_bytes",
    "arrived_bytes",
    "dropped_bytes",
    "in_flight_bytes",
    "sums_fan_in",
    "contributions",
    "open_contributions",
    "wrong_sums",
    "wrong_contributions",
    "results",
    "repeated_results",
    "lost",
    "copies",
    "timeouts",
    "packets_held",
    "packets_most",
    "held_bytes",
)
#: Marks are counted by job and link up to so many pairs.
_MOST_PAIRS = 2**22
#: Events between two looks at the clock; about a twentieth of a second.
_SLICE = 200_000

_PLAN_FIELDS: tuple[tuple[str, str], ...] = (
    ("network", "is_host src dst back ps_per_byte prop_ps mark_bytes cap_bytes"),
    ("flows", "start_ps n_bytes raw path_ptr path max_window"),
    (
        "messages",
        "conn_job conn_path_ptr conn_path conn_max_window conn n_bytes bucket next_ptr next",
    ),
    (
        "trees",
        "tree_job node_tree node_at parent child_of_parent fan_in up_ptr up join_node join_child "
        "join_ptr join",
    ),
    (
        "jobs",
        "aggregates start_ps iterations compute_ps worker_ptr worker bucket_ptr bucket_ps "
        "bucket_bytes law ecn_mode per_tree adaptive slots max_window min_window fixed_window "
        "weight",
    ),
)


@attrs.frozen
class Progress:
    """How far a run is: simulated time, events, flows and jobs that have not ended."""

    now_ps: int
    events: int
    waiting: int


@functools.cache
def _library(literal: bool) -> native.Library:
    defines = {"PANAMA_LITERAL": 1} if literal else {}
    return native.build(
        "panama_core", [_KERNELS / "core.cpp"], defines=defines, flags=["-ffp-contract=off"]
    )


def _functions(literal: bool) -> tuple[Any, ...]:
    library = _library(literal)
    return tuple(
        library.function(text)
        for text in (
            "int64_t core_new(const int64_t* plan, const int64_t* counts, const int64_t* wire)",
            "int64_t core_run(int64_t handle, int64_t until_ps, int64_t max_events)",
            "void core_progress(int64_t handle, int64_t* out)",
            "void core_read(int64_t handle, const int64_t* addresses)",
            "void core_free(int64_t handle)",
            "void core_forget_queues(int64_t handle)",
        )
    )


def _arrays(plan: Plan) -> list[npt.NDArray[Any]]:
    """All arrays of the plan, contiguous and of the declared type, in the core's order.

    Raises TypeError naming an array of another type.
    """
    arrays = []
    for part_name, names in _PLAN_FIELDS:
        part = getattr(plan, part_name)
        types = {field.name: field.type for field in attrs.fields(type(part))}
        for name in names.split():
            array = getattr(part, name)
            wanted = np.dtype(np.int32 if "int32" in str(types[name]) else np.int64)
            if not isinstance(array, np.ndarray) or array.dtype != wanted:
                got = getattr(array, "dtype", type(array).__name__)
                raise TypeError(f"{part_name}.{name} must be an array of {wanted}, got {got}")
            arrays.append(np.ascontiguousarray(array))
    return arrays


class Core:
    """A run under way. The plan's arrays must not change until it is closed.

    Raises ValueError and TypeError for a plan that cannot be run.
    """

    def __init__(self, plan: Plan, *, _literal: bool = False) -> None:
        self._handle = 0
        self._arrays = _arrays(plan)
        check_plan(plan)
        self.plan = plan
        new, self._run, self._progress, self._read, self._free, self._forget = _functions(_literal)
        wire = plan.wire
        n_jobs, n_links = len(plan.jobs.aggregates), len(plan.network.src)
        self._n_pairs = n_jobs * n_links if n_jobs * n_links <= _MOST_PAIRS else 0
        self._counts = {
            "nodes": len(plan.network.is_host),
            "links": n_links,
            "flows": len(plan.flows.start_ps),
            "conns": len(plan.messages.conn_job),
            "messages": len(plan.messages.conn),
            "trees": len(plan.trees.tree_job),
            "tree_nodes": len(plan.trees.node_tree),
            "joins": len(plan.trees.join_node),
            "jobs": n_jobs,
        }
        numbers = [
            wire.payload,
            wire.header,
            wire.sum_payload,
            wire.sum_header,
            wire.ack,
            wire.first_window,
            wire.rto_ps,
            wire.nic_packets,
            wire.gain_shift,
            int(wire.drop * 2**32),
            int(wire.duplicate * 2**32),
            wire.seed,
            int(self._n_pairs > 0),
        ]
        self._handle = new(
            _addresses(self._arrays),
            np.array(list(self._counts.values()), dtype=np.int64),
            np.array(numbers, dtype=np.int64),
        )

    def run(self, until_ps: int = LATEST_PS, max_events: int = 2**62) -> str:
        """Go on until a reason to stop: "done", "horizon", "budget" or "stalled"."""
        return _REASONS[self._run(self._handle, until_ps, max_events)]

    def progress(self) -> Progress:
        now, events, _, _, waiting = self._state()
        return Progress(now, events, waiting)

    def _state(self) -> list[int]:
        state = np.zeros(5, dtype=np.int64)
        self._progress(self._handle, state)
        return [int(value) for value in state]

    def read(self, reason: str) -> Outcome:
        """What was found so far."""
        plan = self.plan
        now, events, hops, delivered, _ = self._state()
        counts = self._counts
        n_workers = len(plan.jobs.worker)
        iteration_ptr = np.concatenate([[0], np.cumsum(plan.jobs.iterations, dtype=np.int64)])
        n_iterations = int(iteration_ptr[-1])

        def some(names: str, n: int) -> dict[str, npt.NDArray[Any]]:
            return {name: np.zeros(n, dtype=np.int64) for name in names.split()}

        flow_end = np.zeros(counts["flows"], dtype=np.int64)
        flow_resent = np.zeros(counts["flows"], dtype=np.int32)
        conn_resent = np.zeros(counts["conns"], dtype=np.int32)
        times = some("begin_ps comm_ps sum_ps end_ps", n_iterations)
        link = some("n_bytes packets max_queue sum_queue marks drops", counts["links"])
        job_marks = np.zeros(self._n_pairs, dtype=np.int64)
        worker = some("sent resent marked results window_ps", n_workers)
        mean_window = np.zeros(n_workers)
        node = some(
            "sums duplicates out_of_window stale repairs max_open skew_ps", counts["tree_nodes"]
        )
        counters = np.zeros(len(COUNTERS), dtype=np.int64)
        stalled = np.zeros(4, dtype=np.int64)
        out: list[npt.NDArray[Any]] = [
            flow_end,
            flow_resent,
            conn_resent,
            *times.values(),
            *link.values(),
            job_marks,
        ]
        out += [*worker.values(), mean_window, *node.values(), counters, stalled]
        self._read(self._handle, _addresses(out))
        n_results = np.maximum(worker["results"], 1)
        has_pairs = self._n_pairs > 0
        shape = (counts["jobs"], counts["links"]) if has_pairs else (0, 0)
        job, psn, at, missing = (int(value) for value in stalled)
        return Outcome(
            reason=reason,
            now_ps=now,
            events=events,
            packet_hops=hops,
            data_packets=delivered,
            flow_end_ps=flow_end,
            flow_resent=flow_resent,
            conn_resent=conn_resent,
            iteration_ptr=iteration_ptr,
            **times,
            link={**link, "job_marks": job_marks.reshape(shape)},
            worker={**worker, "mean_window": mean_window / n_results},
            node=node,
            counters=dict(zip(COUNTERS, counters.tolist(), strict=True)),
            stalled=(job, psn, at, missing % 2**64) if reason == "stalled" else None,
        )

    def forget_queues(self) -> None:
        """Count links' max_queue from here on, as after a warm-up."""
        self._forget(self._handle)

    def close(self) -> None:
        """Give the memory back; the run cannot go on."""
        if self._handle:
            self._free(self._handle)
            self._handle = 0

    def __enter__(self) -> "Core":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _addresses(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    return np.array([array.ctypes.data for array in arrays], dtype=np.int64)


def check_balance(outcome: Outcome) -> None:
    """Raise AssertionError if the core has lost or made up something: a bug of ours."""
    c = outcome.counters
    arrived = c["arrived_bytes"] + c["dropped_bytes"] + c["in_flight_bytes"]
    assert c["sent_bytes"] == arrived, f"bytes sent, but neither arrived nor dropped: {c}"
    assert c["wrong_sums"] + c["wrong_contributions"] == 0, f"wrong sums: {c}"
    assert int(outcome.node["out_of_window"].sum()) == 0, f"packets beyond the slots: {c}"


def run(
    plan: Plan,
    *,
    until_ps: int = LATEST_PS,
    max_events: int = 2**62,
    progress: Callable[[Progress], None] | None = None,
    every_s: float = 0.5,
) -> Outcome:
    """Run a plan to its end, the horizon or the event budget.

    progress: called every `every_s` seconds; between calls Ctrl-C is heeded as well

    Raises ValueError or TypeError for a plan that cannot be run, and StallError when a job waits
    for what will never come.
    """
    with Core(plan) as core:
        told = time.monotonic()
        events = 0
        while True:
            events = min(events + _SLICE, max_events)
            reason = core.run(until_ps, events)
            if reason != "budget" or events >= max_events:
                break
            if progress is not None and time.monotonic() - told >= every_s:
                told = time.monotonic()
                progress(core.progress())
        outcome = core.read(reason)
    check_balance(outcome)
    if outcome.stalled is not None:
        job, psn, node, missing = outcome.stalled
        switch = int(plan.trees.node_at[node]) if node >= 0 else -1
        children = tuple(i for i in range(64) if missing >> i & 1)
        raise StallError(job, psn, node, switch, children)
    return outcome
