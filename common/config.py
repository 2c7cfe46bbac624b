"""From the command line to checked jobs: root schema, resolvers, one composition per experiment."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs.validators import ge, gt, in_
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf

from common import validation
from common.config_source import read_once
from common.experiment import PACKAGES, Experiment
from common.options import Options
from common.runner import Job
from common.validation import ConfigError

T = TypeVar("T")

PROFILES = ("quick", "full")
GROUPS = ("profile", "machine")
SELECTORS = ("paper", "experiment")


@attrs.frozen
class Root:
    """Fields of the command line that are not an experiment's own.

    paper:     packages whose experiments are run: one, several with commas, or "all"
    resume:    use what earlier runs left
    strict:    exit with 3 if a claim is missed
    threads:   0 takes each experiment's own number
    isolate:   run each experiment in a child process
    memory_gb: resident 1e9 bytes at which an experiment is ended
    timeout_s: seconds after which it is ended
    list:      only say what would be run
    contended: several experiments run at a time; set by the machine
    """

    paper: str = "all"
    profile: str = attrs.field(default="quick", validator=in_(PROFILES))
    resume: bool = True
    strict: bool = False
    seed: int = attrs.field(default=0, validator=ge(0))
    threads: int = attrs.field(default=0, validator=ge(0))
    isolate: bool = True
    memory_gb: float = attrs.field(default=8.0, validator=gt(0))
    timeout_s: float = attrs.field(default=300.0, validator=gt(0))
    list: bool = False
    contended: bool = False
    results: Path = Path("results")
    experiment: Any = MISSING


@attrs.frozen
class Plan:
    """What the command line asks for, checked.

    jobs:    every run, in the order they start
    choices: the overrides of each job beside its experiment's name
    launch:  overrides that tell hydra the same for all jobs
    root:    the first job's fields
    """

    jobs: tuple[Job, ...]
    choices: tuple[tuple[str, ...], ...]
    launch: tuple[str, ...]
    root: Root


class Session:
    """hydra, set up for these experiments; use it as a context manager.

    config_dirs: further folders with an experiment/ group inside
    """

    def __init__(
        self, experiments: Mapping[str, Experiment], config_dirs: Sequence[Path] = ()
    ) -> None:
        self.experiments = dict(experiments)
        self._config_dirs = tuple(config_dirs)
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Session:
        register(self.experiments)
        GlobalHydra.instance().clear()
        self._files.enter_context(read_once())
        initialize_config_module("configs", job_name="reproduce", version_base="1.3")
        return self

    def __exit__(self, *_: object) -> None:
        GlobalHydra.instance().clear()
        self._files.close()

    def plan(self, arguments: Sequence[str]) -> Plan:
        """Check all that the overrides select; ConfigError tells everything that is wrong."""
        overrides = _parse(arguments)
        selected = self._select(overrides)
        self._check_names(overrides, selected)
        others = [o for o in overrides if o.key_or_group not in SELECTORS]
        roots: list[Root] = []
        jobs: list[Job] = []
        choices: list[tuple[str, ...]] = []
        errors: list[str] = []
        for experiment, choice in itertools.product(selected, _combinations(others)):
            chosen = [f"experiment={experiment.name}", *choice]
            with validation.collected(errors):
                root, job = build_job(self.compose(experiment, choice), experiment, chosen)
                roots.append(root)
                jobs.append(job)
                choices.append(choice)
        if errors:
            raise ConfigError(errors)
        launch = tuple(_for_jobs_only(override) for override in others)
        return Plan(tuple(jobs), tuple(choices), launch, roots[0])

    def compose(
        self, experiment: Experiment, overrides: Sequence[str], *, with_hydra: bool = False
    ) -> DictConfig:
        """The configuration of one job; interpolations are not resolved yet."""
        with validation.reworded(experiment, Root):
            store_schema(experiment)
            return compose(
                "config",
                overrides=[
                    *self._search_path(),
                    f"experiment={experiment.name}",
                    *overrides,
                ],
                return_hydra_config=with_hydra,
            )

    def launch(self, plan: Plan, names: Sequence[str], task: Callable[[DictConfig], T]) -> list[T]:
        """Have hydra call the task for every job of the named experiments, by its launcher."""
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        batches = hydra.multirun(
            config_name="config",
            task_function=task,
            overrides=[*self._search_path(), f"experiment={','.join(names)}", *plan.launch],
            with_log_configuration=False,
        )
        return [job.return_value for batch in batches for job in batch]

    def _search_path(self) -> tuple[str, ...]:
        if not self._config_dirs:
            return ()
        folders = ",".join(f"'file://{folder.resolve()}'" for folder in self._config_dirs)
        return (f"hydra.searchpath=[{folders}]",)

    def _select(self, overrides: Sequence[Override]) -> list[Experiment]:
        papers = ["all"]
        named: list[str] | None = None
        for override in overrides:
            if override.key_or_group == "paper":
                papers = _names(override, ())
            elif override.key_or_group == "experiment":
                named = _names(override, sorted(self.experiments))
        chosen = select(self.experiments, papers)
        if named is not None:
            validation.check_choices("experiment", named, sorted(self.experiments))
            chosen = [self.experiments[name] for name in named]
        if not chosen:
            raise ConfigError([f"paper={','.join(papers)} lists no experiments: nothing to run"])
        return chosen

    def _check_names(self, overrides: Sequence[Override], selected: Sequence[Experiment]) -> None:
        errors: list[str] = []
        for override in overrides:
            key = override.key_or_group
            if override.is_delete():
                errors.append(f"{override.input_line}: a field cannot be left out, only changed")
                continue
            with validation.collected(errors):
                if key in GROUPS:
                    self._check_group(key, override)
                elif key.startswith("experiment."):
                    for experiment in selected:
                        with validation.collected(errors), validation.reworded(experiment, Root):
                            validation.check_field(experiment, key.split(".")[1])
                elif not key.startswith(("hydra.", "hydra/")):
                    validation.check_root_field(key.split(".")[0], Root)
        if errors:
            raise ConfigError(errors)

    def _check_group(self, group: str, override: Override) -> None:
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        names = _names(override, options)
        validation.check_choices(group, names, options)
        if group == "machine":
            for machine in names:
                validation.check_launcher(machine)


def register(experiments: Mapping[str, Experiment]) -> None:
    """Make the root schema and the resolvers of the yaml files known; needed in every process."""

    def names_of(paper: str) -> str:
        return ",".join(e.name for e in select(experiments, paper.split(",")))

    ConfigStore.instance().store(name="run_schema", node=_writable_schema(Root))
    resolvers: dict[str, Callable[..., Any]] = {
        "profile": _by_profile,
        "experiments": names_of,
        "usable_memory": usable_memory_gb,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def store_schema(experiment: Experiment) -> None:
    """Make /schema/<name> known: fields and types of the experiment's settings."""
    node = _writable_schema(experiment.settings_class())
    ConfigStore.instance().store(group="schema", name=experiment.name, node=node)


