"""The embedded library: made once, kept whole, harmless in a page."""

from pathlib import Path
from typing import Any

import pytest

from common import extras
from common.cache_folder import cache_folder
from common.report.bundle import bundle, harmless


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace vl-convert by a stand-in that counts how often it makes the script."""
    calls: list[int] = []

    class VlConvert:
        __version__ = "9.9"

        @staticmethod
        def javascript_bundle() -> str:
            calls.append(1)
            return 'window.vegaEmbed = "</script><!-- x -->";'

    def require(*arguments: Any) -> type[VlConvert]:
        return VlConvert

    monkeypatch.setattr(extras, "require", require)
    return calls


def test_made_once_and_kept(fake: list[int], tmp_path: Path) -> None:
    first = bundle(tmp_path)
    assert bundle(tmp_path) == first
    assert len(fake) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["vega-bundle-9.9.js"]


def test_truncated_copy_is_made_again(fake: list[int], tmp_path: Path) -> None:
    first = bundle(tmp_path)
    kept = tmp_path / "vega-bundle-9.9.js"
    kept.write_text(first[: len(first) // 2])
    assert bundle(tmp_path) == first
    assert len(fake) == 2


def test_folder_that_cannot_be_written_costs_time_only(fake: list[int], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "vegaEmbed" in bundle(blocked / "cache")
    assert "vegaEmbed" in bundle(blocked / "cache")
    assert len(fake) == 2


def test_nothing_in_it_ends_the_script_element(fake: list[int], tmp_path: Path) -> None:
    text = bundle(tmp_path).lower()
    assert "</script" not in text
    assert "<!--" not in text


def test_it_is_kept_beside_the_kernels(
    fake: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLSYS21_CACHE", str(tmp_path / "cache"))
    bundle()
    assert [path.name for path in cache_folder().iterdir()] == ["vega-bundle-9.9.js"]
    assert cache_folder() == tmp_path / "cache"


def test_a_script_from_a_folder_others_may_write_to_is_refused(
    fake: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("MLSYS21_CACHE", str(folder))
    with pytest.raises(PermissionError, match="everyone may write to"):
        bundle()


@pytest.mark.parametrize(
    ("script", "safe"),
    [
        ('"</script>"', r'"\x3c/script>"'),
        ('"</SCRIPT>"', r'"\x3c/SCRIPT>"'),
        ('"<!--"', r'"\x3c!--"'),
        ("a < b && c </regex/.length", "a < b && c </regex/.length"),
    ],
)
def test_harmless_keeps_what_the_script_means(script: str, safe: str) -> None:
    assert harmless(script) == safe
