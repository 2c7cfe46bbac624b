"""Floors: how gates are found, measured and judged."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy  # noqa: F401  # loads the thread pool that one test looks at
import pytest
from threadpoolctl import threadpool_info

from common import gates
from common.gates import Gate, GateError, Outcome, Reading, check, judge

ROOT = Path(__file__).parents[2]
Writer = Callable[..., str]


def reading(low: float, high: float, *, floor: float = 2.0, status: str = "ok") -> Reading:
    return Reading("toy", floor, (low + high) / 2, low, high, low, 15, status, "", str(ROOT))


PASSES = reading(1.9, 2.1)
FAILS = reading(1.7, 1.9)
NOISY_LOW = reading(1.0, 1.5, status="noisy")
NOISY_HIGH = reading(1.0, 3.0, status="noisy")
NOISY_ABOVE = reading(2.5, 5.0, status="noisy")
NOISY_BELOW = attrs.evolve(NOISY_LOW, most=1.6)


def make_pair() -> gates.Pair:
    return (lambda: 1), (lambda: 1), (lambda ours, peer: None)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Write a package of the given files where imports find it; returns the writer."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def write(name: str, **files: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for stem, text in files.items():
            (folder / f"{stem}.py").write_text(textwrap.dedent(text))
        written.append(name)
        return name

    yield write
    for name in list(sys.modules):
        if name.split(".")[0] in written:
            del sys.modules[name]


ONE_GATE = """
    from common.gates import Gate
    GATES = (Gate("{name}", lambda: None, floor=1.5),)
"""


def test_gates_are_collected_by_name_from_every_package(package: Writer) -> None:
    first = package("toy_one", gates=ONE_GATE.format(name="toy_one_bag"))
    second = package("toy_two", gates=ONE_GATE.format(name="toy_two_bag"))
    found = gates.all_gates([first, second])
    assert list(found) == ["toy_one_bag", "toy_two_bag"]
    assert found["toy_one_bag"].floor == 1.5


def test_package_without_gates_is_not_searched_further(package: Writer) -> None:
    name = package("toy_bare", heavy="raise AssertionError('must not be imported')")
    assert gates.all_gates([name]) == {}
    assert f"{name}.heavy" not in sys.modules


def test_package_that_is_not_installed_has_no_gates() -> None:
    assert gates.all_gates(["toy_not_installed"]) == {}


def test_error_inside_a_gates_file_is_not_taken_for_an_absent_one(package: Writer) -> None:
    name = package("toy_broken", gates="import toy_module_that_is_absent")
    with pytest.raises(ModuleNotFoundError, match="toy_module_that_is_absent"):
        gates.all_gates([name])


def test_two_gates_of_one_name_are_refused(package: Writer) -> None:
    first = package("toy_first", gates=ONE_GATE.format(name="toy_same"))
    second = package("toy_second", gates=ONE_GATE.format(name="toy_same"))
    with pytest.raises(ValueError, match=r"toy_same is listed twice.*toy_second/gates\.py"):
        gates.all_gates([first, second])


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan"), float("inf")])
def test_floor_must_be_positive(floor: float) -> None:
    with pytest.raises(ValueError, match="floor of gate toy must be a positive number"):
        Gate("toy", make_pair, floor)


@pytest.mark.parametrize("name", ["", "two words", "semi;colon", "-m"])
def test_name_must_be_a_word(name: str) -> None:
    with pytest.raises(ValueError, match="name of a gate must be words"):
        Gate(name, make_pair, 1.0)


@pytest.mark.parametrize(
    ("readings", "outcome"),
    [
        ([PASSES], Outcome.PASSED),
        ([reading(1.0, 2.0)], Outcome.PASSED),  # the interval's end touches the floor
        ([FAILS], Outcome.FAILED),
        ([FAILS, PASSES], Outcome.PASSED),
        ([FAILS, FAILS], Outcome.FAILED),
        ([NOISY_HIGH, PASSES], Outcome.PASSED),
        ([NOISY_HIGH, NOISY_HIGH], Outcome.NOISY),  # wide enough to reach any floor, so no pass
        ([NOISY_LOW, NOISY_HIGH], Outcome.NOISY),
        ([NOISY_ABOVE], Outcome.PASSED),
        ([NOISY_HIGH, NOISY_ABOVE], Outcome.PASSED),
        ([attrs.evolve(NOISY_ABOVE, least=1.9)], Outcome.NOISY),  # the other clock disagrees
        ([NOISY_BELOW, NOISY_BELOW], Outcome.FAILED),  # too wide, but nowhere near
        ([NOISY_BELOW, NOISY_HIGH], Outcome.NOISY),
        ([NOISY_BELOW, NOISY_ABOVE], Outcome.PASSED),
        ([attrs.evolve(NOISY_BELOW, most=2.1)] * 2, Outcome.NOISY),  # the other clock disagrees
        ([FAILS, NOISY_HIGH], Outcome.FAILED),
        ([NOISY_HIGH, FAILS], Outcome.FAILED),
    ],
)
def test_floor_is_judged_by_settled_readings(readings: list[Reading], outcome: Outcome) -> None:
    assert judge(readings) is outcome


@pytest.mark.parametrize("first", [FAILS, NOISY_HIGH, NOISY_LOW])
def test_gate_that_does_not_pass_is_measured_once_more(first: Reading) -> None:
    left = [first, PASSES]
    outcome, readings = check(Gate("toy", make_pair, 2.0), lambda name: left.pop(0))
    assert (outcome, readings, left) == (Outcome.PASSED, (first, PASSES), [])


def test_gate_that_fails_twice_is_not_measured_a_third_time() -> None:
    left = [FAILS, FAILS, PASSES]
    outcome, readings = check(Gate("toy", make_pair, 2.0), lambda name: left.pop(0))
    assert (outcome, readings) == (Outcome.FAILED, (FAILS, FAILS))


def test_gate_that_passes_is_not_measured_again() -> None:
    left = [PASSES]
    outcome, readings = check(Gate("toy", make_pair, 2.0), lambda name: left.pop(0))
    assert (outcome, readings) == (Outcome.PASSED, (PASSES,))


def test_pair_that_disagrees_is_not_timed() -> None:
    calls = 0

    def ours() -> int:
        nonlocal calls
        calls += 1
        return 1

    def refuse(result: int, peer_result: int) -> None:
        raise ValueError(f"{result} is not {peer_result}")

    with pytest.raises(Exception, match="1 is not 2"):
        gates.measure(Gate("toy", lambda: (ours, lambda: 2, refuse), 1.0))
    assert calls == 1


def test_measured_value_is_how_many_times_faster_ours_is() -> None:
    # Twenty times the work: a bound of 5 holds however busy the machine is.
    pair = (lambda: sum(range(2_000))), (lambda: sum(range(40_000))), (lambda ours, peer: None)
    assert gates.measure(Gate("toy", lambda: pair, 1.0)).estimate > 5


def test_every_thread_pool_has_one_thread_while_measuring() -> None:
    during: list[int] = []

    def pools() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info()]  # numpy's at least

    before = pools()
    pair = (lambda: during.extend(pools())), (lambda: None), (lambda ours, peer: None)
    gates.measure(Gate("toy", lambda: pair, 1.0))
    assert before
    assert set(during) == {1}
    assert pools() == before


def test_reading_survives_json_and_newer_keys() -> None:
    line = json.dumps(json.loads(PASSES.to_json()) | {"added_later": 1})
    assert Reading.from_json(line) == PASSES


def test_unknown_gate_names_the_nearest() -> None:
    known = {name: Gate(name, make_pair, 1.0) for name in ("ttrec_bag", "cortex_tree")}
    with pytest.raises(ValueError, match=r"no gate 'ttrec_bug', did you mean 'ttrec_bag'\?"):
        gates.find("ttrec_bug", known)


# --- in a process of its own ---


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder whose own `common` package answers in place of this repository's."""
    root = tmp_path / "other"
    (root / "common").mkdir(parents=True)
    (root / "common" / "__init__.py").write_text("")
    return root


