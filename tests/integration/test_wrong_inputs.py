"""Wrong inputs of a new user: each is one clear sentence and an exit code, none a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from common.runner import run_info

REPO = Path(__file__).parents[2]
PASSES = "experiment=toy_passes"


@attrs.frozen
class Place:
    """Where a command is given: its toy paper, and a folder for what goes wrong."""

    toy: Any
    folder: Path

    def fill(self, word: str) -> str:
        """Put paths into a word of a command line."""
        paths = {"results": self.toy.results, "folder": self.folder, "toy": self.toy.root}
        for name, path in paths.items():
            word = word.replace(f"<{name}>", str(path))
        return word


def claims_say(old: str, new: str) -> Callable[[Place], None]:
    """Edit the toy paper's claims.toml."""

    def edit(place: Place) -> None:
        path = place.toy.root / "toy" / "claims.toml"
        path.write_text(path.read_text().replace(old, new))

    return edit


def a_file(word: str, text: str = "") -> Callable[[Place], None]:
    """Write a file where there should be none, or another."""

    def write(place: Place) -> None:
        path = Path(place.fill(word))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@attrs.frozen
class Wrong:
    """A command with a mistake: what it must say, with which exit code, and how to set it up."""

    what: str
    words: tuple[str, ...]
    said: str
    code: int = 2
    arrange: Callable[[Place], None] | None = None
    path: str | None = None


def reproduce(what: str, *words: str, said: str, **more: Any) -> Wrong:
    command = ("<toy>/drive.py", *words, "results='<results>'")
    return Wrong(f"reproduce: {what}", command, said, **more)


def module(name: str, what: str, *words: str, said: str, **more: Any) -> Wrong:
    return Wrong(f"{name}: {what}", ("-m", name, *words), said, **more)


def without(name: str, absent: str) -> str:
    """A program that is `python -m <name>` where a package is not installed."""
    hide = f"import runpy, sys; sys.modules[{absent!r}] = None; "
    return hide + f"runpy.run_module({name!r}, None, '__main__')"


# scripts.report on a checkout in another folder.
REPORT_ON = (
    "import sys; from pathlib import Path; from scripts import report; "
    "report.ROOT = Path(sys.argv.pop()); sys.exit(report.main())"
)
KERNEL = "void f(float A[8]) { for (int i = 0; i < 8; i++) A[i] = 1; }\n"
LOOP = "void f(float A[8]) { int i = 0; while (i < 8) { A[i] = 1; i++; } }\n"
COSTMODEL = ("optimize", "<folder>/kernel.c", "--budget", "0.1")

