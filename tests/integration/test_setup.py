"""scripts/setup.sh on machines that lack one thing or another, played by stub commands."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]

# What any Debian has; everything else on the played machine is a stub.
ESSENTIAL = "bash env sed grep dirname head tail mktemp rm tr flock cat mkdir cp touch sleep chmod"
COMPILER = ("cc", "c++")
SIMULATOR = ("iverilog", "vvp")

PYTHON = """#!/bin/bash
echo "${0##*/} $*" >>"$STATE/log"
case "$*" in
  "-c import venv, ensurepip") [[ -e $STATE/can-make-venvs ]] ;;
  "-m venv --clear "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip --version") ;;
  "-m pip install"*--dry-run*) [[ -e $STATE/has-cpu-torch ]] ;;
  "-m pip install"*)
    sleep 0.1
    [[ ! -e $STATE/pip-fails ]] || { echo "ERROR: no such wheel" >&2; exit 1; }
    [[ $* != *torch==* ]] || echo '__version__ = "2.13.0+cpu"' >"$STATE/site/torch.py"
    [[ $* != *"-e ."* || -e $STATE/no-fbgemm ]] || touch "$STATE/site/fbgemm_gpu.py" ;;
  *sysconfig.get_path*) echo "$STATE/include" ;;
  *) PYTHONPATH="$STATE/site" exec "$REAL_PYTHON" "$@" ;;
esac
"""

APT_GET = """#!/bin/bash
echo "apt-get $*" >>"$STATE/log"
[[ -e $STATE/no-git && $* == *" git" ]] && failing=yes
[[ ! -e $STATE/apt-fails && -z ${failing:-} ]] || {
  echo "E: unable to locate package" >&2
  exit 100
}
for word in "$@"; do
  case $word in
    g++) touch "$STATE/bin/cc" "$STATE/bin/c++"; chmod +x "$STATE/bin/cc" "$STATE/bin/c++" ;;
    git) touch "$STATE/bin/git"; chmod +x "$STATE/bin/git" ;;
    clang-16) touch "$STATE/bin/clang-16"; chmod +x "$STATE/bin/clang-16" ;;
    chromium) touch "$STATE/bin/chromium"; chmod +x "$STATE/bin/chromium" ;;
    iverilog) touch "$STATE/bin/iverilog" "$STATE/bin/vvp"
      chmod +x "$STATE/bin/iverilog" "$STATE/bin/vvp" ;;
    python3) cp "$STATE/python-stub" "$STATE/bin/python3" ;;
    python3*-venv) touch "$STATE/can-make-venvs" ;;
    python3*-dev) touch "$STATE/include/Python.h" ;;
  esac
done
"""


@attrs.frozen
class Machine:
    """A played machine: a checkout, the commands on PATH, and what setup.sh did so far."""

    checkout: Path
    state: Path

    def add(self, name: str, text: str = "#!/bin/bash\n") -> None:
        path = self.state / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def remove(self, *names: str) -> None:
        for name in names:
            (self.state / "bin" / name).unlink()

    def note(self, name: str) -> None:
        (self.state / name).touch()

    def be_user(self) -> None:
        self.add("id", "#!/bin/bash\necho 1000\n")

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        bash = shutil.which("bash")
        assert bash is not None
        return subprocess.Popen(
            [bash, str(self.checkout / "scripts" / "setup.sh"), *arguments],
            cwd="/",
            env={
                "PATH": str(self.state / "bin"),
                "STATE": str(self.state),
                "REAL_PYTHON": getattr(sys, "_base_executable", sys.executable),
                "TMPDIR": str(self.state),
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def setup(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        """Run setup.sh; returns its exit code, output and errors."""
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def log(self, containing: str) -> list[str]:
        """Calls of stub commands so far that contain a text."""
        path = self.state / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if containing in line]

    def installs(self) -> list[str]:
        return [line for line in self.log("pip install") if "--dry-run" not in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Root on Debian with all that is needed, but no .venv yet; its path has a space."""
    checkout, state = tmp_path / "a checkout", tmp_path / "state"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", checkout / "scripts")
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (state / "bin").mkdir(parents=True)
    (state / "site").mkdir()
    (state / "include").mkdir()
    (state / "include" / "Python.h").touch()
    for name in ESSENTIAL.split():
        found = shutil.which(name)
        assert found is not None, name
        (state / "bin" / name).symlink_to(found)
    played = Machine(checkout, state)
    for name in (*COMPILER, *SIMULATOR, "git", "clang-16", "chromium", "make", "perl"):
        played.add(name)
    played.add("id", "#!/bin/bash\necho 0\n")
    played.add("apt-get", APT_GET)
    played.add("python3.11", PYTHON)
    (state / "python-stub").write_text(PYTHON)
    (state / "python-stub").chmod(0o755)
    played.note("can-make-venvs")
    played.note("has-cpu-torch")
    return played


