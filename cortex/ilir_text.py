"""Programs as text: one line a loop or a store, indented, stable enough to compare with a file."""

from cortex import ilir as il

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def print_program(program: il.Program) -> str:
    """The whole program: its tensors by scope, then its body."""
    lines = [f"program {program.name} -> {', '.join(program.states)}"]
    for decl in program.tensors.values():
        shape = ", ".join(
            f"{dim}: {index_text(size)}" if dim else index_text(size)
            for dim, size in zip(decl.dims, decl.shape, strict=True)
        )
        lines.append(f"  {decl.scope} {decl.name}[{shape}]")
    lines += statement_lines(program.body, "  ")
    return "\n".join(lines) + "\n"


def statement_lines(stmt: il.Stmt, indent: str = "") -> list[str]:
    """A statement, a line for each loop, condition, store and barrier."""
    deeper = indent + "  "
    match stmt:
        case il.Seq(parts):
            return [line for part in parts for line in statement_lines(part, indent)]
        case il.For(var, begin, extent, body, kind, dim):
            word = "for" if kind == "serial" else f"{kind} for"
            end = il.add(begin, extent)
            if isinstance(extent, il.Add) and extent == il.sub(extent.a, begin):
                end = extent.a
            note = f"  # {dim}" if dim else ""
            head = f"{indent}{word} {var} in {index_text(begin)} .. {index_text(end)}:{note}"
            return [head, *statement_lines(body, deeper)]
        case il.Store(tensor, index, value):
            where = ", ".join(index_text(i) for i in index)
            return [f"{indent}{tensor}[{where}] = {float_text(value)}"]
        case il.If(cond, then, orelse):
            lines = [f"{indent}if {_less(cond)}:", *statement_lines(then, deeper)]
            if orelse != il.Seq():
                lines += [f"{indent}else:", *statement_lines(orelse, deeper)]
            return lines
        case il.Barrier():
            return [f"{indent}barrier"]


def _less(cond: il.Less) -> str:
    return f"{index_text(cond.a)} < {index_text(cond.b)}"


def index_text(index: il.Index, tight: bool = False) -> str:
    """An integer expression; tight puts a sum into brackets."""
    match index:
        case il.Int(value):
            return str(value)
        case il.Var(name):
            return name
        case il.Add(a, il.Mul(il.Int(-1), b)):
            text = f"{index_text(a)} - {index_text(b, tight=True)}"
        case il.Add(a, il.Int(value)) if value < 0:
            text = f"{index_text(a)} - {-value}"
        case il.Add(a, b):
            text = f"{index_text(a)} + {index_text(b)}"
        case il.Mul(a, b):
            return f"{index_text(a, tight=True)}*{index_text(b, tight=True)}"
        case il.Div(a, b):
            return f"{index_text(a, tight=True)}/{index_text(b, tight=True)}"
        case il.Min(a, b):
            return f"min({index_text(a)}, {index_text(b)})"
        case il.Max(a, b):
            return f"max({index_text(a)}, {index_text(b)})"
        case il.Call(fn, args):
            return f"{fn}({', '.join(index_text(a) for a in args)})"
    return f"({text})" if tight else text


def float_text(value: il.Float, tight: bool = False) -> str:
    """A float expression; tight puts an infix operation into brackets."""
    match value:
        case il.Num(number):
            return repr(number)
        case il.Load(tensor, index):
            return f"{tensor}[{', '.join(index_text(i) for i in index)}]"
        case il.Apply("neg", (x,)):
            return f"-{float_text(x, tight=True)}"
        case il.Apply(op, (x, y)) if op in _INFIX:
            # A sum may stand open at the left of a sum, a product at the left of a product.
            left = isinstance(x, il.Apply) and _INFIX.get(x.op, "?") in _OPEN[op]
            right = isinstance(y, il.Apply) and op in ("add", "sub") and y.op in ("mul", "div")
            text = f"{float_text(x, not left)} {_INFIX[op]} {float_text(y, not right)}"
            return f"({text})" if tight else text
        case il.Apply(op, args):
            return f"{op}({', '.join(float_text(a) for a in args)})"
        case il.Reduce(op, var, begin, extent, body):
            head = f"{op}({var} in {index_text(begin)} .. {index_text(il.add(begin, extent))})"
            if isinstance(extent, il.Add) and extent == il.sub(extent.a, begin):
                head = f"{op}({var} in {index_text(begin)} .. {index_text(extent.a)})"
            return f"{head}{{{float_text(body)}}}"
        case il.Pick(cond, then, orelse):
            return f"({float_text(then)} if {_less(cond)} else {float_text(orelse)})"


_OPEN = {"add": "+-*/", "sub": "+-*/", "mul": "*", "div": "*"}