TABLE = [
    reproduce("bad key", PASSES, "experiment.kimd=7",
              said="'kimd' is no field of toy_passes, did you mean 'kind'?"),
    reproduce("word for a number", PASSES, "experiment.n=abc",
              said="toy_passes: n must be int, got 'abc'"),
    reproduce("fraction", PASSES, "experiment.n=3.5", said="toy_passes: n must be int, got 3.5"),
    reproduce("no value", PASSES, "experiment.n=null", said="toy_passes: n must be int, got null"),
    reproduce("out of range", PASSES, "experiment.n=0", said="toy_passes: n must be >= 1, got 0"),
    reproduce("bad choice", PASSES, "experiment.kind=fp8",
              said="kind must be one of 'plain', 'fancy', got 'fp8'"),
    reproduce("new field", PASSES, "+experiment.zzz=1",
              said="'zzz' is no field of toy_passes; fields: n, kind"),
    reproduce("misspelt option", PASSES, "profil=full",
              said="'profil' is no field of the command line, did you mean"),
    reproduce("unknown paper", "paper=nosuch",
              said="paper must be one of all, common, costmodel, cortex"),
    reproduce("misspelt profile", PASSES, "profile=fast",
              said="profile must be one of full, quick, got 'fast'"),
    reproduce("unknown experiment", "experiment=toy_passe",
              said="experiment must be one of toy_passes, "),
    reproduce("results is a file", PASSES, code=1, arrange=a_file("<results>"),
              said="cannot write results to <results>: File exists; give another folder"),
    Wrong("reproduce: results cannot be written",
          ("<toy>/drive.py", PASSES, "results=/proc/results"), code=1,
          said="cannot write results to /proc/results: No such file or directory; give another"),
    reproduce("no such --config-dir", PASSES, "--config-dir", "<folder>/none",
              said="--config-dir must be a folder of experiment/<name>.yaml, got <folder>/none"),
    reproduce("unknown flag", PASSES, "--fast", said="unrecognized arguments: --fast"),
    reproduce("claim that claims.toml lacks", PASSES,
              arrange=claims_say("toy.ours.rows", "toy.ours.row"),
              said="claim 'toy.ours.rows' is in no claims.toml, did you mean 'toy.ours.row'"),
    reproduce("claims.toml is not TOML", PASSES, arrange=claims_say("[[claim]]", "[[claim"),
              said="claims.toml is not valid TOML: "),
    reproduce("misspelt field of a claim", PASSES, arrange=claims_say("better", "beter"),
              said="'beter' is unknown, did you mean 'better'?"),
    module("scripts.report", "nothing measured", "--results", "<folder>/none",
           said="<folder>/none holds no run; first run bash scripts/reproduce.sh"),
    module("scripts.report", "results is a file", "--results", "<folder>/file",
           arrange=a_file("<folder>/file"), said="<folder>/file is a file, and --results takes"),
    module("scripts.report", "unknown ending", "--results", "<folder>",
           "--export", "<folder>/rows.xyz", arrange=a_file("<folder>/toy/run/run.json"),
           said="an export must end in .csv, .jsonl, .parquet, got 'rows.xyz'"),
    module("scripts.report", "unknown package", "--reported", "ttrek",
           said="invalid choice: 'ttrek' (choose from"),
    Wrong("scripts.report: damaged reported.jsonl", ("-c", REPORT_ON, "--readme", "<folder>"),
          arrange=a_file("<folder>/ttrec/reported.jsonl", '{"metric": "spe'),
          said="<folder>/ttrec/reported.jsonl:1 is not a reported record"),
    Wrong("scripts.report: missing extra",
          ("-c", without("scripts.report", "pdoc"), "--api", "--results", "<folder>"),
          said='pdoc is needed for the API reference: pip install "mlsys21[dev]"'),
    module("scripts.regress", "unknown revision", "base=no-such-branch",
           said="base names no commit: 'no-such-branch'"),
    module("costmodel", "no such file", *COSTMODEL, said="No such file or directory: '<folder>/k"),
    module("costmodel", "no compiler", *COSTMODEL, arrange=a_file("<folder>/kernel.c", KERNEL),
           path="/nowhere", said="no compiler for C found (looked for cc and gcc): apt-get"),
    module("costmodel", "loop it cannot read", *COSTMODEL,
           arrange=a_file("<folder>/kernel.c", LOOP), said="while"),
    module("costmodel", "size without a number", *COSTMODEL, "-D", "N=many",
           said="-D takes NAME=VALUE with a whole number, got 'N=many'"),
    module("costmodel", "output in no folder", *COSTMODEL, "-o", "<folder>/none/out.c",
           said="-o takes a file in a folder that is there, got <folder>/none/out.c"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", TABLE, ids=lambda wrong: wrong.what)
def test_wrong_input_is_one_sentence(toy: Any, tmp_path: Path, wrong: Wrong) -> None:
    place = Place(toy, tmp_path / "folder")
    place.folder.mkdir()
    if wrong.arrange:
        wrong.arrange(place)
    environment = os.environ | ({"PATH": wrong.path} if wrong.path else {})
    done = subprocess.run(
        [sys.executable, *map(place.fill, wrong.words)],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == wrong.code, done.stderr
    assert place.fill(wrong.said) in done.stderr
    assert "Traceback" not in done.stderr
    # argparse says how a command is called before it says what is wrong.
    said = [line for line in done.stderr.splitlines() if not line.startswith(("usage:", " "))]
    assert len(said) == 1, done.stderr
    assert done.stdout == ""
    assert not toy.results.is_dir(), "nothing was run"


def test_run_that_was_killed_is_made_again(toy: Any) -> None:
    job = toy.job("passes", {"n": 2, "kind": "plain", "scales": [1.0]})
    job.folder.begin(run_info(job))  # and no end
    words = [str(toy.driver), PASSES, f"results='{toy.results}'"]
    done = subprocess.run(
        [sys.executable, *words], cwd=REPO, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[1/1] toy_passes  ok")
    assert "Traceback" not in done.stderr


def _misuse_of_panama() -> None:
    import panama

    panama.Cluster.clos(leaves=0, hosts_per_leaf=2, spines=1)


def _misuse_of_ttrec() -> None:
    import torch

    import ttrec

    ttrec.TTEmbeddingBag(100, 16, rank=2)(torch.tensor([[100]]))


def _misuse_of_transformer_dm() -> None:
    import transformer_dm

    transformer_dm.EncoderLayer(65, 4, 128)


def _misuse_of_costmodel() -> None:
    import costmodel

    costmodel.from_c("void f(float A[N]) { for (int i = 0; i < N; i++) A[i] = 1; }")


def _misuse_of_cortex() -> None:
    import cortex

    cortex.Schedule().unroll(-1)


def _missing_extra() -> None:
    from common import extras

    extras.require("no_such_package", "ttrec", "nothing")


@pytest.mark.parametrize(
    ("misuse", "kind", "named"),
    [
        (_misuse_of_panama, ValueError, "leaves"),
        (_misuse_of_ttrec, IndexError, "100"),
        (_misuse_of_transformer_dm, ValueError, "65"),
        (_misuse_of_costmodel, ValueError, "'N'"),
        (_misuse_of_cortex, ValueError, "-1"),
        (_missing_extra, ImportError, 'pip install "mlsys21[ttrec]"'),
    ],
)
def test_misuse_of_a_library_is_an_exception_of_one_sentence(
    misuse: Callable[[], None], kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind) as caught:
        misuse()
    text = str(caught.value)
    assert named in text
    assert "\n" not in text.strip()
