"""Optional packages: one clear sentence where an import would fail."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType


class MissingExtra(ImportError):
    """A package that only some features need is not installed; the message gives the pip line."""


def pip_words(extra: str) -> str:
    """What to give pip for an extra; before 23.3 it finds only the name with hyphens."""
    return f'"mlsys21[{extra.replace("_", "-")}]"'


def require(module: str, extra: str | None, purpose: str) -> ModuleType:
    """Import an optional module.

    extra is the extra of this distribution that brings it, None when none does.
    Raises MissingExtra naming purpose and the pip command; a module that is installed but fails
    inside its own import raises its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # it is there, but something it needs, or the part asked for, is not
        wanted = pip_words(extra) if extra else package
        raise MissingExtra(
            f"{package} is needed for {purpose}: pip install {wanted}", name=module
        ) from None


def naming_extra(load: Callable[[str], object], package: str) -> Callable[[str], object]:
    """A paper's `__getattr__` that says which extra brings what a public name needs.

    load: what imports the name on first use; the extra has the package's name
    """

    def get(name: str) -> object:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            absent = (error.name or "").partition(".")[0]
            if absent in ("", "common", package):
                raise  # not an optional package, but a mistake of ours
            raise MissingExtra(
                f"{absent} is needed for {package}.{name}: pip install {pip_words(package)}",
                name=absent,
            ) from None

    return get