def answer(checkout: Path, body: str) -> None:
    text = "import sys, os, json, time, signal\nfrom pathlib import Path\n" + textwrap.dedent(body)
    (checkout / "common" / "gates.py").write_text(text)


def test_checkout_in_the_working_directory_wins_over_the_installed_one(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both of these would otherwise decide which `common` is imported.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    line = attrs_line(root=str(checkout.resolve()), estimate=7.0)
    answer(checkout, f"print('kernel chatter'); print({line!r})")
    assert gates.measure_in_process("toy", checkout).estimate == 7.0


def test_reading_of_another_checkout_is_refused(checkout: Path) -> None:
    answer(checkout, f"print({attrs_line(root='/elsewhere')!r})")
    with pytest.raises(GateError, match=r"must be measured with the code in .*got /elsewhere"):
        gates.measure_in_process("toy", checkout)


def test_measuring_process_has_one_thread_and_keeps_its_memory(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
    line = attrs_line(root=str(checkout.resolve()))
    answer(
        checkout,
        f"""
        assert [os.environ[name] for name in {names}] == ["1", "1", str(2**32)]
        print({line!r})
        """,
    )
    assert gates.measure_in_process("toy", checkout).name == "toy"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('kernel is wrong')", r"ended with exit code 1[\s\S]*kernel is wrong"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by signal 11"),
        ("pass", "printed no reading"),
        ("print('{}')", "printed no reading"),
    ],
)
def test_process_without_a_reading_is_an_error(checkout: Path, body: str, message: str) -> None:
    answer(checkout, body)
    with pytest.raises(GateError, match=f"gate toy {message}"):
        gates.measure_in_process("toy", checkout)


def test_process_past_its_limit_is_ended_with_its_children(checkout: Path, tmp_path: Path) -> None:
    note = tmp_path / "child"
    answer(
        checkout,
        f"""
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path({str(note)!r}).write_text(str(child.pid))
        time.sleep(60)
        """,
    )
    with pytest.raises(GateError, match="took longer than"):
        gates.measure_in_process("toy", checkout, limit_s=2.0)
    pid = int(note.read_text())
    for _ in range(50):
        if not is_running(pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still running")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def attrs_line(**changed: object) -> str:
    return json.dumps(json.loads(PASSES.to_json()) | changed)


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "common.gates", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
        check=False,
    )


def test_command_line_lists_names_and_floors() -> None:
    listed = run_cli("list", "--json")
    assert listed.returncode == 0, listed.stderr
    expected = {name: gate.floor for name, gate in gates.all_gates().items()}
    assert json.loads(listed.stdout) == expected


def test_command_line_refuses_an_unknown_gate() -> None:
    done = run_cli("measure", "toy_nothing")
    assert done.returncode == 2
    assert "there is no gate 'toy_nothing'" in done.stderr