def _writable_schema(fields: type[Any]) -> DictConfig:
    """Fields and types of an attrs class; a frozen one too takes its values from yaml files."""
    schema = OmegaConf.structured(fields)

    def unlock(node: Any) -> None:
        if OmegaConf.is_config(node):
            OmegaConf.set_readonly(node, None)
            for key in node if isinstance(node, DictConfig) else range(len(node)):
                unlock(node._get_node(key))

    unlock(schema)
    assert isinstance(schema, DictConfig)
    return schema


def build_job(
    config: DictConfig, experiment: Experiment, overrides: Sequence[str]
) -> tuple[Root, Job]:
    """Settings and options of a composed configuration; ConfigError says what is wrong with it.

    overrides: those that tell this job from others, for the command line that makes it again
    """
    with validation.reworded(experiment, Root):
        settings_class = experiment.settings_class()
        settings = OmegaConf.to_object(config.experiment)
        if not isinstance(settings, settings_class):
            raise ConfigError(
                [
                    f"{experiment.name}: its yaml file must begin with the defaults "
                    f"/schema/{experiment.name}@_here_ and _self_"
                ]
            )
    with validation.reworded(None, Root):
        values = {field.name: config[field.name] for field in attrs.fields(Root)}
        root = Root(**{**values, "experiment": None})
    options = Options(**{field.name: getattr(root, field.name) for field in attrs.fields(Options)})
    command = f"python -m scripts.reproduce {shlex.join(overrides)}"
    return root, Job(experiment, settings, options, command)


def select(experiments: Mapping[str, Experiment], papers: Sequence[str]) -> list[Experiment]:
    """Experiments of the named papers; "all" is every one, "common" the layer's own."""
    packages = {experiment.package for experiment in experiments.values()}
    valid = ["all", *dict.fromkeys((*PACKAGES, *packages))]
    validation.check_choices("paper", papers, valid)
    return [e for e in experiments.values() if "all" in papers or e.package in papers]


def usable_memory_gb(share: float) -> float:
    """A share of the memory this process may use, in 1e9 bytes."""
    import psutil

    limit: int = psutil.virtual_memory().total
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = min(limit, int(Path(path).read_text()))
    return round(share * limit / 1e9, 2)


def _by_profile(quick: Any, full: Any, *, _root_: DictConfig) -> Any:
    return full if _root_.profile == "full" else quick


def _parse(arguments: Sequence[str]) -> list[Override]:
    errors: list[str] = []
    parser = OverridesParser.create()
    overrides: list[Override] = []
    for argument in arguments:
        try:
            overrides += parser.parse_overrides([argument])
        except HydraException:
            errors.append(f"'{argument}' cannot be read: write <field>=<value>")
    if errors:
        raise ConfigError(errors)
    return overrides


def _names(override: Override, among: Sequence[str]) -> list[str]:
    """Names an override of a group gives: one, several with commas, or those a glob matches."""
    value: object = override.value()
    if isinstance(value, Glob):
        names: list[str] = value.filter(list(among))
        if not names:
            raise ConfigError([f"{override.input_line} matches none of {', '.join(among)}"])
        return names
    if override.is_sweep_override():
        return [str(name).strip("'\"") for name in override.sweep_string_iterator()]
    if isinstance(value, list):
        return [str(name) for name in value]
    return [name.strip() for name in str(value).split(",")]


def _combinations(overrides: Sequence[Override]) -> Iterator[tuple[str, ...]]:
    """Overrides of every job: the product over those that hold several values."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError([f"{override.input_line}: give single values, a,b,c or range(a,b)"])
    return itertools.product(*values.values())


def _for_jobs_only(override: Override) -> str:
    """The override in a form that hydra applies to jobs but not to what is common to them.

    That has no experiment yet, so a field of one is unknown there; a choice of one is left out.
    """
    if not override.key_or_group.startswith("experiment.") or override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}=choice({override.get_value_element_as_str()})"
