"""What all tests share: seeded random numbers, and a toy paper whose experiments misbehave."""

import os
import sys
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest

from common.experiment import Experiment, Options, all_experiments
from common.runner import Job


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test's own; the seed is shown when the test fails.

    MLSYS21_TEST_SEED sets another one.
    """
    seed = int(os.environ.get("MLSYS21_TEST_SEED", zlib.crc32(request.node.nodeid.encode())))
    print(f"random seed: MLSYS21_TEST_SEED={seed}")
    return np.random.default_rng(seed)


# One experiment a way of ending. `marks` is a folder where a cell leaves a line each time it is
# really computed.
_TOY_EXPERIMENTS = {
    "passes": (
        """
        n: int = attrs.field(validator=attrs.validators.ge(1))
        kind: str = attrs.field(validator=attrs.validators.in_(("plain", "fancy")))
        scales: list[float]
        """,
        """
        for i in ctx.progress(range(settings.n), "rows"):
            ctx.record("toy.ours.rows", "rows", float(i + 1), "x", i=i, kind=settings.kind)
        """,
        "n: ${profile:2, 5}\nkind: plain\nscales: ${profile:[1.0], [1.0, 2.0]}",
    ),
    "cells": (
        "n: int\nmarks: str\nstop_at: int\nhow: str",
        """
        def measure(i):
            with open(os.path.join(settings.marks, "computed"), "a") as file:
                file.write(f"{i}\\n")
            ctx.record(None, "inside", float(i), "", i=i)
            return {"square": i * i}
        for i in range(settings.n):
            if i == settings.stop_at and not os.path.exists(os.path.join(settings.marks, "go")):
                if settings.how == "wait":
                    ctx.log.warning("waiting")
                    time.sleep(60)
                raise RuntimeError("stopped half way")
            ctx.record(None, "square", float(ctx.cell(measure, i=i)["square"]), "", i=i)
        """,
        "n: 4\nmarks: ???\nstop_at: -1\nhow: raise",
    ),
    "fails": ("text: str", "ctx.log.info('before')\nraise RuntimeError(settings.text)", "text: no"),
    "crashes": (
        "signum: int",
        """
        ctx.record(None, "early", 1.0, "")
        print("last words")
        os.kill(os.getpid(), settings.signum)
        """,
        "signum: 11",
    ),
    "exits": ("code: int", "print('leaving')\nos._exit(settings.code)", "code: 7"),
    "hangs": (
        "stubborn: bool",
        """
        if settings.stubborn:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        ctx.log.warning("hanging")
        while True:
            time.sleep(0.05)
        """,
        "stubborn: false",
    ),
    "eats": (
        "mb: int",
        "ctx.log.info('eating')\nfood = b'x' * (settings.mb * 10**6)\ntime.sleep(30)",
        "mb: 600",
    ),
    "fills": (
        "limit_bytes: int",
        """
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (settings.limit_bytes, settings.limit_bytes))
        for i in range(10**6):
            ctx.record(None, "row", float(i), "", i=i)
        """,
        "limit_bytes: 3000",
    ),
}

_TOY_CLAIMS = """
[[claim]]
id = "toy.ours.rows"
where = "ours"
metric = "rows"
unit = "x"
paper = 100.0
source = "read"
setting = "a toy"
better = "higher"
criterion = {kind = "ratio", min = 0.9}
comparable = true
"""


@attrs.frozen
class ToyPaper:
    """A package of experiments for tests, its configuration, and a folder for results.

    root:   holds the package "toy" and configs/experiment/
    driver: script that does what `python -m scripts.reproduce` does, with the toy paper alone
    """

    root: Path
    results: Path
    experiments: dict[str, Experiment]

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    @property
    def driver(self) -> Path:
        return self.root / "drive.py"

    def source(self, name: str) -> Path:
        """The module of one experiment."""
        return self.root / "toy" / "experiments" / f"{name}.py"

    def job(self, name: str, settings: dict[str, object], **options: object) -> Job:
        """One experiment with settings and options, ready to run."""
        experiment = self.experiments[f"toy_{name}"]
        return Job(
            experiment,
            experiment.settings_class()(**settings),
            attrs.evolve(Options(results=self.results, timeout_s=60.0), **options),
        )


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyPaper]:
    """A paper whose experiments pass, fail, crash, hang, eat memory or stop half way."""
    root = tmp_path / "toy paper"
    write_toy_paper(root)
    monkeypatch.syspath_prepend(str(root))
    _forget_toy()
    yield ToyPaper(root, tmp_path / "results", all_experiments(("toy",)))
    _forget_toy()


def write_toy_paper(root: Path) -> None:
    """Write the package "toy", its yaml files and the driver script under root."""
    package = root / "toy" / "experiments"
    configs = root / "configs" / "experiment"
    package.mkdir(parents=True)
    configs.mkdir(parents=True)
    (root / "toy" / "__init__.py").write_text("")
    (root / "toy" / "claims.toml").write_text(_TOY_CLAIMS)
    listing = ["from common.experiment import Experiment", "", "EXPERIMENTS = ("]
    for name, (fields, body, values) in _TOY_EXPERIMENTS.items():
        claims = ("toy.ours.rows",) if name == "passes" else ()
        minutes = 150 if name == "passes" else 45
        arguments = f'"toy_{name}", "toy.experiments.{name}", {claims!r}, full_minutes={minutes}'
        listing.append(f"    Experiment({arguments}),")
        (package / f"{name}.py").write_text(
            "import os, signal, time\nimport attrs\n\n@attrs.frozen\nclass Settings:\n"
            + textwrap.indent(textwrap.dedent(fields).strip(), "    ")
            + "\n\ndef run(settings, ctx):\n"
            + textwrap.indent(textwrap.dedent(body).strip(), "    ")
            + "\n\ndef charts(frame, claims):\n    return []\n"
        )
        (configs / f"toy_{name}.yaml").write_text(
            f"defaults:\n  - /schema/toy_{name}@_here_\n  - _self_\n{values}\n"
        )
    (package / "__init__.py").write_text("\n".join([*listing, ")", ""]))
    (root / "drive.py").write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path

            here = Path(__file__).resolve().parent
            sys.path.insert(0, str(here))
            if __name__ == "__main__":
                from scripts.reproduce import main

                sys.exit(main(packages=("toy",), config_dirs=[here / "configs"]))
            """
        )
    )


def _forget_toy() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
        del sys.modules[name]
