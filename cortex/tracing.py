"""Runs a model's bodies on symbols and checks what they return.

Each body runs once as a leaf and once as an inner node, so n.is_leaf is known in both.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from cortex import ra
from cortex.errors import ModelError
from cortex.forest import Dag, Sequence, Tree
from cortex.ra import Expr, Model, Shape, refuse
from cortex.simplify import simplify, without_children

if TYPE_CHECKING:
    from cortex.recursive import Recursive


class Binder:
    """Turns what a loop over children made, one value a child, into a Reduce."""

    @staticmethod
    def fresh() -> Iterator[int]:
        """The two children that a loop over any number of them is shown."""
        return iter((0, 1))

    @staticmethod
    def reduce(op: str, values: list[Expr]) -> Expr:
        """The sum or maximum of `values`, as a Reduce if they are one body at each child."""
        if not values:
            refuse(f"cx.{op} needs a value a child, got none")
        if len(values) == 1:
            if any(_probes(value) for value in values):
                refuse(
                    f"cx.{op} must run over all children alike, got {values[0]!r} for one of them; "
                    "loop over n.children alone, or declare a fixed arity"
                )
            return values[0]
        body = _common(values)
        if body is not None:
            return ra.Reduce(op, body)
        if any(_probes(value) for value in values):
            refuse(
                f"cx.{op} must treat all children alike where the arity is None, got "
                f"{values[0]!r} and {values[1]!r}; positions need a fixed arity, and a loop over "
                "pairs of children is not supported"
            )
        total = values[0]
        for value in values[1:]:
            total = ra.Binary("add" if op == "sum" else "max", total, value)
        return total


def _common(values: list[Expr]) -> Expr | None:
    """The body that gives values[j] at child j, None if there is none."""
    done: dict[tuple[Expr, ...], Expr | None] = {}

    def same(at: tuple[Expr, ...]) -> Expr | None:
        if at not in done:
            done[at] = merged(at)
        return done[at]

    def merged(at: tuple[Expr, ...]) -> Expr | None:
        first = at[0]
        if all(x is first for x in at):
            return first
        if any(type(x) is not type(first) for x in at) or isinstance(first, ra.Reduce):
            return None
        if isinstance(first, ra.ChildState):
            return _each(at)
        operands = [x.operands for x in at]
        if not operands[0] or any(len(o) != len(operands[0]) for o in operands):
            return None
        new = [same(parts) for parts in zip(*operands, strict=True)]
        # The operation itself must be one too: first with the operands of another is that other.
        if any(first.with_operands(o) is not x for x, o in zip(at, operands, strict=True)):
            return None
        parts = [part for part in new if part is not None]
        return first.with_operands(parts) if len(parts) == len(new) else None

    # A value that no child enters is not a body: n times it is what was written.
    body = same(tuple(values))
    return None if body is values[0] and not _children_of(body) else body


def _each(at: tuple[Expr, ...]) -> Expr | None:
    first = at[0]
    for j, x in enumerate(at):
        if not isinstance(x, ra.ChildState) or not isinstance(first, ra.ChildState):
            return None
        if x.name != first.name or x.child not in (ra.Child(j), ra.Each(j)):
            return None
    assert isinstance(first, ra.ChildState)
    return ra.ChildState(ra.Each(), first.name, first.shape)


def _children_of(expr: Expr) -> list[ra.ChildState]:
    return [x for x in ra.walk([expr]) if isinstance(x, ra.ChildState)]


def _probes(expr: Expr) -> list[ra.ChildState]:
    return [
        x for x in _children_of(expr) if isinstance(x.child, ra.Each) and x.child.probe is not None
    ]


def trace_model(model: "Recursive") -> Model:
    """The expressions of a model; see ra.trace."""
    from cortex.recursive import Node, Recursive

    if isinstance(model, type) or not isinstance(model, Recursive):
        raise ModelError(
            f"a model is an instance of a class derived from cx.Recursive, got {model!r:.80}"
        )
    cls = type(model)
    where = _line(cls)
    structure = getattr(model, "structure", None)
    if not isinstance(structure, Tree | Dag | Sequence):
        refuse(
            f"{cls.__name__}.structure must be cx.Tree(), cx.Dag() or cx.Sequence(), "
            f"got {structure!r}",
            where,
        )
    states: dict[str, Shape] = dict(model.__dict__.get("_states", {}))
    params: dict[str, Shape] = dict(model.__dict__.get("_params", {}))
    if not states:
        refuse(f"{cls.__name__} declares no state; call self.state(h=...) in __init__", where)
    if "node" not in vars(cls) and cls.node is Recursive.node:
        refuse(f"{cls.__name__} has no method node(self, n)", where)

    def run(name: str, is_leaf: bool) -> dict[str, Expr]:
        method: Callable[[Node], object] = getattr(model, name)
        handle = Node(structure, states, model.feature_width)
        with ra.known_leaf(is_leaf):
            found = method(handle)
        return _checked(cls.__name__, name, found, states, _line(method))

    sources: dict[Expr, str] = {}
    node = {k: _resolved(v, False) for k, v in run("node", False).items()}
    if hasattr(model, "leaf"):
        leaf = {k: _resolved(v, True) for k, v in run("leaf", True).items()}
        for name, expr in leaf.items():
            for x in ra.walk([expr]):
                if isinstance(x, ra.ChildState):
                    refuse(
                        f"{cls.__name__}.leaf reads {x!r} for {name!r}: a leaf has no children",
                        x.source,
                    )
    else:
        arity = structure.max_children
        leaf = {
            k: simplify(without_children(_resolved(v, True), arity), _line(model.node))
            for k, v in run("node", True).items()
        }
    node = {k: simplify(v, _line(model.node)) for k, v in node.items()}
    leaf = {k: simplify(v, where) for k, v in leaf.items()}
    for name, expr in node.items():
        _check_bound(name, expr)
    every = list(ra.walk([*leaf.values(), *node.values()]))
    for expr in every:
        sources.setdefault(expr, expr.source)
    _check_params(cls.__name__, every, params)
    lookups = [x for x in every if isinstance(x, ra.Lookup)]
    features = [x for x in every if isinstance(x, ra.Feature)]
    return Model(
        name=cls.__name__,
        structure=structure,
        params=params,
        states=states,
        leaf=leaf,
        node=node,
        uses_token=bool(lookups),
        vocab=min((x.param.shape[0] for x in lookups), default=None),
        feature_width=features[0].width if features else None,
        imports=dict(cls.imports),
        hoist_inputs=model.hoist_inputs,
        sources=sources,
    )


def _checked(
    cls: str, method: str, found: object, states: Mapping[str, Shape], where: str
) -> dict[str, Expr]:
    wanted = ", ".join(f"{name} {list(shape)}" for name, shape in states.items())
    if isinstance(found, Expr) and len(states) == 1:
        found = {next(iter(states)): found}
    if not isinstance(found, Mapping):
        refuse(f"{cls}.{method} must return a dict of its states ({wanted}), got {found!r}", where)
    missing = [name for name in states if name not in found]
    extra = [str(name) for name in found if name not in states]
    if missing or extra:
        said = [f"forgets {', '.join(missing)}"] * bool(missing)
        said += [f"returns {', '.join(extra)}, which no state names"] * bool(extra)
        refuse(f"{cls}.{method} must return its states ({wanted}), but {' and '.join(said)}", where)
    made: dict[str, Expr] = {}
    for name, shape in states.items():
        value = found[name]
        if isinstance(value, int | float):
            value = ra.Number(value, shape)
        with ra.at_source(where):
            expr = ra.as_expr(value)
        if expr.shape != shape:
            refuse(
                f"{cls}.{method} must return {name} of shape {list(shape)}, got {expr!r} of shape "
                f"{list(expr.shape)}",
                expr.source,
            )
        made[name] = expr
    return made


def _resolved(expr: Expr, is_leaf: bool) -> Expr:
    def choose(x: Expr) -> Expr | None:
        if isinstance(x, ra.Where):
            return x.a if is_leaf else x.b
        return None

    found = ra.rewrite(expr, choose)
    for x in ra.walk([found]):
        if isinstance(x, ra.IsLeaf):
            refuse("n.is_leaf may only be asked by cx.where or `if`", x.source)
    return found


def _check_bound(name: str, expr: Expr) -> None:
    for x in _probes(expr):
        refuse(
            f"state {name!r} reads {x!r} of a single child where the arity is None; loop inside "
            "cx.sum or cx.max (the builtin sum does not know children)",
            x.source,
        )


def _check_params(cls: str, every: list[Expr], params: Mapping[str, Shape]) -> None:
    for x in every:
        param = x.param if isinstance(x, ra.Lookup) else x
        if isinstance(param, ra.Param) and params.get(param.name) != param.shape:
            refuse(
                f"{param!r} {list(param.shape)} is no parameter of {cls}; "
                "assign cx.Param(...) to an attribute of this model",
                x.source,
            )
        if isinstance(x, ra.Param) and x.rank > 2:
            refuse(f"{x!r} has 3 axes and can only be read by token: {x.name}[n.token]", x.source)


def _line(thing: object) -> str:
    try:
        source = inspect.getsourcefile(thing)  # type: ignore[arg-type]
        _, line = inspect.getsourcelines(thing)  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ra.here()
    return f"{source}:{max(line, 1)}"
