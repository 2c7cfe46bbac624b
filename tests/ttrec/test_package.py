"""Importing ttrec costs little, and a wrong pair of wheels is said in one sentence."""

import subprocess
import sys
from importlib import metadata

import pytest

import ttrec
from ttrec import versions


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_and_sizes_need_no_torch():
    found = run(
        "import sys, ttrec; ttrec.suggest_shape(10131227, 16, 8, preset='paper').params; "
        "ttrec.model_ratio(ttrec.KAGGLE, 7, 8); ttrec.SGD(0.1); print('torch' in sys.modules)"
    )
    assert found == "False"


def test_names_without_torch_are_as_listed():
    code = (
        "import sys, ttrec; n = sys.argv[1] if len(sys.argv) > 1 else ''; "
        "print(sorted(n for n in ttrec.__all__ if n not in ttrec._WITHOUT_TORCH))"
    )
    assert run(code) == str(
        [
            "TTEmbedding",
            "TTEmbeddingBag",
            "TTEmbeddingBagCollection",
            "TableConfig",
            "init",
            "peers",
            "reference",
            "tt_embedding_bag",
        ]
    )


def fake_versions(monkeypatch, **found):
    def version(name):
        if found.get(name.replace("-", "_")) is None:
            raise metadata.PackageNotFoundError(name)
        return found[name.replace("-", "_")]

    monkeypatch.setattr(metadata, "version", version)
    # A name used before in this process is kept by the package and checked no more.
    monkeypatch.delitem(vars(ttrec), "TTEmbeddingBag", raising=False)


@pytest.mark.parametrize(
    "found",
    [
        {"torch": "2.12.1+cpu", "fbgemm_gpu_cpu": "1.8.0"},
        {"torch": "2.13.0", "fbgemm_gpu_cpu": "1.7.0"},
    ],
)
def test_a_mismatched_pair_names_both_and_the_one_that_works(monkeypatch, found):
    fake_versions(monkeypatch, **found)
    with pytest.raises(ImportError) as error:
        _ = ttrec.TTEmbeddingBag
    for part in (*found.values(), "torch 2.13.0 and fbgemm-gpu-cpu 1.8.0 are the pair that works"):
        assert part in str(error.value)
    assert ttrec.suggest_shape(100, 8, 4).dim == 8


@pytest.mark.parametrize(
    "found",
    [
        {"torch": "2.13.0+cpu", "fbgemm_gpu_cpu": "1.8.0"},
        {"torch": "2.13.0", "fbgemm_gpu": "1.8.0+cu126"},
        {"torch": "2.14.0"},
    ],
)
def test_a_matching_pair_or_torch_alone_passes(monkeypatch, found):
    fake_versions(monkeypatch, **found)
    versions.check_torch_pair()


def test_missing_torch_gives_the_pip_line(monkeypatch):
    fake_versions(monkeypatch)
    with pytest.raises(ImportError, match=r'pip install "mlsys21\[ttrec\]"'):
        _ = ttrec.TTEmbeddingBag
