"""Schedules: how a model is lowered, as a value; and which primitive is legal for which model."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import attrs

from cortex import ra
from cortex.errors import ScheduleError
from cortex.forest import Sequence, Tree

Fuse: TypeAlias = Literal["none", "cell", "level", "model"]
Partition: TypeAlias = Literal["tree", "row", "column", "auto"]

#: Tables larger than this are not built unless asked for.
MAX_TABLE_BYTES = 256 * 2**20
#: Kinds of nodes are told apart up to this arity: 2**arity loop nests.
MAX_KIND_ARITY = 2


def _one_of(primitive: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        names = ", ".join(repr(a) for a in allowed)
        raise ScheduleError(f"{primitive} takes one of {names}, got {value!r}")


def _positive(primitive: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ScheduleError(f"{primitive} takes an integer of at least 1, got {value!r}")


@attrs.frozen
class Schedule:
    """What is done to a model, primitive by primitive; each method gives a changed copy.

    by_height:     nodes of equal height are one batch
    leaf_apart:    leaves have a loop nest of their own
    children_apart: so has each combination of leaf and internal children
    fused:         none, the element-by-element part (cell), or all of a level, with threads
                   that start and end with each level (level) or with the call (model)
    persistent:    weights stay in the fastest memory: a thread's columns in its core's cache
    depth:         heights a block of unrolled recursion spans
    cut:           the parameter whose product opens the part moved to the parent
    tables:        values that depend on a token only are computed once a vocabulary row
    table_bytes:   and no more than so many bytes of them
    shared:        equal subtrees are computed once
    parts:         what a thread owns: whole trees, rows or columns; auto is `resolved`
    rows, columns: of a tile

    Raises ScheduleError for a value no method would give a field.
    """

    by_height: bool = False
    leaf_apart: bool = False
    children_apart: bool = False
    fused: Fuse = "none"
    persistent: bool = False
    depth: int = 1
    cut: str | None = None
    tables: bool = False
    table_bytes: int = MAX_TABLE_BYTES
    shared: bool = False
    parts: Partition = "row"
    rows: int = 64
    columns: int = 64

    def __attrs_post_init__(self) -> None:
        for name in ("by_height", "leaf_apart", "children_apart", "persistent", "tables", "shared"):
            if not isinstance(getattr(self, name), bool):
                raise ScheduleError(f"{name} is true or false, got {getattr(self, name)!r}")
        for name in ("depth", "rows", "columns"):
            _positive(name, getattr(self, name))
        _one_of("fused", self.fused, get_args(Fuse))
        _one_of("parts", self.parts, get_args(Partition))
        if not isinstance(self.cut, str | None):
            raise ScheduleError(f"cut is the name of a parameter or None, got {self.cut!r}")
        size = self.table_bytes
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ScheduleError(f"table_bytes is an integer of at least 0, got {size!r}")
        if self.children_apart and not self.leaf_apart:
            raise ScheduleError(
                "children_apart tells apart the parents of leaves, so it needs leaf_apart too; "
                "specialize('children') sets both"
            )

    def batch(self, by: Literal["height"] | None = "height") -> "Schedule":
        """Process nodes of equal height together."""
        _one_of("batch", by, ("height", None))
        return attrs.evolve(self, by_height=by is not None)

    def specialize(self, what: Literal["leaf", "children"]) -> "Schedule":
        """Resolve the check for a leaf, or for leaves among the children, by loop nests apart."""
        _one_of("specialize", what, ("leaf", "children"))
        if what == "leaf":
            return attrs.evolve(self, leaf_apart=True)
        return attrs.evolve(self, leaf_apart=True, children_apart=True)

    def fuse(self, how: Fuse) -> "Schedule":
        """Compute operators together."""
        _one_of("fuse", how, ("none", "cell", "level", "model"))
        return attrs.evolve(self, fused=how)

    def persist(self, on: bool = True) -> "Schedule":
        """Keep weights in the fastest memory for the whole call."""
        return attrs.evolve(self, persistent=on)

    def unroll(self, depth: int) -> "Schedule":
        """Compute depth heights of a subtree one after another, without a barrier between."""
        _positive("unroll", depth)
        return attrs.evolve(self, depth=depth)

    def refactor(self, op: str | None) -> "Schedule":
        """Move what follows the product with parameter `op` to the parent's call."""
        return attrs.evolve(self, cut=op)

    def tabulate(
        self, what: Literal["leaf"] | None = "leaf", max_bytes: int = MAX_TABLE_BYTES
    ) -> "Schedule":
        """Compute what depends on a token only once a vocabulary row."""
        _one_of("tabulate", what, ("leaf", None))
        return attrs.evolve(self, tables=what is not None, table_bytes=max_bytes)

    def dedup(self, on: bool = True) -> "Schedule":
        """Compute equal subtrees once."""
        return attrs.evolve(self, shared=on)

    def partition(self, by: Partition) -> "Schedule":
        """Choose what each thread owns."""
        _one_of("partition", by, ("tree", "row", "column", "auto"))
        return attrs.evolve(self, parts=by)

    def tile(self, rows: int, columns: int) -> "Schedule":
        """Choose the rows of a tile and the columns of a block."""
        _positive("tile", rows)
        _positive("tile", columns)
        return attrs.evolve(self, rows=rows, columns=columns)

    def resolved(self, model: ra.Model) -> "Schedule":
        """This schedule with partition("auto") decided.

        Levels of sequences and DAGs are narrow: threads take columns, and keep them in their own
        caches. Those of trees are wide: threads take rows. Columns need fused operators.
        """
        if self.parts != "auto":
            return self
        is_narrow = not isinstance(model.structure, Tree)
        can = self.by_height and self.fused in ("level", "model") and self.depth == 1
        return self.partition("column" if is_narrow and can else "row")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for configurations and JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Schedule":
        """The schedule of to_dict()."""
        known = {f.name for f in attrs.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ScheduleError(
                f"a schedule has the fields {', '.join(sorted(known))}, got {', '.join(unknown)}"
            )
        return cls(**values)

    @classmethod
    def none(cls) -> "Schedule":
        """Node by node, operator by operator."""
        return cls()

    @classmethod
    def paper(cls) -> "Schedule":
        """The paper's own: no tables, no shared subtrees."""
        return cls().batch().specialize("leaf").fuse("model").persist()

    @classmethod
    def auto(cls, model: ra.Model, *, threads: int = 1, nodes: int | None = None) -> "Schedule":
        """Fixed rules: the paper's schedule, tables where they are legal, columns for sequences."""
        schedule = cls.paper()
        if isinstance(model.structure, Sequence) and threads > 1:
            schedule = schedule.partition("column")
        if model.leaf_uses_token and can_tabulate(model) is None:
            tabled = schedule.tabulate()
            if can_tell_children(model) is None:
                tabled = tabled.specialize("children")
            schedule = tabled
        return schedule


def can_tabulate(model: ra.Model) -> str | None:
    """Why leaf states cannot be tables, or None."""
    if any(isinstance(e, ra.Feature) for e in ra.walk(model.leaf.values())):
        return "a leaf reads features, so its state is no function of a token"
    if model.vocab is None:
        return "the model reads no token"
    return None


def can_tell_children(model: ra.Model) -> str | None:
    """Why kinds of nodes cannot be told apart by their children, or None."""
    arity = model.structure.max_children
    if isinstance(model.structure, Tree | Sequence) and arity is not None:
        return None if arity <= MAX_KIND_ARITY else f"{arity} children make {2**arity} kinds"
    return "the number of children is not fixed"


def check(schedule: Schedule, model: ra.Model) -> None:
    """Raise ScheduleError for the first illegal primitive: its name, the reason, a way out."""

    def refuse(primitive: str, reason: str, way_out: str) -> None:
        raise ScheduleError(f"{primitive} is illegal for {model.name}: {reason}; {way_out}")

    s = schedule
    if s.tables and (why := can_tabulate(model)):
        refuse("tabulate", why, "leave it out")
    if s.children_apart and (why := can_tell_children(model)):
        refuse("specialize('children')", why, f"declare an arity of at most {MAX_KIND_ARITY}")
    if not s.by_height:
        for on, name in (
            (s.children_apart, "specialize('children')"),
            (s.fused != "none", f"fuse({s.fused!r})"),
            (s.parts in ("column", "tree"), f"partition({s.parts!r})"),
        ):
            if on:
                refuse(name, "nodes are processed one by one", "add batch()")
    if s.parts == "column" and s.fused not in ("level", "model"):
        refuse("partition('column')", "there are no column blocks", "add fuse('model')")
    if s.parts == "tree":
        refuse("partition('tree')", "trees are not grouped by thread", "use partition('row')")
    if s.depth > 1:
        if not isinstance(model.structure, Tree | Sequence):
            refuse("unroll", "a node of a DAG may have parents in several blocks", "use a Tree")
        if s.shared:
            refuse("unroll", "dedup makes trees a DAG", "leave dedup() out")
        if s.children_apart:
            refuse("unroll", "kinds of nodes are grouped by level", "leave out 'children'")
        if s.parts == "column":
            refuse("unroll", "a block is computed by one thread", "use partition('row')")
        if not s.leaf_apart:
            refuse("unroll", "blocks hold internal nodes only", "add specialize('leaf')")
        if not s.by_height:
            refuse("unroll", "a block is a batch of subtrees", "add batch()")
        if s.fused == "none":
            refuse("unroll", "a node is computed whole before its parent", "add fuse('cell')")
    if s.cut is not None:
        if s.depth > 1:
            refuse("refactor", "unrolled blocks have no recursion boundary", "choose one of both")
        if not isinstance(model.structure, Tree | Sequence):
            way_out = "use a Tree"
            refuse("refactor", "each parent of a DAG's node would compute its rest again", way_out)
        if not s.leaf_apart:
            refuse("refactor", "leaves have no call to cut", "add specialize('leaf')")
        if why := can_tell_children(model):
            refuse(
                "refactor", f"leaf children must be told apart, but {why}", "use a smaller arity"
            )
        if s.shared:
            refuse("refactor", "dedup makes trees a DAG", "leave dedup() out")
        if not s.by_height:
            refuse("refactor", "nodes are processed one by one", "add batch()")
    if not s.by_height:
        for on, name in ((s.leaf_apart, "specialize('leaf')"), (s.tables, "tabulate")):
            if on:
                refuse(name, "nodes are processed one by one, each asked what it is", "add batch()")
