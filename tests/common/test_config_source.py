import pytest
from hydra._internal.core_plugins import importlib_resources_config_source as plain
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from common.config_source import read_once


def test_a_file_is_parsed_once_and_every_reader_has_its_own_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Plugins.instance()
    loads: list[str] = []
    load = plain.OmegaConf.load
    monkeypatch.setattr(plain.OmegaConf, "load", lambda f: loads.append(f.name) or load(f))
    registry = SourcesRegistry.instance()
    with read_once():
        source = registry.resolve("pkg")(provider="test", path="pkg://configs")
        first = source.load_config("config").config
        first["changed"] = True
        second = source.load_config("config").config
    assert len(loads) == 1
    assert "changed" not in second
    assert registry.resolve("pkg") is plain.ImportlibResourcesConfigSource
