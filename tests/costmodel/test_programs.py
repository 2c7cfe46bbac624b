"""Every shipped program: its C compiled directly, as plain loops again, and interpreted."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common import native
from costmodel import interpreter, plain_c, programs
from costmodel.codegen import c_function
from costmodel.ir import Program
from costmodel.schedule import apply
from tests.costmodel.compiled import C_NUMBERS, EXACT
from tests.costmodel.small_programs import copies

DTYPES = ("float64", "float32")


def inputs(program: Program, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Numbers of which factorizations exist: from 0.5 to 1, and a heavy diagonal."""
    arrays = {}
    for array in program.arrays:
        if array.dtype == "int32":
            values = rng.integers(0, 4, array.shape)
        else:
            values = rng.uniform(0.5, 1.0, array.shape)
            if len(array.shape) == 2 and array.shape[0] == array.shape[1]:
                values += np.eye(array.shape[0]) * array.shape[0]
        arrays[array.name] = np.asarray(values).astype(array.dtype)
    return arrays


def compiled(name: str, program: Program) -> dict[str, native.NativeFunction]:
    """`plain` and `isl`, made from the program, and `original`, the C file as it stands."""
    outside = [a for a in program.arrays if a.role != "temp"]
    head = ", ".join(f"{C_NUMBERS[a.dtype]}* {a.name}_" for a in outside)
    given = ", ".join(f"*{a.name}_" if not a.shape else f"(void*){a.name}_" for a in outside)
    text = plain_c.source(program, "plain").replace("void plain", "EXPORT void plain")
    text += c_function(apply(program), "isl").replace("void isl", "EXPORT void isl")
    text += f"#undef min\n#undef max\n{programs.source_path(name).read_text()}"
    text += f"EXPORT void original({head}) {{ {program.name}({given}); }}\n"
    dtype = C_NUMBERS[program.arrays[0].dtype]
    library = native.build_source(
        f"costmodel_{name}", text, flags=EXACT, defines={"DATA_TYPE": dtype}
    )
    every = ", ".join(f"{C_NUMBERS[a.dtype]}* {a.name}" for a in program.arrays)
    return {
        "plain": library.function(f"void plain({every})"),
        "isl": library.function(f"void isl({every})"),
        "original": library.function(f"void original({head})"),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted({programs.source_path(n).stem for n in programs.NAMES}))
def test_program_computes_what_its_c_does_to_the_bit(
    name: str, dtype: Any, rng: np.random.Generator
) -> None:
    program = programs.load(name, "mini", dtype)
    functions = compiled(name, program)
    start = inputs(program, rng)
    outside = [a.name for a in program.arrays if a.role != "temp"]

    original = copies(start)
    functions["original"](*(original[n] for n in outside))
    # What an output or temp holds before must not matter.
    plain = copies(start)
    for array in program.arrays:
        if array.role in ("out", "temp"):
            plain[array.name][...] = np.nan
    interpreted, by_isl = copies(plain), copies(plain)
    functions["isl"](*(by_isl[a.name] for a in program.arrays))
    functions["plain"](*(plain[a.name] for a in program.arrays))
    interpreter.run(program, interpreted)

    changed = False
    for array in program.arrays:
        if array.role == "temp":
            continue
        wanted = original[array.name]
        assert np.isfinite(wanted).all()
        assert plain[array.name].tobytes() == wanted.tobytes(), array.name
        assert by_isl[array.name].tobytes() == wanted.tobytes(), array.name
        assert interpreted[array.name].tobytes() == wanted.tobytes(), array.name
        same = wanted.tobytes() == start[array.name].tobytes()
        assert same or array.role != "in"
        changed = changed or not same
    assert changed


@pytest.mark.parametrize("name", ["floyd-warshall", "nussinov", "gemm", "cvtcolor"])
def test_whole_number_programs_are_exact_too(name: str, rng: np.random.Generator) -> None:
    program = programs.load(name, "mini", "int32")
    functions = compiled(name, program)
    original = inputs(program, rng)
    plain, interpreted = copies(original), copies(original)
    functions["original"](*(original[a.name] for a in program.arrays if a.role != "temp"))
    functions["plain"](*plain.values())
    interpreter.run(program, interpreted)
    for array in program.arrays:
        if array.role != "temp":
            np.testing.assert_array_equal(plain[array.name], original[array.name])
            np.testing.assert_array_equal(interpreted[array.name], original[array.name])


@pytest.mark.slow
def test_the_c_files_have_the_mini_sizes() -> None:
    from costmodel.c_frontend import from_c

    for name in programs.NAMES:
        assert from_c(programs.source_path(name)).hash == (
            programs.load(name, "mini", "float64").hash
        ), name


def test_sizes_grow_and_paper_sizes_exist_for_the_papers_ten() -> None:
    assert len(programs.POLYBENCH) == 30
    assert len(programs.PAPER) == 10
    for name in programs.NAMES:
        grown = [tuple(programs.sizes(name, s).values()) for s in ("mini", "small", "medium")]
        assert grown == sorted(grown), name
    assert programs.sizes("heat3d", "paper") == {"D": 960, "H": 1120, "W": 1214}


def test_matrix_products_agree_with_numpy(rng: np.random.Generator) -> None:
    a, b, c, d = (rng.integers(-4, 5, s) * 1.0 for s in [(16, 22), (22, 18), (18, 24), (16, 24)])
    arrays = {"alpha": np.array(2.0), "beta": np.array(-3.0), "A": a, "B": b, "C": c, "D": d.copy()}
    interpreter.run(programs.load("2mm", "mini"), arrays)
    np.testing.assert_array_equal(arrays["D"], 2 * a @ b @ c - 3 * d)


def test_factorizations_agree_with_numpy(rng: np.random.Generator) -> None:
    matrix = rng.uniform(size=(40, 40))
    matrix = matrix @ matrix.T + 40 * np.eye(40)
    arrays = {"A": matrix.copy()}
    interpreter.run(programs.load("cholesky", "mini"), arrays)
    # Rounding of sums of 40 products; values are below 60.
    np.testing.assert_allclose(np.tril(arrays["A"]), np.linalg.cholesky(matrix), atol=1e-11)
    b = rng.uniform(size=40)
    solved = {"A": matrix.copy(), "b": b, "x": np.zeros(40), "y": np.zeros(40)}
    interpreter.run(programs.load("ludcmp", "mini"), solved)
    np.testing.assert_allclose(solved["x"], np.linalg.solve(matrix, b), atol=1e-13)


def test_correlation_agrees_with_numpy(rng: np.random.Generator) -> None:
    data = rng.uniform(size=(32, 28))
    arrays = {"data": data.copy(), "corr": np.zeros((28, 28))}
    interpreter.run(programs.load("correlation", "mini"), arrays)
    np.testing.assert_allclose(arrays["corr"], np.corrcoef(data.T), atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gem",), "there is no program 'gem': the names are 2mm, 3mm"),
        (("gemm", "huge"), "size of gemm must be one of mini, small, medium, large, got 'huge'"),
        (("gemm", "mini", "float16"), "dtype must be one of float32, float64, int32"),
    ],
)
def test_unknown_choices_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        programs.load(*arguments)
