"""The page in a real browser: every chart drawn, nothing fetched, no error, nothing cut off."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.report import page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium on PATH; a browser is optional, the page's content is tested without one",
)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-pipe",
)
#: File descriptors on which Chromium reads commands and writes answers.
READS, WRITES = 3, 4


class Browser:
    """A headless Chromium on a pipe: commands in, answers and events out, NUL-separated."""

    def __init__(self, profile: Path) -> None:
        # High numbers, so that putting the child's ends on 3 and 4 overwrites none of them.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (*os.pipe(), *os.pipe())]
        commands_out, self._commands, self._answers, answers_in = ends

        def place() -> None:
            os.dup2(commands_out, READS)
            os.dup2(answers_in, WRITES)

        self._process = subprocess.Popen(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=place,
            pass_fds=(READS, WRITES),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        self._number = 0
        self._read = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its answer; events on the way are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> None:
        """Return once the expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"still false after {seconds} s: {expression}"
            time.sleep(0.05)

    def resize(self, width: int) -> None:
        """Give the page this width; a window of Chromium cannot be as narrow as a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def open(self, path: Path, width: int) -> None:
        """Show a page and wait until it has drawn its charts."""
        self.resize(width)
        self.navigate(path)
        self.wait_for("document.documentElement.dataset.ready === 'yes'")

    def navigate(self, path: Path) -> None:
        """Show a page and wait until it is read to its end."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def close(self) -> None:
        self._session = None
        with contextlib.suppress(EOFError, OSError):
            self.call("Browser.close")
        self._process.wait(timeout=20)
        os.close(self._commands)
        os.close(self._answers)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            data = os.read(self._answers, 2**20)
            if not data:
                raise EOFError("Chromium closed its pipe")
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def report(five_papers: Any) -> Path:
    path: Path = page.write(
        five_papers.store, five_papers.root / "report.html", **five_papers.known
    )
    return path


CHARTS = "Array.from(document.querySelectorAll('.chart[data-figure]'))"


@pytest.fixture(params=[400, 1200], ids=lambda width: f"{width}px")
def shown(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Browser:
    browser.open(report, request.param)
    return browser


def test_every_chart_has_marks(shown: Browser) -> None:
    marks = shown.evaluate(
        f"{CHARTS}.map(c => [c.dataset.drawn, c.querySelectorAll('.mark-symbol path').length])"
    )
    assert len(marks) == 8
    assert all(state == "yes" and number > 0 for state, number in marks), marks


def test_console_is_silent(shown: Browser) -> None:
    spoken = [
        event["params"]
        for event in shown.events
        if event["method"]
        in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    ]
    assert spoken == []


def test_only_the_file_itself_is_read(shown: Browser, report: Path) -> None:
    requests = {
        event["params"]["request"]["url"]
        for event in shown.events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in requests if not url.startswith("data:")} == {report.as_uri()}


def test_page_is_no_wider_than_the_screen(shown: Browser) -> None:
    page_width, screen = shown.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert page_width <= screen


def test_charts_stay_inside_their_place(shown: Browser) -> None:
    widths = shown.evaluate(
        f"{CHARTS}.map(c => [c.clientWidth, c.querySelector('svg').getBoundingClientRect().width])"
    )
    assert all(0.8 * place < drawing <= place + 1 for place, drawing in widths), widths


def test_first_screen_of_a_desktop_shows_all_five_papers(browser: Browser, report: Path) -> None:
    browser.open(report, 1200)
    bottom = browser.evaluate(
        "document.querySelector('.board article:last-child').getBoundingClientRect().bottom"
    )
    assert bottom <= 800


def test_charts_follow_the_width_of_the_window(browser: Browser, report: Path) -> None:
    browser.open(report, 1200)
    browser.resize(400)
    browser.wait_for(f"{CHARTS}.every(c => c.drawnAt === c.clientWidth && c.clientWidth < 400)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400


def test_link_to_a_run_opens_it(browser: Browser, report: Path) -> None:
    browser.open(report, 1200)
    browser.evaluate("document.querySelector('.claims a[href^=\"#run-\"]').click()")
    browser.wait_for("document.getElementById(location.hash.slice(1)).open")


def test_without_javascript_the_rows_are_there_and_the_drawings_say_why(
    browser: Browser, report: Path
) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.resize(1200)
        browser.navigate(report)
        root = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        html = browser.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]
        assert "data-ready" not in html
        # A browser without scripts parses what stands in noscript as elements.
        assert html.count('<noscript><p class="small soft">The drawing needs JavaScript.') == 8
        assert html.count("<tr><td>speedup</td>") > 30
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
