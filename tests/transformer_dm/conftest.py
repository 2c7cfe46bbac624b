"""What the tests of the native kernels share: every width of vectors, comparison by rounding."""

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from common import native

#: Flags of the builds tested: this processor's own vectors, those of AVX2 where these are not the
#: same, and no vectors.
FLAGS: dict[str, tuple[str, ...]] = {
    "native": (),
    "avx2": ("-march=x86-64-v3",),
    "scalar": ("-march=x86-64-v3", "-DSIMD_SCALAR"),
}
if torch.backends.cpu.get_cpu_capability() == "AVX2":
    del FLAGS["avx2"]


@pytest.fixture(scope="session")
def compile_all() -> Callable[..., None]:
    """Compile kernels in every width at once: it takes a while, and no test is to blame for it."""

    def compile_modules(*modules: ModuleType) -> None:
        recipes = [
            native.Recipe(name=m._SOURCE.stem, sources=(m._SOURCE,), flags=flags, openmp=True)
            for m in modules
            for flags in FLAGS.values()
        ]
        for library in native.build_many(recipes):
            assert isinstance(library, native.Library), library
            assert library.warnings == ""

    return compile_modules


@pytest.fixture(params=FLAGS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels of the modules a test file lists as MODULES, built for one width of vectors."""
    for module in request.module.MODULES:
        monkeypatch.setattr(module, "_library", _bound(module._library, FLAGS[request.param]))
    return str(request.param)


def _bound(library: Callable[..., native.Library], flags: tuple[str, ...]) -> Callable[[], object]:
    return lambda: library(flags)


@pytest.fixture
def with_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def assert_rounded() -> Callable[..., None]:
    """found is exact, but for rounding.

    exact: in float64, from the very inputs; size: an upper bound on the magnitudes that were added
    up; k: how many roundings of float32 of them; then one rounding to found's own type
    """

    def check(found: Tensor, exact: Tensor, size: Tensor | float, k: float) -> None:
        assert found.shape == exact.shape
        bound = k * 2.0**-24 * torch.as_tensor(size, dtype=torch.float64)
        if found.dtype is torch.bfloat16:
            bound = bound * 1.01 + 2.0**-8 * exact.abs()
        error = (found.double() - exact).abs()
        worst = (error - bound).max() if error.numel() else torch.tensor(-1.0)
        # The smallest normal number: denormals may be rounded away.
        assert bool(worst <= 2.0**-126), f"error {error.max():.3e} exceeds its bound by {worst:.3e}"

    return check
