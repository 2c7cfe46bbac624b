"""What the speed experiments of this package do alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from attrs.validators import deep_iterable, in_, matches_re

from common.experiment import Context
from cortex.cases import Batches, Case, assert_close, compiled, roots_of

if TYPE_CHECKING:
    import pandas as pd

    from common.comparison import Comparison
    from cortex.peers import Peer

__all__ = [
    "Batches",
    "Case",
    "absent_note",
    "against",
    "assert_close",
    "compiled",
    "here",
    "roots_of",
]

MODELS = ("tree_fc", "tree_gru", "tree_lstm", "mv_rnn", "dag_rnn", "lstm", "gru")
PEERS = (
    "eager", "level_batched", "level_batched_onednn", "torch_compile", "dynet", "dgl", "nn",
)  # fmt: skip
#: Peers that are ours under another schedule: the paper's primitives alone, without our tables.
SCHEDULES = ("auto", "paper")
#: Peers that compile something for each new size of a level, and keep it.
WARMED = ("level_batched_onednn", "torch_compile")


def one_of(names: Iterable[str]) -> Any:
    """Validator of a list of some of the names."""
    return deep_iterable(in_(tuple(names)))


#: Validator of a list of cases as "model/data/batch".
is_cases = deep_iterable(matches_re(rf"({'|'.join(MODELS)})/(sst|perfect|grid|chain\d+)/[1-9]\d*"))


def here(names: Sequence[str], ctx: Context) -> list[str]:
    """The peers that are installed; log and report say which are left out and what brings them."""
    from cortex import peers

    gone = peers.absent(names)
    for name, why in gone.items():
        ctx.log.warning("%s is left out: %s", name, why)
        ctx.record(None, "absent", 1.0, "", peer=name)
    return [name for name in names if name not in gone]


def absent_note(frame: pd.DataFrame) -> str:
    """A sentence for a caption on peers that were not installed; empty if all were."""
    gone = frame[frame["metric"] == "absent"]
    if not len(gone):
        return ""
    names = ", ".join(sorted(set(gone["axis.peer"])))
    return f" Not installed there, so left out: {names}."


def against(
    ctx: Context,
    batches: Batches,
    ours: Peer,
    theirs: Peer,
    peer: str,
    *,
    claim: str | Sequence[str] | None = None,
    metric: str = "speedup",
    **options: Any,
) -> Comparison:
    """Compare ours with one peer on fresh objects, and record the peer's and our latency too."""
    if peer in WARMED:
        from cortex.structures import to_objects

        for forest in batches.forests:
            theirs(to_objects(forest))
    axes = {k: v for k, v in options.items() if k not in ("halfwidth", "max_seconds", "work")}
    found = ctx.compare(
        metric,
        {"ours": batches.fresh(ours), peer: batches.fresh(theirs)},
        baseline=peer,
        verify=assert_close,
        claim=claim,
        **options,
    )
    for system, seconds in (
        ("ours", found["ours"].seconds), (peer, found.baseline_seconds)
    ):  # fmt: skip
        ctx.record(
            None, "latency_us", 1e6 * seconds / batches.group, "us", timed=True, **axes,
            system=system, baseline=peer,
        )  # fmt: skip
    return found
