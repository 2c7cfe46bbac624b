"""Children of fixed arity by position: sums over them written out, slices moved to the leaves."""

from cortex import ra


def expand_children(expr: ra.Expr, arity: int) -> ra.Expr:
    """Replace each reduction over children by the combination of its terms."""

    def change(e: ra.Expr) -> ra.Expr | None:
        if not isinstance(e, ra.Reduce):
            return None
        terms = [at_child(e.body, ra.Child(j)) for j in range(arity)]
        total = terms[0]
        for term in terms[1:]:
            total = ra.Binary("max" if e.op == "max" else "add", total, term)
        return total

    return ra.rewrite(expr, change)


def at_child(expr: ra.Expr, child: ra.Child) -> ra.Expr:
    """The body of a reduction for one child; every reduction inside is written out already."""

    def change(e: ra.Expr) -> ra.Expr | None:
        match e:
            case ra.ChildState(child=ra.Each(), name=name, shape=shape):
                return ra.ChildState(child, name, shape)
            case ra.Lookup(param=param, of=ra.Each()):
                return ra.Lookup(param, child)
            case _:
                return None

    return ra.rewrite(expr, change)


def push_slices(expr: ra.Expr) -> ra.Expr:
    """Slices below everything but what they are cut from, so that only needed columns are made."""

    def change(e: ra.Expr) -> ra.Expr | None:
        return push(e.x, e.begin, e.end, e.axis) if isinstance(e, ra.Slice) else None

    return ra.rewrite(expr, change)


def push(x: ra.Expr, begin: int, end: int, axis: int) -> ra.Expr:
    """Elements begin .. end - 1 of x along an axis."""
    if (begin, end) == (0, x.shape[axis]):
        return x
    with ra.at_source(x.source):
        match x:
            case ra.Unary(op=op, x=inner):
                return ra.Unary(op, push(inner, begin, end, axis))
            case ra.Binary(op=op, x=left, y=right):
                a = push(left, begin, end, axis) if left.rank else left
                b = push(right, begin, end, axis) if right.rank else right
                return ra.Binary(op, a, b)
            case ra.Slice(x=inner, begin=first, axis=other) if other == axis:
                return push(inner, first + begin, first + end, axis)
            case ra.Number(value=value, shape=shape):
                return ra.Number(value, (*shape[:axis], end - begin, *shape[axis + 1 :]))
            case ra.Reduce(op=op, body=body):
                return ra.Reduce(op, push(body, begin, end, axis))
            case ra.Product(x=left, y=right):
                rows = left.rank - 1
                if axis < rows:
                    return ra.Product(push(left, begin, end, axis), right)
                return ra.Product(left, push(right, begin, end, axis - rows + 1))
            case ra.Concat(parts=parts, axis=other) if other == axis:
                found, start = [], 0
                for part in parts:
                    size = part.shape[axis]
                    low, high = max(begin - start, 0), min(end - start, size)
                    if low < high:
                        found.append(push(part, low, high, axis))
                    start += size
                return found[0] if len(found) == 1 else ra.Concat(tuple(found), axis)
            case ra.Concat(parts=parts, axis=other):
                return ra.Concat(tuple(push(p, begin, end, axis) for p in parts), other)
            case _:
                return ra.Slice(x, begin, end, axis)
