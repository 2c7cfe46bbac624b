"""Random programs with random legal schedules of them, as C texts to measure."""

from __future__ import annotations

import attrs

from costmodel.ir import Program

#: Random programs looked at for one that is wanted, at most.
MAX_DRAWS = 60


@attrs.frozen
class Batch:
    """A program, its plain C, and C of legal schedules of it that all differ."""

    program: Program
    baseline: str
    variants: tuple[str, ...]


def draw(number: int, n_variants: int, seed: int, least_us: float) -> Batch:
    """Batch `number`, the same whenever it is asked for but for the time it takes.

    least_us: programs that run for less than this many microseconds are passed over: a call of one
              is mostly the call
    """
    from costmodel import plain_c
    from costmodel.codegen import c_function
    from costmodel.measure import Options, measure
    from costmodel.random_programs import random_program
    from costmodel.random_schedules import random_schedules
    from costmodel.schedule import apply

    once = Options(passes=(1, 1), sessions=1)
    for attempt in range(MAX_DRAWS):
        program = random_program([seed, number, attempt], "small")
        plain = plain_c.function(program, "f")
        if measure(program, plain, [], options=once).baseline.seconds < 1e-6 * least_us:
            continue
        schedules = random_schedules(program, n_variants, [seed, number, attempt])
        if len(schedules) < n_variants:
            continue
        return Batch(program, plain, tuple(c_function(apply(program, s), "f") for s in schedules))
    raise RuntimeError(
        f"none of {MAX_DRAWS} random programs runs for {least_us:g} us and has {n_variants} "
        "schedules: lower least_us or variants"
    )
