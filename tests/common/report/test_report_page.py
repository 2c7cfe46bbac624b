"""The page as a file: complete without JavaScript, self-contained, and unmoved by hostile names."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import pandas as pd
import pytest

from common import PAPERS, extras
from common.claims import Claim
from common.record import Record
from common.report import charts, page
from common.report.figures import spec_json

HOSTILE = "</script><script>alert('x')</script><!-- \"&<b onload=x>"
VOID = {"meta", "link", "br", "path", "circle", "rect", "use"}


class Document(HTMLParser):
    """The parts of a page that tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((tag, ""))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside != "style":
            self.texts.append(data)
        for tag in ("h1", "h2", "h3", "h4"):
            if tag in self._open:
                self.headings[-1] = (tag, self.headings[-1][1] + data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Attributes of the elements with this tag and these attributes (class_ for class)."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [have for name, have in self.tags if name == tag and wanted.items() <= have.items()]


def written(sample: Any) -> str:
    return page.write(sample.store, sample.root / "report.html", **sample.known).read_text()


@pytest.fixture(scope="module")
def html(five_papers: Any) -> str:
    return written(five_papers)


@pytest.fixture(scope="module")
def document(html: str) -> Document:
    return Document(html)


# --- structure -----------------------------------------------------------------------------------


def test_outline(document: Document) -> None:
    outline = [f"{tag} {text}" for tag, text in document.headings if tag in ("h1", "h2", "h3")]
    assert outline == [
        "h1 Does it reproduce?",
        *(f"h2 {paper}" for paper in PAPERS),
        "h2 costmodel",
        "h3 Accuracy",
        "h3 Search quality",
        "h3 Not attempted",
        "h2 cortex",
        "h3 Overall",
        "h3 Sequence",
        "h3 Not attempted",
        "h2 transformer_dm",
        "h3 Encoder",
        "h3 Movement",
        "h3 Not attempted",
        "h2 panama",
        "h3 Not attempted",
        "h2 ttrec",
        "h3 Kernels",
        "h3 Compression",
        "h3 Accuracy",
        "h3 Not attempted",
        "h2 Machine and noise",
        "h3 Machine 4f21c0ffee99",
        "h3 Noise",
        "h3 Roofline",
        "h2 Failures",
        "h3 cortex_sequence: failed",
        "h2 Runs and settings",
    ]


def test_first_screen_answers_the_question(html: str) -> None:
    first = Document(html.partition("<section")[0])
    assert "5 of 8 decided claims reproduce here." in first.text
    assert "kernel speedup 3× 3.20× [3.14, 3.26] beaten" in first.text  # noqa: RUF001
    assert "BERT speedup 1.19× 1.08× [1.06, 1.10] missed" in first.text  # noqa: RUF001
    assert "1 run did not finish: cortex_sequence (failed)" in first.text


def test_every_claim_stands_in_its_section(document: Document, five_papers: Any) -> None:
    ids = [attributes["id"] for attributes in document.all("tr") if attributes.get("id")]
    assert sorted(filter(None, ids)) == sorted(five_papers.claims)


def test_verdicts_are_word_and_shape(html: str) -> None:
    shapes = {"beaten", "matched", "shape", "missed", "noisy", "informative", "not-measured"}
    assert set(re.findall(r'<symbol id="m-([\w-]+)"', html)) == shapes
    for shape, word in re.findall(r'<use href="#m-([\w-]+)"/></svg>([^<]+)</span>', html):
        assert word.removeprefix("0123456789 ").lstrip("0123456789 ") == shape.replace("-", " ")


def test_links_inside_the_page_lead_somewhere(document: Document) -> None:
    ids = {attributes.get("id") for _, attributes in document.tags}
    targets = {
        str(attributes["href"])[1:]
        for tag, attributes in document.tags
        if tag in ("a", "use") and str(attributes.get("href")).startswith("#")
    }
    assert targets
    assert targets <= ids


def test_links_to_run_files_lead_to_the_files(document: Document, five_papers: Any) -> None:
    links = [str(a["href"]) for a in document.all("a") if str(a.get("href")).endswith("/run.json")]
    assert len(links) == len(five_papers.store.run_list())
    for link in links:
        assert (five_papers.root / unquote(link)).is_file()


def test_claims_link_to_their_run(document: Document, html: str) -> None:
    (row,) = re.findall(r'<tr id="ttrec.abstract.kernel_speedup">.*?</tr>', html, re.DOTALL)
    (key,) = re.findall(r'href="#run-(\w+)"', row)
    assert document.all("details", id=f"run-{key}")


def test_package_without_experiments_says_so(document: Document) -> None:
    assert document.text.count("This package has no experiments yet.") == 1


def test_experiment_without_a_run_says_how_to_run_it(document: Document) -> None:
    command = "python -m scripts.reproduce experiment=transformer_dm_movement"
    assert f"Not run yet: {command}" in document.text


def test_failure_shows_its_last_log_lines(document: Document) -> None:
    assert "killed by signal 11 (SIGSEGV)\nlinearized 255 nodes" in "".join(document.texts)


def test_settings_and_command_of_each_run_are_there(document: Document) -> None:
    assert "settings batch=512, ranks=[8, 16, 32, 64]" in document.text
    assert "python -m scripts.reproduce experiment=ttrec_kernels" in document.text


def test_machine_card_spells_units_out(document: Document) -> None:
    assert "caches L1d 48 KiB, L2 1 MiB, L3 32 MiB" in document.text
    assert "memory 23.4 GB" in document.text
    assert "GPU —" in document.text


def test_empty_store_makes_a_page(sample: Any) -> None:
    text = Document(written(sample)).text
    assert "Nothing has been measured yet." in text
    assert "Run bash scripts/reproduce.sh first." in text


# --- without JavaScript, without a network -------------------------------------------------------


def test_every_record_is_in_a_table(html: str, five_papers: Any) -> None:
    runs = html.partition('<section id="runs">')[2]
    bodies = re.findall(r"<h4>Records</h4>.*?<tbody>(.*?)</tbody>", runs, re.DOTALL)
    n_records = sum(len(run.records) for run in five_papers.store.run_list())
    assert n_records > 400
    assert sum(body.count("<tr>") for body in bodies) == n_records


def test_records_beyond_a_thousand_are_left_to_the_file(sample: Any) -> None:
    sample.run("ttrec_kernels", [Record("ratio", 4.0, "x")] * (page.MAX_RECORDS + 3))
    assert "3 further records in records.jsonl." in Document(written(sample)).text


def test_every_figure_has_its_data(document: Document, five_papers: Any) -> None:
    figures = document.all("figure")
    links = [a for a in document.all("a") if "download" in a]
    assert len(figures) == 10
    assert len(links) == len(document.all("div", class_="chart")) == 8
    (link,) = [a for a in links if a["download"] == "ttrec_kernels-1.csv"]
    head, _, body = str(link["href"]).partition(",")
    assert head == "data:text/csv;charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(unquote(body))))
    measured = [row for row in rows if row["origin"] == "measured"]
    assert len(measured) == 12
    (ours,) = [row for row in measured if (row["x"], row["system"]) == ("8", "ours")]
    assert float(ours["value"]) == 4.9


def test_nothing_is_fetched(document: Document, html: str) -> None:
    for tag, attributes in document.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attributes:
                value = str(attributes[name])
                assert re.match(r"#|data:|[\w%]+/\w+/", value), (tag, name, value)
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html


def test_specs_name_no_address(document: Document) -> None:
    specs, config = document.scripts[:2]
    assert "http" not in specs + config
    assert len(json.loads(specs)) == 8
    assert json.loads(config)["view"] == {"stroke": None}


# --- what must not break the page ----------------------------------------------------------------


def hostile_sample(sample: Any) -> Any:
    name = "ttrec.abstract.kernel_speedup"
    claim: Claim = attrs.evolve(
        sample.claims[name], setting=HOSTILE, where=HOSTILE, note=HOSTILE, not_attempted=HOSTILE
    )
    record = Record(
        "speedup", 2.0, "x", claim=name, axes={HOSTILE: HOSTILE, "rank": 8, "system": HOSTILE}
    )
    sample.run(
        "ttrec_kernels",
        [record],
        settings={HOSTILE: HOSTILE},
        command=HOSTILE,
        profile=HOSTILE,
        machine={"id": HOSTILE, "cpu": HOSTILE, "environment": {HOSTILE: HOSTILE}},
    )
    sample.run("ttrec_pooling", [], status="failed", error=HOSTILE)
    sample.declare(
        "ttrec_kernels",
        lambda frame, claims: [charts.bars(frame, "axis.rank", HOSTILE, HOSTILE)],
    )
    known = {"claims": {**sample.claims, name: claim}, "experiments": sample.experiments}
    return attrs.evolve(sample, claims=known["claims"])


def test_hostile_text_stays_text(sample: Any) -> None:
    text = written(hostile_sample(sample))
    document = Document(text)
    # Specs, config, library, drawing: nothing of ours and nothing of theirs adds a script.
    assert len(document.scripts) == 4
    assert not document.all("b")
    assert "alert('x')" not in "".join(document.scripts[2:])
    assert HOSTILE in "".join(document.texts)
    specs = json.loads(document.scripts[0])
    assert HOSTILE in json.dumps(specs["ttrec_kernels-1"], ensure_ascii=False).replace('\\"', '"')


def test_charts_that_raise_take_only_their_own_place(html: str) -> None:
    (figure,) = re.findall(r'<figure id="cortex_overall-1">.*?</figure>', html, re.DOTALL)
    assert "This figure could not be made. KeyError: &#39;axis.hidden&#39;" in figure


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"data": {"url": "data.json"}}, "must hold its data"),
        ({"layer": [{"data": {"url": "http://x"}}]}, "must hold its data"),
        ({"width": float("nan")}, "not JSON compliant"),
        ({"width": object()}, "not JSON serializable"),
    ],
)
def test_bad_spec_is_shown_as_a_problem(sample: Any, spec: dict[str, Any], says: str) -> None:
    sample.run("ttrec_kernels", [Record("ratio", 4.0, "x")])
    chart = charts.Chart("Sizes", "", spec, pd.DataFrame({"a": [1]}))
    good = charts.Chart("Others", "", {"mark": "bar"}, pd.DataFrame({"a": [1]}))
    sample.declare("ttrec_kernels", lambda frame, claims: [chart, good])
    document = Document(written(sample))
    assert says in document.text
    assert len(document.all("div", class_="chart")) == 1


