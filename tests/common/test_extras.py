"""Optional packages: the way out is named, other errors are not hidden."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.extras import MissingExtra, naming_extra, require


def test_installed_module_is_returned() -> None:
    assert require("json.decoder", "report", "anything").__name__ == "json.decoder"


@pytest.mark.parametrize(
    ("module", "extra", "message"),
    [
        (
            "nosuch_abc",
            "panama",
            'nosuch_abc is needed for RTL simulation: pip install "mlsys21[panama]"',
        ),
        (
            "nosuch_abc.part",
            "report",
            'nosuch_abc is needed for RTL simulation: pip install "mlsys21[report]"',
        ),
        ("nosuch_abc", None, "nosuch_abc is needed for RTL simulation: pip install nosuch_abc"),
    ],
)
def test_absent_module_names_purpose_and_pip_line(
    module: str, extra: str | None, message: str
) -> None:
    with pytest.raises(MissingExtra) as caught:
        require(module, extra, "RTL simulation")
    assert str(caught.value) == message
    assert isinstance(caught.value, ImportError)
    assert caught.value.name == module


def test_error_within_a_module_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more_abc.py").write_text("import nosuch_abc")
    (tmp_path / "broken_abc.py").write_text("raise OSError('no device')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="'nosuch_abc'") as caught:
        require("needs_more_abc", "panama", "simulation")
    assert not isinstance(caught.value, MissingExtra)
    with pytest.raises(OSError, match="no device"):
        require("broken_abc", "panama", "simulation")


def test_absent_part_of_an_installed_package_is_its_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"json\.nosuch") as caught:
        require("json.nosuch", "panama", "simulation")
    assert not isinstance(caught.value, MissingExtra)


def test_public_name_names_the_extra_of_its_package() -> None:
    def load(name: str) -> object:
        return require(name, None, "x") if name == "json" else __import__(name)

    get = naming_extra(load, "panama")
    assert get("json") is require("json", None, "x")
    message = 'nosuch_abc is needed for panama.nosuch_abc: pip install "mlsys21[panama]"'
    with pytest.raises(MissingExtra, match=re.escape(message)):
        get("nosuch_abc")


@pytest.mark.parametrize("module", ["panama.nosuch_abc", "common.nosuch_abc"])
def test_missing_module_of_ours_is_no_missing_extra(module: str) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        naming_extra(__import__, "panama")(module)
    assert not isinstance(caught.value, MissingExtra)
