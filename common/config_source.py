"""yaml files of packages, each read once while many configurations are composed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource,
)
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Have hydra parse a file of a package once, whatever the number of compositions.

    Hydra reads its own ten files again for each configuration, a third of the time of composing
    one. An edit of a file is seen by the next use of this function.
    """
    parsed: dict[tuple[str, str], ConfigResult] = {}

    class Source(ImportlibResourcesConfigSource):
        def load_config(self, config_path: str) -> ConfigResult:
            key = (self.path, config_path)
            if key not in parsed:
                parsed[key] = super().load_config(config_path)
            return copy.deepcopy(parsed[key])  # what is composed is changed in place

    # Hydra registers its sources again in a launcher's processes and takes a class of the same name
    # for the one it has.
    Source.__name__ = ImportlibResourcesConfigSource.__name__
    Plugins.instance()  # registers hydra's own sources
    types = SourcesRegistry.instance().types
    plain = types[Source.scheme()]
    types[Source.scheme()] = Source
    try:
        yield
    finally:
        types[Source.scheme()] = plain