def test_spec_json_drops_the_schema_and_escapes_markup() -> None:
    text = spec_json({"$schema": "https://example.org", "title": "</script><!--\u2028"})
    assert "<" not in text
    assert "https" not in text
    assert json.loads(text) == {"title": "</script><!--\u2028"}


def test_tables_stay_without_the_report_extra(sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.run("ttrec_kernels", [Record("ratio", 4.0, "x")])
    sample.declare("ttrec_kernels", lambda frame, claims: [])

    def absent(module: str, extra: str, purpose: str) -> None:
        raise extras.MissingExtra(
            f'{module} is needed for {purpose}: pip install "mlsys21[{extra}]"'
        )

    monkeypatch.setattr(extras, "require", absent)
    document = Document(written(sample))
    assert 'altair is needed for drawing charts: pip install "mlsys21[report]"' in document.text
    assert "1 record" in document.text


def test_page_says_how_to_get_drawings_without_vl_convert(
    sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.run("ttrec_kernels", [Record("ratio", 4.0, "x")])
    chart = charts.Chart("Sizes", "", {"mark": "bar"}, pd.DataFrame({"a": [1]}))
    sample.declare("ttrec_kernels", lambda frame, claims: [chart])

    def absent() -> str:
        raise extras.MissingExtra('pip install "mlsys21[report]"')

    monkeypatch.setattr(page, "bundle", absent)
    document = Document(written(sample))
    assert 'There are no drawings: pip install "mlsys21[report]"' in document.text
    assert len(document.scripts) == 2


def test_page_is_replaced_whole(sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.root.mkdir(parents=True)
    path = sample.root / "report.html"
    path.write_text("the old page")

    def full(self: Path, *arguments: Any, **named: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        page.write(sample.store, path, **sample.known)
    assert path.read_text() == "the old page"
    assert [entry.name for entry in sample.root.iterdir()] == ["report.html"]


@pytest.mark.slow
def test_2000_records_and_25_charts_stay_small(sample: Any) -> None:
    for number in range(25):
        name = f"{PAPERS[number % 5]}_made_up_{number}"
        sample.run(name, [
            Record("speedup", 2.0 + rank * batch % 7 / 3, "x", low=1.9, high=5.1, rounds=30,
                   noise=0.012, seconds=0.00123456, fraction_of_roofline=0.4,
                   axes={"rank": rank, "batch": batch, "system": system, "baseline": "torch"})
            for rank in (8, 16, 32, 64) for batch in (1, 10, 100, 1000)
            for system in ("ours", "torch", "numpy", "dgl", "sdpa")
        ])  # fmt: skip
        sample.declare(
            name,
            lambda frame, claims: [
                charts.lines(frame, "axis.rank", "t", "c", log_x=True, column="axis.batch")
            ],
        )
    assert len(written(sample).encode()) <= 2_500_000


def test_chart_library_that_others_may_have_changed_is_left_out(
    five_papers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("MLSYS21_CACHE", str(tmp_path))
    path = page.write(five_papers.store, tmp_path / "report.html", **five_papers.known)
    assert f"There are no drawings: everyone may write to {tmp_path}" in path.read_text()