def assert_in_order(words: Iterable[str], text: str) -> None:
    position = 0
    for word in words:
        position = text.find(word, position)
        assert position >= 0, f"{word!r} is missing or out of order in:\n{text}"


# --- a machine that has everything ---


def test_first_call_makes_the_environment_and_says_what_it_does(machine: Machine) -> None:
    code, out, err = machine.setup("dev")
    assert (code, err) == (0, "")
    assert_in_order(
        ["making .venv", "installing torch 2.13.0+cpu", "checkout with [dev]", "ready"], out
    )
    assert machine.installs() == [
        "python -m pip install -qq torch==2.13.0+cpu",
        "python -m pip install -qq -e .[dev]",
    ]
    assert machine.log("apt-get") == []


def test_second_call_installs_nothing(machine: Machine) -> None:
    machine.setup("dev")
    done = machine.installs()
    code, out, err = machine.setup("dev")
    assert (code, out, err) == (0, "setup: ready\n", "")
    assert machine.installs() == done


def test_dev_is_what_a_call_without_arguments_means(machine: Machine) -> None:
    machine.setup()
    assert machine.setup("dev")[1] == "setup: ready\n"


def test_both_commands_share_an_environment(machine: Machine) -> None:
    for extras in ("all", "dev"):
        machine.setup(extras)
        assert machine.installs()[-1].endswith(f"-e .[{extras}]")
    done = machine.installs()
    for extras in ("all", "dev", "all", "all,dev"):
        assert machine.setup(extras)[1] == "setup: ready\n"
    assert machine.installs() == done


