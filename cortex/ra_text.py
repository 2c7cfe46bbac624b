"""Prints expressions and traced models."""

from collections.abc import Mapping

from cortex import ra
from cortex.ra import Expr

_SIGNS = {"add": " + ", "sub": " - ", "mul": " * ", "div": " / "}
_STRENGTH = {"add": 1, "sub": 1, "mul": 2, "div": 2}
_WIDTH = 88


def expression(expr: Expr, names: dict[Expr, str] | None = None, depth: int = 5) -> str:
    """One line; what is named, or deeper than `depth`, is not written out."""
    return _text(expr, names or {}, depth, 0)


def listing(model: ra.Model) -> str:
    """A model as its parameters, its states and one line for each value used twice."""
    rows = [f"{model.name} over {model.structure}"]
    for title, shapes in (("param", model.params), ("state", model.states)):
        rows += [f"  {title} {name} {list(shape)}" for name, shape in shapes.items()]
    for title, body in (("leaf", model.leaf), ("node", model.node)):
        rows.append(f"  {title}:")
        rows += [f"    {line}" for line in _body(body)]
    return "\n".join(rows)


def _body(body: Mapping[str, Expr]) -> list[str]:
    order = list(ra.walk(body.values()))
    inside = {
        x for r in order if isinstance(r, ra.Reduce) for x in ra.walk([r.body]) if x is not r.body
    } | {r.body for r in order if isinstance(r, ra.Reduce)}
    uses: dict[Expr, int] = {}
    for x in order:
        for operand in x.operands:
            uses[operand] = uses.get(operand, 0) + 1
    states: dict[Expr, str] = {}
    for name, x in body.items():
        states.setdefault(x, name)
    names: dict[Expr, str] = {}
    lines: list[str] = []
    for x in order:
        if not x.operands or isinstance(x, ra.Transpose):
            continue
        # A value that reads Each() has no meaning outside its Reduce.
        text = _text(x, names, 99, 0)
        shared = uses.get(x, 0) > 1 and not (isinstance(x, ra.Slice) and len(text) < 16)
        if x in states or ((shared or len(text) > _WIDTH) and not (x in inside and _open(x))):
            names[x] = states.get(x, f"t{len(lines)}")
            lines.append(f"{names[x]} {list(x.shape)} = {text}")
    for name, x in body.items():
        if states[x] != name or x not in names:
            lines.append(f"{name} {list(x.shape)} = {_text(x, names, 99, 0)}")
    return lines


def _open(x: Expr) -> bool:
    if isinstance(x, ra.Reduce):
        return False
    if isinstance(x, ra.ChildState):
        return isinstance(x.child, ra.Each)
    return any(_open(operand) for operand in x.operands)


def _text(x: Expr, names: dict[Expr, str], depth: int, around: int) -> str:
    if x in names:
        return names[x]
    if depth == 0 and x.operands:
        return "..."

    def inner(y: Expr, strength: int = 0) -> str:
        return _text(y, names, depth - 1, strength)

    match x:
        case ra.Param(name):
            return name
        case ra.Lookup(param, of):
            return f"{param.name}[{_place(of, 'token')}]"
        case ra.Hoisted(name):
            return f"{name}[n]"
        case ra.Tabulated(name, of):
            return f"{name}[{_place(of, 'token')}]"
        case ra.Feature():
            return "features"
        case ra.IsLeaf():
            return "is_leaf"
        case ra.Number(value):
            return f"{value:g}"
        case ra.ChildState(child, name):
            return _place(child, name)
        case ra.Reduce(op, body):
            return f"{op}({inner(body)} for k in children)"
        case ra.Unary("neg", y):
            return f"-{inner(y, 3)}"
        case ra.Unary(op, y):
            return f"{op}({inner(y)})"
        case ra.Binary(op, y, z) if op in _SIGNS:
            own = _STRENGTH[op]
            text = f"{inner(y, own)}{_SIGNS[op]}{inner(z, own + (op in ('sub', 'div')))}"
            return f"({text})" if around > own else text
        case ra.Binary(op, y, z):
            return f"{op}imum({inner(y)}, {inner(z)})"
        case ra.Product(y, z):
            text = f"{inner(y, 2)} @ {inner(z, 3)}"
            return f"({text})" if around > 1 else text
        case ra.Dot(y, z):
            return f"dot({inner(y)}, {inner(z)})"
        case ra.Concat(parts, axis):
            return f"[{'; '.join(inner(p) for p in parts)}]" + (f" axis {axis}" if axis else "")
        case ra.Slice(y, begin, end, axis):
            return f"{inner(y, 4)}[{':, ' * axis}{begin}:{end}]"
        case ra.Transpose(y):
            return f"{inner(y, 4)}.T"
        case ra.Where(condition, a, b):
            return f"where({inner(condition)}, {inner(a)}, {inner(b)})"
    return type(x).__name__


def _place(of: ra.Own | ra.Child | ra.Each, what: str) -> str:
    if isinstance(of, ra.Own):
        return what
    return f"children[{of.position}].{what}" if isinstance(of, ra.Child) else f"k.{what}"
