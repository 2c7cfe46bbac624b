"""The paper's kernels at small sizes, as programs."""

from costmodel.ir import Program

TEXTS = {
    "matmul": """
def matmul(A: "in float32[40, 56]", B: "in float32[56, 48]", C: "inout float32[40, 48]"):
    for i in range(0, 40):
        for j in range(0, 48):
            for k in range(0, 56):
                C[i, j] = C[i, j] + A[i, k] * B[k, j]
""",
    "blur": """
def blur(A: "in float32[3, 66, 50]", T: "temp float32[3, 66, 48]", B: "out float32[3, 64, 48]"):
    for c in range(0, 3):
        for i in range(0, 66):
            for j in range(0, 48):
                T[c, i, j] = (A[c, i, j] + A[c, i, j + 1] + A[c, i, j + 2]) * 0.25
    for c in range(0, 3):
        for i in range(0, 64):
            for j in range(0, 48):
                B[c, i, j] = (T[c, i, j] + T[c, i + 1, j] + T[c, i + 2, j]) * 0.5
""",
    "convrelu": """
def convrelu(
    A: "in float32[2, 3, 34, 34]", W: "in float32[4, 3, 3, 3]", b: "in float32[4]",
    C: "out float32[2, 4, 32, 32]",
):
    for n in range(0, 2):
        for f in range(0, 4):
            for y in range(0, 32):
                for x in range(0, 32):
                    C[n, f, y, x] = b[f]
                    for c in range(0, 3):
                        for p in range(0, 3):
                            for q in range(0, 3):
                                C[n, f, y, x] = C[n, f, y, x] + (
                                    A[n, c, y + p, x + q] * W[f, c, p, q])
                    C[n, f, y, x] = max(0.0, C[n, f, y, x])
""",
    "cvtcolor": """
def cvtcolor(A: "in int32[3, 40, 36]", B: "out int32[40, 36]"):
    for i in range(0, 40):
        for j in range(0, 36):
            B[i, j] = (A[0, i, j] * 4899 + A[1, i, j] * 9617 + A[2, i, j] * 1868 + 8192) / 16384
""",
    "doitgen": """
def doitgen(A: "inout float32[12, 14, 32]", C4: "in float32[32, 32]", s: "temp float32[32]"):
    for r in range(0, 12):
        for q in range(0, 14):
            for p in range(0, 32):
                s[p] = 0.0
                for t in range(0, 32):
                    s[p] = s[p] + A[r, q, t] * C4[t, p]
            for p in range(0, 32):
                A[r, q, p] = s[p]
""",
    "heat2d": """
def heat2d(A: "in float32[40, 44]", B: "out float32[40, 44]"):
    for i in range(1, 39):
        for j in range(1, 43):
            B[i, j] = A[i, j] + 0.25 * (A[i - 1, j] + A[i + 1, j] + A[i, j - 1] + A[i, j + 1])
""",
    "heat3d": """
def heat3d(A: "in float32[12, 16, 20]", B: "out float32[12, 16, 20]"):
    for i in range(1, 11):
        for j in range(1, 15):
            for k in range(1, 19):
                B[i, j, k] = A[i, j, k] * 0.5 + 0.125 * (
                    A[i - 1, j, k] + A[i + 1, j, k] + A[i, j - 1, k] + A[i, j + 1, k]
                    + A[i, j, k - 1] + A[i, j, k + 1])
""",
    "jacobi2d": """
def jacobi2d(A: "inout float32[40, 40]", B: "inout float32[40, 40]"):
    for i in range(1, 39):
        for j in range(1, 39):
            B[i, j] = 0.25 * (A[i, j] + A[i, j - 1] + A[i, j + 1] + A[i - 1, j] + A[i + 1, j])
""",
    "mvt": """
def mvt(
    x1: "inout float32[40]", x2: "inout float32[40]", y1: "in float32[40]", y2: "in float32[40]",
    A: "in float32[40, 40]",
):
    for i in range(0, 40):
        for j in range(0, 40):
            x1[i] = x1[i] + A[i, j] * y1[j]
    for i in range(0, 40):
        for j in range(0, 40):
            x2[i] = x2[i] + A[j, i] * y2[j]
""",
    "seidel2d": """
def seidel2d(A: "inout float32[20, 20]"):
    for i in range(1, 19):
        for j in range(1, 19):
            A[i, j] = (A[i - 1, j] + A[i, j - 1] + A[i, j] + A[i, j + 1] + A[i + 1, j]) * 0.2
""",
}
KERNELS = {name: Program.parse(text.strip() + "\n") for name, text in TEXTS.items()}
