"""The order of sums and products: U (h_l + h_r) costs less than U h_l + U h_r (sec. 3.4)."""

from cortex import ra


def sum_first(expr: ra.Expr) -> ra.Expr:
    """Products with one matrix of weights are added before they are multiplied."""

    def change(e: ra.Expr) -> ra.Expr | None:
        match e:
            case ra.Binary("add", ra.Product(x=a, y=v), ra.Product(x=b, y=w)) if v == w and (
                static(v) and a.shape == b.shape
            ):
                return ra.Product(ra.Binary("add", a, b), v)
            case ra.Reduce("sum", ra.Product(x=a, y=w)) if static(w) and a.rank == 1:
                return ra.Product(ra.Reduce("sum", a), w)
            case _:
                return None

    return ra.rewrite(expr, change)


def static(expr: ra.Expr) -> bool:
    """Whether a value is made from parameters alone."""
    if isinstance(expr, ra.Slice | ra.Transpose):
        return static(expr.x)
    return isinstance(expr, ra.Param)
