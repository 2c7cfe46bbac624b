"""Importing transformer_dm costs little, and its analysis needs no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import transformer_dm

ROOT = Path(__file__).parents[2]


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_loads_nothing_of_the_package():
    found = run(
        "import sys, transformer_dm; "
        "print([m for m in sys.modules if m.startswith('transformer_dm.') or m == 'torch'])"
    )
    assert found == "[]"


def test_the_analysis_needs_no_torch():
    found = run(
        "import sys, transformer_dm as t; "
        "g = t.encoder_graph(B=1, L=4, H=2, P=4, U=16); before, after = t.unfused(g, 'paper'), "
        "t.named_plan(g, 'flash'); t.reduction(before.words('paper'), after.words('paper')); "
        "print('torch' in sys.modules)"
    )
    assert found == "False"


@pytest.mark.parametrize("name", ["EncoderLayer", "optimize", "LayerSize", "GraphError"])
def test_names_are_those_of_their_files(name):
    found = getattr(transformer_dm, name)
    assert found.__module__.startswith("transformer_dm.")
    assert found.__name__ == name
