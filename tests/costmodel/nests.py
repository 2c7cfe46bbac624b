"""Programs small enough to read, and C texts of them by hand."""

from __future__ import annotations

from costmodel.affine import Affine
from costmodel.c_text import signature
from costmodel.ir import Access, Array, Binary, Computation, DType, Load, Loop, Program

i, j, k = map(Affine.of, "ijk")
ACCUMULATE = "C[i][j] = C[i][j] + A[i][k] * B[k][j];"


def matmul(n: int = 48, dtype: DType = "float32") -> Program:
    """C += A B, n x n."""
    zero, end = Affine(), Affine((), n)
    a, b = (Array(name, (n, n), dtype, "in") for name in "AB")
    c = Array("C", (n, n), dtype, "inout")
    product = Binary("*", Load(Access("A", (i, k))), Load(Access("B", (k, j))))
    write = Access("C", (i, j))
    inner = Loop("k", zero, end, (Computation(write, Binary("+", Load(write), product)),))
    return Program("matmul", (a, b, c), (Loop("i", zero, end, (Loop("j", zero, end, (inner,)),)),))


def matmul_text(order: str, n: int = 48, body: str = ACCUMULATE, dtype: DType = "float32") -> str:
    """The loops of `matmul` in another order."""
    loops = "".join(f"for (int {x} = 0; {x} < {n}; {x}++)\n" for x in order)
    return f"{signature(matmul(n, dtype), 'kernel')} {{\n{loops}{body}\n}}\n"


def with_body(program: Program, body: str) -> str:
    return f"{signature(program, 'kernel')} {{ {body} }}\n"