def test_changed_dependencies_are_installed(machine: Machine) -> None:
    machine.setup("dev")
    before = len(machine.installs())
    with (machine.checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert "keeping the installed torch 2.13.0" in out
    assert machine.installs()[before:] == ["python -m pip install -qq -e .[dev]"]


def test_moved_checkout_is_installed_again(machine: Machine) -> None:
    machine.setup("dev")
    moved = attrs.evolve(machine, checkout=machine.checkout.rename(machine.state / "moved"))
    before = len(moved.installs())
    assert moved.setup("dev")[0] == 0
    assert len(moved.installs()) > before


def test_environment_whose_interpreter_is_gone_is_made_anew(machine: Machine) -> None:
    machine.setup("dev")
    (machine.checkout / ".venv" / "bin" / "python").unlink()
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert "making .venv" in out


def test_two_calls_at_once_install_once(machine: Machine) -> None:
    calls = [machine.start("dev") for _ in range(3)]
    outputs = [call.communicate(timeout=30)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0]
    assert outputs.count("setup: ready\n") == 2
    assert len(machine.installs()) == 2


# --- torch ---


def test_torch_of_the_right_version_is_kept(machine: Machine) -> None:
    (machine.state / "site" / "torch.py").write_text('__version__ = "2.13.0"')
    assert "keeping the installed torch 2.13.0" in machine.setup("dev")[1]
    assert machine.log("torch==") == []


def test_torch_of_another_version_is_replaced(machine: Machine) -> None:
    (machine.state / "site" / "torch.py").write_text('__version__ = "2.12.1+cpu"')
    machine.setup("dev")
    assert machine.installs()[0].endswith("torch==2.13.0+cpu")


@pytest.mark.parametrize(
    ("env", "call"),
    [
        (
            {"TORCH_INDEX_URL": "file:///wheels"},
            "python -m pip install -qq --no-deps --index-url file:///wheels torch==2.13.0",
        ),
        ({}, "python -m pip install -qq torch==2.13.0"),
    ],
)
def test_index_without_the_cpu_build(machine: Machine, env: dict[str, str], call: str) -> None:
    (machine.state / "has-cpu-torch").unlink()
    code, out, _ = machine.setup("dev", **env)
    assert code == 0
    assert "TORCH_INDEX_URL" in out
    assert machine.installs()[0] == call


# --- what is missing ---


def test_bare_container_is_filled_with_one_update(machine: Machine) -> None:
    machine.remove(*COMPILER, *SIMULATOR, "git", "clang-16", "chromium", "python3.11")
    (machine.state / "can-make-venvs").unlink()
    (machine.state / "include" / "Python.h").unlink()
    code, out, err = machine.setup("dev")
    assert (code, err) == (0, "")
    assert len(machine.log("update")) == 1
    installs = [
        line.split("--no-install-recommends ")[1] for line in machine.log("apt-get -qq")[1:]
    ]
    optional = ["python3-dev", "git", "iverilog", "clang-16", "chromium"]
    assert installs == ["g++ python3 python3-venv", *optional]
    assert out.rstrip().splitlines()[-1].startswith("setup: ready")


def test_missing_venv_module_is_installed_for_the_interpreter_at_hand(machine: Machine) -> None:
    (machine.state / "can-make-venvs").unlink()
    assert machine.setup("dev")[0] == 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert machine.log(f"python{version}-venv")


def test_missing_headers_are_installed_for_the_interpreter_at_hand(machine: Machine) -> None:
    header = machine.state / "include" / "Python.h"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for again in (False, True):  # the interpreter of .venv counts as much as one on PATH
        header.unlink()
        if again:
            (machine.checkout / "pyproject.toml").write_text(
                (machine.checkout / "pyproject.toml").read_text() + "# changed\n"
            )
            machine.remove("python3.11")
        code, out, err = machine.setup("dev")
        assert (code, err) == (0, "")
        assert f"without python{version}-dev (optional) there is no Python.h: you lose" in out
        assert header.exists()
    assert len(machine.log(f"--no-install-recommends python{version}-dev")) == 2


def test_without_headers_setup_goes_on_and_says_so(machine: Machine) -> None:
    (machine.state / "include" / "Python.h").unlink()
    machine.be_user()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert_in_order(["some twenty times slower", f"going on without python{version}-dev"], out)
    assert f"to have them: sudo apt-get install -y python{version}-dev\n" in out
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert_in_order([f"without python{version}-dev (optional)", "ready"], out)


def test_user_without_sudo_gets_the_one_command(machine: Machine) -> None:
    machine.be_user()
    machine.remove(*COMPILER, *SIMULATOR)
    (machine.state / "can-make-venvs").unlink()
    code, out, err = machine.setup("dev")
    assert code == 2
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"sudo apt-get install -y g++ python{version}-venv iverilog" in err
    assert "without g++ (required)" in out
    assert "without iverilog (optional)" in out
    assert "you lose every native kernel" in out
    assert machine.log("apt-get") == []
    assert not (machine.checkout / ".venv").exists()


def test_sudo_that_asks_for_a_password_is_not_used(machine: Machine) -> None:
    machine.be_user()
    machine.add("sudo", "#!/bin/bash\nexit 1\n")
    machine.remove(*COMPILER)
    assert machine.setup("dev")[0] == 2
    assert machine.log("apt-get") == []


def test_sudo_without_password_installs(machine: Machine) -> None:
    machine.be_user()
    machine.add("sudo", '#!/bin/bash\necho "sudo $*" >>"$STATE/log"\nshift\n"$@"\n')
    machine.remove(*COMPILER)
    code, _, err = machine.setup("dev")
    assert (code, err) == (0, "")
    assert machine.log("sudo -n env DEBIAN_FRONTEND=noninteractive apt-get")


def test_system_without_apt_is_told_the_packages(machine: Machine) -> None:
    machine.remove("apt-get", *COMPILER)
    code, _, err = machine.setup("dev")
    assert code == 2
    assert "your system's package manager, for what Debian calls: g++" in err


@pytest.mark.parametrize("reason", ["no rights", "apt fails"])
def test_without_a_simulator_setup_goes_on_and_says_so(machine: Machine, reason: str) -> None:
    machine.remove(*SIMULATOR)
    if reason == "no rights":
        machine.be_user()
    else:
        machine.note("apt-fails")
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert_in_order(["without iverilog (optional)", "the RTL rows of panama"], out)
    assert_in_order(["going on without iverilog", "apt-get install -y iverilog", "ready"], out)
    # Later calls repeat what is lost, but do not try again.
    tries = len(machine.log("apt-get"))
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert "without iverilog (optional)" in out
    assert len(machine.log("apt-get")) == tries


def test_package_that_apt_does_not_have_costs_no_other(machine: Machine) -> None:
    machine.remove("git", *SIMULATOR)
    machine.note("no-git")
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert "going on without git; to have them: sudo apt-get install -y git\n" in out
    assert (machine.state / "bin" / "iverilog").exists()


@pytest.mark.parametrize("extras", ["all", "dev", "all,dev"])
def test_browser_is_installed_for_the_tests_alone(machine: Machine, extras: str) -> None:
    machine.remove("chromium")
    code, out, _ = machine.setup(extras)
    assert code == 0
    wanted = "dev" in extras
    assert bool(machine.log("install -y --no-install-recommends chromium")) == wanted
    assert ("without chromium (optional)" in out) == wanted
    assert ("you lose the tests of the report in a browser" in out) == wanted


def test_any_browser_of_the_kind_will_do(machine: Machine) -> None:
    machine.remove("chromium")
    machine.add("google-chrome")
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert "chromium" not in out
    assert machine.log("apt-get") == []


def test_compiler_that_cannot_be_installed_ends_it(machine: Machine) -> None:
    machine.remove(*COMPILER)
    machine.note("apt-fails")
    code, _, err = machine.setup("dev")
    assert code == 1
    assert_in_order(["unable to locate package", "apt-get could not install g++"], err)


def test_compiler_that_vanished_is_noticed_though_all_else_is_ready(machine: Machine) -> None:
    machine.setup("dev")
    machine.remove(*COMPILER)
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert "installing with apt-get: g++" in out


# --- interpreters ---


def test_stub_of_a_version_manager_is_passed_over(machine: Machine) -> None:
    machine.add("python3.13", "#!/bin/bash\necho 'not installed' >&2\nexit 127\n")
    code, out, _ = machine.setup("dev")
    assert code == 0
    assert "bin/python3.11 (" in out


def test_interpreter_can_be_named(machine: Machine) -> None:
    machine.add("my-python", PYTHON)
    code, out, _ = machine.setup("dev", PYTHON=str(machine.state / "bin" / "my-python"))
    assert code == 0
    assert "my-python" in out


def test_old_interpreter_is_refused(machine: Machine) -> None:
    machine.remove("python3.11", "apt-get")
    machine.add("python3", '#!/bin/bash\n[[ $1 == --version ]] && echo "Python 3.10.2" || exit 1\n')
    code, _, err = machine.setup("dev")
    assert code == 2
    assert "needed" in err


def test_old_interpreter_that_apt_cannot_better_is_refused(machine: Machine) -> None:
    machine.remove("python3.11")
    old = '#!/bin/bash\n[[ $1 == --version ]] && echo "Python 3.10.2" || exit 1\n'
    machine.add("python3", old)
    (machine.state / "python-stub").write_text(old)
    code, _, err = machine.setup("dev")
    assert code == 2
    assert "Python 3.11 or newer with venv is needed, found Python 3.10.2" in err


# --- failures ---


def test_failing_pip_is_shown_and_leaves_no_stamp(machine: Machine) -> None:
    machine.note("pip-fails")
    code, _, err = machine.setup("dev")
    assert code == 1
    assert_in_order(["ERROR: no such wheel", "pip could not install torch==2.13.0+cpu"], err)
    (machine.state / "pip-fails").unlink()
    assert machine.setup("dev")[0] == 0
    assert len(machine.installs()) == 3  # the failed one, then both


def test_pair_that_does_not_load_is_no_success(machine: Machine) -> None:
    machine.note("no-fbgemm")
    code, _, err = machine.setup("dev")
    assert code == 1
    assert_in_order(["No module named 'fbgemm_gpu'", "do not load together"], err)
    assert machine.setup("dev")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nosuch"],
            "pyproject.toml has no extra 'nosuch'; it has: costmodel costmodel_peers cortex",
        ),
        (["dev", "peers"], "wanted extras as one word like dev or all,dev, got: dev peers"),
        (["dev,"], "got: dev,"),
        (["--help"], "got: --help"),
    ],
)
def test_wrong_call_is_refused(machine: Machine, arguments: list[str], message: str) -> None:
    code, _, err = machine.setup(*arguments)
    assert code == 2
    assert message in err
    assert machine.installs() == []


def test_nothing_temporary_is_left(machine: Machine) -> None:
    before = set(machine.state.iterdir())
    machine.setup("dev")
    machine.setup("dev")
    assert set(machine.state.iterdir()) - before == {machine.state / "log"}
