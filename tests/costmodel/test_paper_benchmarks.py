"""The paper's ten kernels against numpy, and the sizes they come in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from costmodel import interpreter, programs
from tests.costmodel.small_programs import copies

Arrays = dict[str, NDArray[Any]]


def blur(a: Arrays) -> Arrays:
    windows = np.lib.stride_tricks.sliding_window_view(a["image"], (3, 3), axis=(1, 2))
    return {"out": windows.mean(axis=(-1, -2))}


def convolution(a: Arrays) -> Arrays:
    k = a["weights"].shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(a["image"], (k, k), axis=(2, 3))
    return {"out": np.einsum("ncyxrs,fcrs->nfyx", windows, a["weights"]) + a["bias"][:, None, None]}


def conv_relu(a: Arrays) -> Arrays:
    return {"out": np.maximum(convolution(a)["out"], 0)}


def cvtcolor(a: Arrays) -> Arrays:
    return {"out": (np.tensordot([4899, 9617, 1868], a["image"], 1) + 8192) / 16384}


def doitgen(a: Arrays) -> Arrays:
    return {"A": a["A"] @ a["C4"]}


def heat(a: Arrays) -> Arrays:
    """A step in any number of dimensions, the border 0."""
    image, inner = a["image"], (slice(1, -1),) * a["image"].ndim
    around = [
        np.roll(image, by, axis)[inner] for by in (-1, 1) for axis in range(image.ndim)
    ]  # what rolls round touches the border only
    out = np.zeros_like(image)
    out[inner] = a["alpha"] * image[inner] + a["beta"] * sum(around)
    return {"out": out}


def jacobi2d(a: Arrays) -> Arrays:
    def smoothed(source: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
        cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
        windows = np.lib.stride_tricks.sliding_window_view(source, (3, 3))
        found = target.copy()
        found[1:-1, 1:-1] = 0.2 * np.einsum("ijrs,rs->ij", windows, cross)
        return found

    b = smoothed(a["A"], a["B"])
    return {"A": smoothed(b, a["A"]), "B": b}


def mvt(a: Arrays) -> Arrays:
    return {"x1": a["x1"] + a["A"] @ a["y1"], "x2": a["x2"] + a["A"].T @ a["y2"]}


def seidel2d(a: Arrays) -> Arrays:
    found = a["A"].copy()
    for i, j in np.ndindex(found.shape[0] - 2, found.shape[1] - 2):
        found[i + 1, j + 1] = found[i : i + 3, j : j + 3].sum() / 9
    return {"A": found}


REFERENCES: dict[str, Callable[[Arrays], Arrays]] = {
    "blur": blur,
    "conv_relu": conv_relu,
    "convolution": convolution,
    "cvtcolor": cvtcolor,
    "doitgen": doitgen,
    "heat2d": heat,
    "heat3d": heat,
    "jacobi2d": jacobi2d,
    "mvt": mvt,
    "seidel2d": seidel2d,
}


@pytest.fixture(scope="module")
def ten() -> dict[str, Any]:
    return dict(programs.paper_benchmarks("mini", "float64"))


def test_they_are_the_papers_ten(ten: dict[str, Any]) -> None:
    assert set(ten) == set(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_benchmark_computes_what_numpy_does(
    name: str, ten: dict[str, Any], rng: np.random.Generator
) -> None:
    program = ten[name]
    start = {a.name: np.asarray(rng.normal(size=a.shape)) for a in program.arrays}
    wanted = REFERENCES[name](copies(start))
    found = copies(start)
    interpreter.run(program, found)
    assert {a.name for a in program.arrays if a.role in ("out", "inout")} == set(wanted)
    for array, values in wanted.items():
        # Values of a few units, each a sum of at most 27 products.
        np.testing.assert_allclose(found[array], values, rtol=0, atol=1e-12, err_msg=array)
        assert not np.allclose(found[array], start[array])


def test_only_heat3d_is_too_large_at_the_authors_sizes() -> None:
    for name, program in programs.paper_benchmarks().items():
        assert programs.n_bytes(program) <= 2e9
        as_is = programs.load(name, "paper", "float32")
        assert (program.hash == as_is.hash) == (name != "heat3d")
        if name == "heat3d":
            depth, height, width = program.array("out").shape
            assert programs.n_bytes(program) > 1.95e9
            assert depth / width == pytest.approx(960 / 1214, rel=0.01)
            assert height / width == pytest.approx(1120 / 1214, rel=0.01)


def test_channels_stay_where_memory_is_short() -> None:
    small = programs.paper_benchmarks("paper", max_gb=0.1)["convolution"]
    assert small.array("weights").shape == (2, 3, 3, 3)
    assert programs.n_bytes(small) <= 1e8


def test_sizes_are_given_by_their_names_in_the_source() -> None:
    program = programs.load("blur", {"H": 20, "W": 30})
    assert program.array("image").shape == (3, 20, 30)
    with pytest.raises(ValueError, match="sizes of blur are C H W, got N"):
        programs.load("blur", {"N": 3})
