"""How an experiment is declared: a name, the module that runs it, and the claims it measures.

An experiment's module holds three names and imports nothing heavy at its top:
    Settings                   attrs.frozen class with validators and no defaults
    run(settings, ctx)         builds inputs, calls the library, records values
    charts(frame, claims)      draws what was recorded
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from common import PAPERS

# A package's list of experiments is imported for --help and for every command, and needs neither
# what runs them, nor a log, nor attrs; these load with the first use of their name.
if TYPE_CHECKING:
    from common.context import Context, Work
    from common.options import Options

__all__ = ["PACKAGES", "Context", "Experiment", "Options", "Work", "all_experiments"]

#: Packages that may list experiments: the layer's own and the five papers.
PACKAGES = ("common", *PAPERS)


_HOMES = {"Context": "common.context", "Work": "common.context", "Options": "common.options"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Fields(NamedTuple):
    name: str
    module: str
    claims: tuple[str, ...]
    threads: int
    env: Mapping[str, str]
    full_minutes: float


class Experiment(_Fields):
    """What the runner must know before it imports anything of the experiment.

    name:    "<package>_<what>"
    module:  import path of the module that holds Settings, run and charts
    claims:  ids in <package>/claims.toml that its records may carry
    threads: threads it times with unless the command line says otherwise
    env:     variables that must stand before torch loads; they cost a fresh interpreter
    full_minutes: what profile=full takes on two cores of some 3 GHz at most, roughly: as measured,
             or from what the quick profile takes and the limits of both
    """

    __slots__ = ()

    def __new__(
        cls,
        name: str,
        module: str,
        claims: Iterable[str],
        threads: int = 1,
        env: Mapping[str, str] | None = None,
        full_minutes: float = 0,
    ) -> Experiment:
        """Raises ValueError for less than one thread."""
        if threads < 1:
            raise ValueError(f"experiment '{name}' needs at least one thread, got {threads}")
        return super().__new__(cls, name, module, tuple(claims), threads, env or {}, full_minutes)

    @property
    def package(self) -> str:
        """Import name of the package it belongs to."""
        return self.module.partition(".")[0]

    def load(self) -> ModuleType:
        """Import the experiment's module, without running anything."""
        return importlib.import_module(self.module)

    def settings_class(self) -> type[Any]:
        """The class whose fields the experiment's yaml file must give values for."""
        settings: type[Any] = self.load().Settings
        return settings


def all_experiments(
    packages: Sequence[str] = PACKAGES, note: Callable[[str], None] | None = None
) -> dict[str, Experiment]:
    """Gather the experiments of the packages, in the order the packages list them.

    A package that is not installed is a line given to note (the log by default).
    Raises ValueError for a name given twice or not led by its package's name.
    """
    note = note or _note_in_log
    found: dict[str, Experiment] = {}
    for package in packages:
        listing = f"{package}.experiments"
        try:
            module = importlib.import_module(listing)
        except ModuleNotFoundError as missing:
            if missing.name not in (package, listing):
                raise
            note(f"{missing.name} is not installed; experiments of {package} are left out")
            continue
        # A paper that has none yet may have no list either.
        for experiment in getattr(module, "EXPERIMENTS", ()):
            if not experiment.name.startswith(f"{package}_"):
                raise ValueError(
                    f"an experiment of {package} must be named '{package}_...', "
                    f"got '{experiment.name}'"
                )
            if experiment.name in found:
                raise ValueError(f"two experiments are named '{experiment.name}'")
            found[experiment.name] = experiment
    return found


def _note_in_log(text: str) -> None:
    import logging

    logging.getLogger(__name__).info(text)
