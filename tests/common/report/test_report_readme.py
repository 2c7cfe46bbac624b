"""Tables in READMEs come from the committed rows, and nothing else of a README changes."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from common import PAPERS
from common.claims import PACKAGES, load
from common.record import Record
from common.report import readme, summary
from common.report.summary import judge_all

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """READMEs with their markers, and nothing between them."""
    (tmp_path / "README.md").write_text("# Top\n<!-- headline:begin -->\n<!-- headline:end -->\n")
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        text = f"# {name}\n\n<!-- claims:begin -->\nold\n<!-- claims:end -->\n\nThe rest.\n"
        (tmp_path / name / "README.md").write_text(text)
    return tmp_path


@pytest.fixture
def frozen(sample: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The sample, and a report that knows its claims instead of the packages'."""

    def load(package: str | None = None) -> dict[str, Any]:
        return {k: c for k, c in sample.claims.items() if package in (None, c.package)}

    monkeypatch.setattr(readme, "load", load)
    monkeypatch.setattr(summary, "load_claims", load)
    return sample


def one_run(sample: Any) -> None:
    """A run of ttrec: two records of a claim, one of none."""
    records = [
        Record("speedup", value, "x", claim="ttrec.abstract.kernel_speedup", low=value - 0.1,
               high=value + 0.1, axes={"rank": rank, "system": "ours"}, rounds=30)
        for rank, value in ((8, 4.9), (64, 3.2))
    ]  # fmt: skip
    records.append(Record("speedup", 2.0, "x", axes={"system": "fbgemm"}))
    sample.run("ttrec_kernels", records, started="2026-03-06T10:15:00+00:00")


def test_reported_rows_survive_the_round_trip(frozen: Any, tmp_path: Path) -> None:
    one_run(frozen)
    path = tmp_path / "reported.jsonl"
    assert readme.write_reported(frozen.store, "ttrec", path) == 2
    (run,) = readme.read_reported(path)
    (stored,) = frozen.store.run_list()
    assert run.records == stored.records[:2]
    for name in readme.RUN_FIELDS:
        assert getattr(run.info, name) == getattr(stored.info, name)


def test_reported_rows_are_json_lines_with_their_run(frozen: Any, tmp_path: Path) -> None:
    one_run(frozen)
    path = tmp_path / "reported.jsonl"
    readme.write_reported(frozen.store, "ttrec", path)
    first = json.loads(path.read_text().splitlines()[0])
    assert first["experiment"] == "ttrec_kernels"
    assert first["machine_id"] == "4f21c0ffee99"
    assert first["axes"] == {"rank": 8, "system": "ours"}


def test_rows_of_experiments_that_were_not_run_again_are_kept(frozen: Any, tmp_path: Path) -> None:
    one_run(frozen)
    path = tmp_path / "reported.jsonl"
    others = [
        '{"experiment": "ttrec_kernels", "profile": "full"}',
        '{"experiment": "ttrec_cache", "profile": "full"}',
    ]
    path.write_text("".join(f"{line}\n" for line in others))
    assert readme.write_reported(frozen.store, "ttrec", path) == 2
    kept, *measured = path.read_text().splitlines()
    assert kept == others[1]
    assert [json.loads(line)["profile"] for line in measured] == ["quick", "quick"]


def test_a_store_without_the_paper_s_records_leaves_the_file_alone(
    frozen: Any, tmp_path: Path
) -> None:
    one_run(frozen)
    path = tmp_path / "reported.jsonl"
    path.write_text("kept")
    with pytest.raises(ValueError, match="paper=panama first"):
        readme.write_reported(frozen.store, "panama", path)
    assert path.read_text() == "kept"


def test_tables_are_filled_and_the_rest_is_kept(frozen: Any, checkout: Path) -> None:
    one_run(frozen)
    readme.write_reported(frozen.store, "ttrec", checkout / "ttrec" / "reported.jsonl")
    changed = readme.fill_readmes(checkout)
    assert len(changed) == 7 + len(PAPERS)  # seven READMEs and the papers' pictures
    text = (checkout / "ttrec" / "README.md").read_text()
    assert text.startswith("# ttrec\n\n<!-- claims:begin -->\n| claim |")
    assert text.endswith("<!-- claims:end -->\n\nThe rest.\n")
    (row,) = [line for line in text.splitlines() if "ttrec.abstract.kernel_speedup" in line]
    assert "| 3× | 3.20× [3.10, 3.30] | beaten |" in row  # noqa: RUF001  the sign a reader sees
    assert "ttrec_kernels (quick, machine `4f21c0ffee99`, 2026-03-06)" in text
    assert "old" not in text


