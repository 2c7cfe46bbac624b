"""isl's own scheduler as a peer: what it makes computes the same."""

import numpy as np
import pytest

from costmodel import c_text, interpreter, programs
from costmodel.errors import UnsupportedProgram
from costmodel.isl_scheduler import isl_scheduled
from tests.costmodel.compiled import call
from tests.costmodel.small_programs import copies
from tests.costmodel.test_programs import inputs


@pytest.mark.parametrize("tile", [0, 4])
@pytest.mark.parametrize("name", ["gemm", "jacobi-1d", "trisolv", "seidel-2d"])
def test_the_order_found_keeps_the_values(name, tile, rng):
    program = programs.load(name, "mini", "float64")
    start = inputs(program, rng)
    wanted, got = copies(start), copies(start)
    interpreter.run(program, wanted)
    text = c_text.PRELUDE + isl_scheduled(program, "by_isl", tile=tile)
    call(program, text, "by_isl", got)
    for array in program.arrays:
        if array.role != "temp":
            np.testing.assert_array_equal(got[array.name], wanted[array.name])


def test_taking_too_long_is_one_sentence():
    with pytest.raises(UnsupportedProgram, match=r"found no order for adi within 2 s"):
        isl_scheduled(programs.load("adi", "mini"), "f", timeout_s=2)
