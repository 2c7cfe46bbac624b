"""Every shipped configuration composes, and a bad one is explained before anything runs."""

import copy
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from hydra.core.config_store import ConfigStore

from common.config import PROFILES, Plan, Session, select, usable_memory_gb
from common.experiment import PACKAGES, Experiment, all_experiments
from common.record import canonical_json
from common.validation import LAUNCHERS, ConfigError, nearest_first, validator_text

SHIPPED = all_experiments(PACKAGES)
YAML_FILES = sorted((Path(__file__).parents[2] / "configs" / "experiment").glob("*.yaml"))
SNAPSHOT = Path(__file__).with_name("quick_values.json")


@pytest.fixture(scope="module")
def shipped() -> Iterator[Session]:
    with Session(SHIPPED) as session:
        yield session


@pytest.fixture
def plan(toy: Any) -> Callable[..., Plan]:
    """Plans of the toy paper from a command line's words."""

    def make(*arguments: str) -> Plan:
        with Session(toy.experiments, [toy.configs]) as session:
            return session.plan(arguments)

    return make


def _messages(plan: Callable[..., Plan], *arguments: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        plan(*arguments)
    return caught.value.messages


def test_every_yaml_file_belongs_to_an_experiment_and_the_other_way_round() -> None:
    assert [path.stem for path in YAML_FILES] == sorted(SHIPPED)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("experiment", SHIPPED.values(), ids=list(SHIPPED))
def test_shipped_configuration_is_valid(experiment: Experiment, profile: str) -> None:
    with Session(SHIPPED) as session:
        plan = session.plan([f"experiment={experiment.name}", f"profile={profile}"])
    (job,) = plan.jobs
    assert isinstance(job.settings, experiment.settings_class())
    assert job.options.profile == profile
    assert job.options.timeout_s == (300 if profile == "quick" else 86400)


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.stem)
def test_yaml_file_gives_exactly_the_fields_of_the_settings(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert values.pop("defaults") == [f"/schema/{path.stem}@_here_", "_self_"]
    assert list(values) == [f.name for f in attrs.fields(SHIPPED[path.stem].settings_class())]


def test_quick_values_are_those_of_the_snapshot(shipped: Session) -> None:
    """A change of what the quick suite measures must show in review.

    MLSYS21_UPDATE_SNAPSHOTS=1 writes the file anew, and fails so that no such run passes.
    """
    found = {}
    for name in SHIPPED:
        (job,) = shipped.plan([f"experiment={name}"]).jobs
        found[name] = json.loads(canonical_json(attrs.asdict(job.settings)))
    if os.environ.get("MLSYS21_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        pytest.fail(f"{SNAPSHOT.name} is written; run the test again without the variable")
    assert json.loads(SNAPSHOT.read_text()) == found


# --- machines ---

#: What the launchers declare of the fields that configs/machine sets.
LAUNCHER_FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "slurm": (
        "submitit_slurm",
        {"timeout_min": 60, "cpus_per_task": None, "additional_parameters": {}},
    ),
    "ray": ("ray", {"ray": {"init": {}, "remote": {}}}),
}


@pytest.mark.parametrize(("machine", "contended"), [("slurm", False), ("ray", True)])
def test_machine_composes_with_its_launcher(
    shipped: Session, monkeypatch: pytest.MonkeyPatch, machine: str, contended: bool
) -> None:
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    name, fields = LAUNCHER_FIELDS[machine]
    store.store(group="hydra/launcher", name=name, node={"_target_": name, **fields})
    experiment = SHIPPED["common_noise"]
    config = shipped.compose(experiment, [f"machine={machine}"], with_hydra=True)
    launcher = config.hydra.launcher
    assert launcher._target_ == name
    assert config.contended is contended
    if machine == "slurm":
        assert launcher.timeout_min == 24 * 60
        assert launcher.additional_parameters == {"exclusive": ""}


@pytest.mark.parametrize("machine", LAUNCHERS)
def test_machine_names_the_extra_that_brings_its_launcher(machine: str) -> None:
    module, extra = LAUNCHERS[machine]
    distribution = module.rpartition(".")[2].replace("_", "-")
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    required = pyproject["project"]["optional-dependencies"][extra]
    assert [line.split("==")[0] for line in required] == [distribution]


def test_every_machine_is_local_or_has_a_launcher() -> None:
    folder = Path(__file__).parents[2] / "configs" / "machine"
    assert {path.stem for path in folder.glob("*.yaml")} == {"local", *LAUNCHERS}


# --- command lines ---


def test_values_follow_the_profile(plan: Any) -> None:
    for profile, n, scales in (("quick", 2, [1.0]), ("full", 5, [1.0, 2.0])):
        (job,) = plan("experiment=toy_passes", f"profile={profile}").jobs
        assert (job.settings.n, job.settings.scales) == (n, scales)


def test_command_line_reaches_settings_and_options(plan: Any, tmp_path: Path) -> None:
    (job,) = plan(
        "experiment=toy_passes",
        "experiment.n=64",
        "experiment.scales=[0.5,2]",
        "seed=7",
        "threads=2",
        "resume=false",
        "memory_gb=1.5",
        "timeout_s=9",
        f"results='{tmp_path}/some where'",
    ).jobs
    assert (job.settings.n, job.settings.scales) == (64, [0.5, 2.0])
    assert job.options == attrs.evolve(
        job.options,
        seed=7,
        threads=2,
        resume=False,
        memory_gb=1.5,
        timeout_s=9.0,
        results=tmp_path / "some where",
    )
    words = "experiment=toy_passes experiment.n=64 'experiment.scales=[0.5,2]' seed=7 threads=2"
    assert job.command.startswith(f"python -m scripts.reproduce {words}")


def test_several_values_make_a_job_each_experiments_outermost(plan: Any) -> None:
    jobs = plan("experiment=toy_passes", "experiment.n=1,2", "seed=3,4").jobs
    assert [(j.settings.n, j.options.seed) for j in jobs] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert len({job.key for job in jobs}) == 4
    jobs = plan("experiment=toy_fails,toy_passes", "seed=3,4").jobs
    assert [(j.experiment.name, j.options.seed) for j in jobs] == [
        ("toy_fails", 3),
        ("toy_fails", 4),
        ("toy_passes", 3),
        ("toy_passes", 4),
    ]


def test_pattern_selects_experiments(plan: Any, toy: Any) -> None:
    jobs = plan("experiment=glob(toy_*s,exclude=toy_cells)").jobs
    names = [job.experiment.name for job in jobs]
    assert sorted(names) == sorted(n for n in toy.experiments if n != "toy_cells")
    assert _messages(plan, "experiment=glob(nothing*)")[0].startswith("experiment=glob(nothing*)")


@pytest.mark.parametrize("papers", ["toy", "all", "toy,common"])
def test_paper_selects_its_experiments(plan: Any, papers: str) -> None:
    overrides = ["experiment.marks=x"]  # fields of one experiment only: refused for the others
    messages = _messages(plan, f"paper={papers}", *overrides)
    assert any(message.startswith("'marks' is no field of toy_passes") for message in messages)


def test_select_takes_papers_in_the_order_of_the_list(toy: Any) -> None:
    other = Experiment("common_x", "common.experiments.x", ())
    experiments = {"common_x": other, **toy.experiments}
    assert select(experiments, ["common"]) == [other]
    assert select(experiments, ["toy", "common"])[0] == other
    assert len(select(experiments, ["all"])) == len(experiments)
    with pytest.raises(ConfigError, match=r"paper must be one of toy, all, common, .*got 'toi'"):
        select(experiments, ["toi"])


def test_choice_on_the_command_line_beats_the_papers(plan: Any) -> None:
    (job,) = plan("paper=toy", "experiment=toy_fails").jobs
    assert job.experiment.name == "toy_fails"


PASSES = "experiment=toy_passes"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ((PASSES, "experiment.kinds=plain"), ["did you mean 'kind'? fields: n, kind, scales"]),
        ((PASSES, "+experiment.zzz=1"), ["'zzz' is no field of toy_passes; fields: n, kind"]),
        ((PASSES, "++experiment.zzz=1"), ["'zzz' is no field of toy_passes; fields: n, kind"]),
        ((PASSES, "~experiment.n"), ["a field cannot be left out"]),
        ((PASSES, "profil=full"), ["'profil' is no field of the command line, did you mean 'pro"]),
        ((PASSES, "+new=1"), ["'new' is no field of the command line; fields: paper, profile"]),
        ((PASSES, "experiment.n=abc"), ["toy_passes: n must be int, got 'abc'"]),
        ((PASSES, "experiment.n=3.5"), ["toy_passes: n must be int, got 3.5"]),
        ((PASSES, "experiment.n=null"), ["toy_passes: n must be int, got null"]),
        ((PASSES, "experiment.n=[1]"), ["toy_passes: n"]),
        ((PASSES, "experiment.scales=[a]"), ["toy_passes: scales[0] must be list[float], got 'a'"]),
        ((PASSES, "experiment.scales=3"), ["toy_passes: scales"]),
        ((PASSES, "experiment.n=0"), ["toy_passes: n must be >= 1, got 0"]),
        (
            (PASSES, "experiment.kind=fp8"),
            ["toy_passes: kind must be one of 'plain', 'fancy', got 'fp8'"],
        ),
        ((PASSES, "experiment.n=1,0,-1"), ["n must be >= 1, got 0", "n must be >= 1, got -1"]),
        ((PASSES, "seed=-1"), ["seed must be >= 0, got -1"]),
        ((PASSES, "threads=x"), ["threads must be int, got 'x'"]),
        ((PASSES, "memory_gb=0"), ["memory_gb must be > 0, got 0"]),
        ((PASSES, "results=null"), ["results must be Path, got null"]),
        ((PASSES, "profile=fast"), ["profile must be one of full, quick, got 'fast'"]),
        ((PASSES, "machine=moon"), ["machine must be one of", "got 'moon'"]),
        (("experiment=toy_pases",), ["experiment must be one of toy_passes, ", "got 'toy_pases'"]),
        (("paper=nosuch",), ["paper must be one of all, common, costmodel, cortex, trans"]),
        ((PASSES, "just words"), ["'just words' cannot be read: write <field>=<value>"]),
        ((PASSES, "experiment.n=interval(0,1)"), ["give single values, a,b,c or range(a,b)"]),
        (("experiment=toy_cells",), ["toy_cells: marks has no value"]),
        (
            ("experiment=toy_passes,toy_hangs,toy_eats", "experiment.mb=1"),
            ["'mb' is no field of toy_passes;", "'mb' is no field of toy_hangs;"],
        ),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_explained(plan: Any, arguments: tuple[str, ...], messages: list[str]) -> None:
    found = "\n".join(_messages(plan, *arguments))
    for message in messages:
        assert message in found
    for internal in ("Attribute(", "omegaconf", "hydra.", "object at", "full_key"):
        assert internal not in found


def test_experiment_that_cannot_be_loaded_is_named(plan: Any, toy: Any) -> None:
    toy.source("fails").write_text("import nosuchmodule")
    assert _messages(plan, "experiment=toy_fails") == (
        "toy_fails: cannot be loaded: No module named 'nosuchmodule'",
    )


def test_yaml_file_without_its_schema_is_refused(plan: Any, toy: Any) -> None:
    (toy.configs / "experiment" / "toy_fails.yaml").write_text("text: no\n")
    (message,) = _messages(plan, "experiment=toy_fails")
    assert "toy_fails: its yaml file must begin with the defaults /schema/toy_fails" in message


def test_settings_may_hold_other_frozen_classes(plan: Any, toy: Any) -> None:
    toy.source("fails").write_text(
        "import attrs\n"
        "@attrs.frozen\nclass Inner:\n"
        "    width: int = attrs.field(validator=attrs.validators.ge(1))\n"
        "@attrs.frozen\nclass Settings:\n    inner: Inner\n    weights: dict[str, float]\n"
        "    limit: int | None\n"
    )
    (toy.configs / "experiment" / "toy_fails.yaml").write_text(
        "defaults:\n  - /schema/toy_fails@_here_\n  - _self_\n"
        "inner: {width: 3}\nweights: {a: 1}\nlimit: null\n"
    )
    (job,) = plan(
        "experiment=toy_fails", "experiment.inner.width=4", "+experiment.weights.b=2"
    ).jobs
    assert job.settings.inner.width == 4
    assert job.settings.weights == {"a": 1.0, "b": 2.0}
    assert job.settings.limit is None
    (message,) = _messages(plan, "experiment=toy_fails", "experiment.inner.width=0")
    assert message == "toy_fails: width must be >= 1, got 0"


def test_nearest_names_come_first() -> None:
    assert nearest_first("bach", ["ranks", "batch", "batches"]) == ["batch", "batches", "ranks"]
    assert nearest_first("zzz", ["a", "b"]) == ["a", "b"]


def test_validator_text_drops_what_attrs_adds() -> None:
    @attrs.frozen
    class Both:
        dtype: str = attrs.field(validator=attrs.validators.in_(("fp32", "bf16")))
        sizes: list[int] = attrs.field(
            validator=attrs.validators.deep_iterable(attrs.validators.le(4)), factory=list
        )

    with pytest.raises(ValueError) as choice:  # noqa: PT011  # its text is what is tested below
        Both("fp8")
    assert validator_text(choice.value) == "dtype must be one of 'fp32', 'bf16', got 'fp8'"
    with pytest.raises(ValueError) as limit:  # noqa: PT011  # likewise
        Both("fp32", [1, 9])
    assert validator_text(limit.value) == "sizes must be <= 4, got 9"


def test_usable_memory_is_a_share_of_what_there_is() -> None:
    import psutil

    assert 0 < usable_memory_gb(0.5) <= psutil.virtual_memory().total / 2e9 + 0.01