def test_filling_twice_changes_nothing(checkout: Path) -> None:
    assert len(readme.fill_readmes(checkout)) == 7 + len(PAPERS)
    assert readme.fill_readmes(checkout) == []


def test_headlines_are_those_of_the_papers(checkout: Path) -> None:
    readme.fill_readmes(checkout)
    rows = [line for line in (checkout / "README.md").read_text().splitlines() if line[:3] == "| `"]
    assert len(rows) == sum(claim.is_headline for paper in PAPERS for claim in load(paper).values())


def test_a_headline_stands_beside_a_fair_peer_and_the_machine_s_limit(
    frozen: Any, checkout: Path
) -> None:
    one_run(frozen)
    own = frozen.claims["ttrec.abstract.kernel_speedup"]
    fair = attrs.evolve(own, id="ttrec.ours.fair", headline=False)
    frozen.claims[own.id] = attrs.evolve(own, equal_footing=fair.id, limit="ttrec.ours.share")
    frozen.claims[fair.id] = fair
    share = attrs.evolve(own, id="ttrec.ours.share", unit="%", metric="share", headline=False)
    frozen.claims[share.id] = share
    frozen.run(
        "ttrec_kernels",
        [
            Record("speedup", 3.2, "x", claim=own.id, low=3.1, high=3.3, rounds=30),
            Record("speedup", 1.5, "x", claim=fair.id, low=1.4, high=1.6, rounds=30),
        ],
        started="2026-03-07T10:15:00+00:00",
    )
    readme.write_reported(frozen.store, "ttrec", checkout / "ttrec" / "reported.jsonl")
    readme.fill_readmes(checkout)
    text = (checkout / "README.md").read_text()
    (row,) = [line for line in text.splitlines() if "| kernel speedup |" in line]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[5:7] == ["1.50× [1.40, 1.60] (fair)", "not measured (share)"]  # noqa: RUF001  the sign a reader sees


def test_the_layer_s_own_claims_stand_beside_their_targets(checkout: Path) -> None:
    own = load("common")["common.ours.noise_false_alarms"]
    record = Record(own.metric, 2.5, own.unit, claim=own.id)
    fields = {"experiment": "common_noise", "profile": "full", "machine_id": "m"}
    fields["started"] = "2026-03-06T10:15:00+00:00"
    line = json.dumps(fields | json.loads(record.to_json()))
    (checkout / "common" / "reported.jsonl").write_text(f"{line}\n")
    readme.fill_readmes(checkout)
    text = (checkout / "common" / "README.md").read_text()
    assert "| claim | target | here | verdict | setting |" in text
    (row,) = [line for line in text.splitlines() if f"| `{own.id}` |" in line]
    assert "| at most 5% | 2.5% | matched | our own target: " in row


def test_every_claim_has_its_row(checkout: Path) -> None:
    readme.fill_readmes(checkout)
    for package in PACKAGES:
        text = (checkout / package / "README.md").read_text()
        assert all(f"| `{key}` |" in text for key in load(package))


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- claims:end --> before <!-- claims:begin -->",
        "<!-- claims:begin --><!-- claims:end --><!-- claims:begin --><!-- claims:end -->",
    ],
)
def test_markers_must_stand_once_and_in_order(text: str) -> None:
    with pytest.raises(ValueError, match=r"README\.md must hold <!-- claims:begin -->"):
        readme.replace_between(text, "claims", "table", Path("README.md"))


WRONG_START = {"experiment": "a_b", "profile": "quick", "machine_id": "m", "started": "soon"}


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"metric": "speedup"}', '"text"', json.dumps(WRONG_START)]
)
def test_broken_row_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "reported.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"reported\.jsonl:1 is not a reported record"):
        readme.read_reported(path)


def test_a_bar_in_a_text_does_not_split_its_cell() -> None:
    assert readme._cell("a|b\nc") == "a\\|b c"


@pytest.mark.parametrize("package", PACKAGES)
def test_committed_table_agrees_with_the_committed_rows(package: str) -> None:
    path = ROOT / package / "README.md"
    runs = readme.read_reported(ROOT / package / "reported.jsonl")
    table = readme.claims_table(judge_all(load(package).values(), runs))
    text = path.read_text()
    agrees = readme.replace_between(text, "claims", table, path) == text
    assert agrees, f"run python -m scripts.report --readme to bring {package}/README.md up to date"
