#!/usr/bin/env bash
# Make .venv ready: bash scripts/setup.sh [EXTRA[,EXTRA...]]     (extras of pyproject.toml; default dev)
# scripts/test.sh asks for dev, scripts/reproduce.sh for all: both can share one .venv.
#
# Does only what is missing, so a second call takes well under a second.
#   PYTHON            interpreter to make .venv from (default: the newest of 3.13, 3.12, 3.11, python3)
#   TORCH_INDEX_URL   pip index to take torch from when the default index has no CPU-only build
# Exit codes: 0 ready; 1 an installation failed; 2 something must be installed by hand (the command
# is printed) or the call is wrong.
set -euo pipefail

# Package (Debian/Ubuntu name) | commands (or Python.h) that prove it, / between equals | required or
# optional | extras that want it, or any | what is lost without it
SYSTEM_PACKAGES=(
  "g++|cc c++|required|any|every native kernel, hence every speed measured here"
  "python3-dev|Python.h|optional|any|the native linearizer of cortex; in Python it is some twenty times slower"
  "git|git|optional|any|the commit noted with each result, and python -m scripts.regress"
  "iverilog|iverilog vvp|optional|any|the RTL rows of panama"
  "make|make|optional|any|the long RTL runs of panama, on Verilator"
  "perl|perl|optional|any|the long RTL runs of panama, on Verilator"
  "clang-16|clang-16|optional|any|the Polly rows of costmodel"
  "chromium|chromium/chromium-browser/google-chrome|optional|dev|the tests of the report in a browser"
)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python
unset PYTHONHOME PYTHONSAFEPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

say() { echo "setup: $*"; }
give_up() { # CODE MESSAGE...
  local code=$1
  shift
  echo "setup: $*" >&2
  exit "$code"
}

# --- what is there -------------------------------------------------------------------------------

# The headers of the interpreter that .venv has or will have. One built from source, by pyenv or by
# conda has them beside it; distributions split them off.
has_python_header() {
  local base include
  if is_new_enough "$python"; then base=$python; else base=$(find_python) || return 1; fi
  include=$("$base" -c 'import sysconfig; print(sysconfig.get_path("include"))') || return 1
  [[ -e $include/Python.h ]]
}

has_all() { # COMMAND...; a/b is there when one of the two is
  local name
  for name in "$@"; do
    if [[ $name == Python.h ]]; then
      has_python_header || return 1
      continue
    fi
    # shellcheck disable=SC2086  # a list of commands; each that is found is one line
    [[ -n $(command -v ${name//\// }) ]] || return 1
  done
}

is_wanted() { # EXTRA...|any: whether this call asks for one of them
  local extra
  for extra in "$@"; do
    [[ $extra == any || ,$extras, == *",$extra,"* ]] && return
  done
  return 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() { # [MODULE...]: the first interpreter that is new enough and has these modules
  local name names=(python3.13 python3.12 python3.11 python3)
  [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    # A version manager's stub can be on PATH and yet run nothing, so each one is tried.
    if is_new_enough "$name" && { (($# == 0)) || "$name" -c "import $*" 2>/dev/null; }; then
      command -v "$name"
      return
    fi
  done
  return 1
}

python_package() { # dev|venv: Debian's name of this part of the interpreter at hand
  local base
  if is_new_enough "$python"; then base=$python; else base=$(find_python) || base=; fi
  if [[ -n $base ]]; then
    "$base" -c 'import sys; print("python%d.%d-%s" % (*sys.version_info[:2], sys.argv[1]))' "$1"
  else
    echo "python3-$1"
  fi
}

list_missing() { # required|optional: rows of the table that are wanted and absent
  local row package commands need by cost
  for row in "${SYSTEM_PACKAGES[@]}"; do
    IFS='|' read -r package commands need by cost <<<"$row"
    # shellcheck disable=SC2086  # lists of words
    if [[ $need == "$1" ]] && is_wanted $by && ! has_all $commands; then
      [[ $package != python3-dev ]] || package=$(python_package dev)
      echo "$package|$commands|$need|$by|$cost"
    fi
  done
}

describe_missing() { # stdin: rows
  local package commands need by cost
  while IFS='|' read -r package commands need by cost; do
    say "without $package ($need) there is no ${commands//[ \/]/ or }: you lose $cost"
  done
}

stamp_digest() { # changes with pyproject.toml, the Python version and the place of the checkout
  "$python" - "$root" 2>/dev/null <<'PYTHON'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
known = [(root / "pyproject.toml").read_text(), sys.version, str(root)]
print(hashlib.sha256("\0".join(known).encode()).hexdigest())
PYTHON
}

is_ready() {
  local digest extra
  [[ -x $python ]] || return 1
  digest=$(stamp_digest) || return 1
  for extra in ${extras//,/ }; do
    [[ -f $venv/.setup-stamp-$extra && $(<"$venv/.setup-stamp-$extra") == "$digest" ]] || return 1
  done
}

# --- system packages -----------------------------------------------------------------------------

as_root=() # prefix of a command that needs root
can_install() {
  has_all apt-get || return 1
  [[ $(id -u) != 0 ]] || return 0
  has_all sudo && sudo -n true 2>/dev/null && as_root=(sudo -n)
}

lists_updated=no
apt_install() { # PACKAGE...
  say "installing with apt-get: $*"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
  if [[ $lists_updated == no ]]; then
    "${apt[@]}" update </dev/null || say "apt-get update failed; trying with the lists at hand"
    lists_updated=yes
  fi
  "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    return 1
  }
}

command_for_user() { # PACKAGE...
  if has_all apt-get; then
    echo "sudo apt-get install -y $*"
  else
    echo "your system's package manager, for what Debian calls: $*"
  fi
}

ensure_system() {
  local required optional rows
  mapfile -t rows < <(list_missing required)
  required=("${rows[@]%%|*}")
  mapfile -t rows < <(list_missing optional)
  optional=("${rows[@]%%|*}")
  # Debian splits the two modules that python -m venv needs into a package of their own.
  if ! is_new_enough "$python" && ! find_python venv, ensurepip >/dev/null; then
    find_python >/dev/null || required+=(python3)
    required+=("$(python_package venv)")
  fi
  list_missing required | describe_missing
  list_missing optional | describe_missing

  if ((${#required[@]})); then
    if ! can_install; then
      give_up 2 "needed and not installable from here; run this, then start again:" \
        "$(command_for_user "${required[@]}" "${optional[@]}")"
    fi
    apt_install "${required[@]}" || give_up 1 "apt-get could not install ${required[*]}"
  fi
  local package absent=()
  for package in "${optional[@]}"; do
    # One by one: a package that this release does not have must not cost the others.
    can_install && apt_install "$package" || absent+=("$package")
  done
  if ((${#absent[@]})); then
    say "going on without ${absent[*]}; to have them: $(command_for_user "${absent[@]}")"
  fi
}

# --- Python packages -----------------------------------------------------------------------------

pip() { "$python" -m pip "$@" </dev/null; }

ensure_venv() {
  local base
  if is_new_enough "$python"; then
    pip --version >/dev/null 2>&1 || "$python" -m ensurepip --upgrade >/dev/null ||
      give_up 1 "$venv has no pip and ensurepip cannot give it one; remove the folder and start again"
    return
  fi
  base=$(find_python venv, ensurepip) ||
    give_up 2 "Python 3.11 or newer with venv is needed, found $(python3 --version 2>&1 || true);" \
      "install one and start again, or name it: PYTHON=/path/to/python bash scripts/setup.sh"
  say "making .venv with $base ($("$base" --version 2>&1))"
  "$base" -m venv --clear "$venv" || give_up 1 "$base -m venv failed; its message is above"
}

has_torch() { # VERSION
  "$python" - "$1" 2>/dev/null <<'PYTHON'
import sys
import torch
sys.exit(torch.__version__.split("+")[0] != sys.argv[1])
PYTHON
}

# A plain `pip install torch` on Linux may fetch the CUDA build, several GB that nothing here uses.
ensure_torch() {
  local version
  version=$(sed -n 's/.*"torch==\([0-9.]*\)".*/\1/p' "$root/pyproject.toml" | head -n 1)
  if has_torch "$version"; then
    say "keeping the installed torch $version"
  elif pip install -qq --dry-run --no-deps "torch==$version+cpu" >"$log" 2>&1; then
    say "installing torch $version+cpu (some 200 MB)"
    pip install -qq "torch==$version+cpu" || give_up 1 "pip could not install torch==$version+cpu"
  elif [[ -n ${TORCH_INDEX_URL:-} ]]; then
    say "installing torch $version from TORCH_INDEX_URL"
    # Only torch itself: what it depends on comes from the usual index with everything else.
    pip install -qq --no-deps --index-url "$TORCH_INDEX_URL" "torch==$version" ||
      give_up 1 "pip could not install torch==$version from TORCH_INDEX_URL=$TORCH_INDEX_URL"
  else
    say "installing torch $version from the default index (can be several GB;" \
      "TORCH_INDEX_URL=<a CPU-only index> makes it smaller)"
    pip install -qq "torch==$version" || give_up 1 "pip could not install torch==$version"
  fi
}

ensure_project() {
  say "installing this checkout with [$extras] (takes some minutes the first time)"
  (cd "$root" && pip install -qq -e ".[$extras]") || give_up 1 "pip could not install .[$extras]; its message is above"
  "$python" -c 'import torch, fbgemm_gpu' ||
    give_up 1 "torch and fbgemm-gpu-cpu were installed but do not load together; the error is above"
}

# --- main ----------------------------------------------------------------------------------------

extras=${1:-dev}
[[ $# -le 1 && $extras =~ ^[a-z_]+(,[a-z_]+)*$ ]] ||
  give_up 2 "wanted extras as one word like dev or all,dev, got: $*"
for extra in ${extras//,/ }; do
  grep -q "^$extra = \[" "$root/pyproject.toml" ||
    give_up 2 "pyproject.toml has no extra '$extra'; it has:" \
      "$(sed -n '/^\[project.optional-dependencies\]/,/^\[tool/s/^\([a-z_]*\) = \[.*/\1/p' \
        "$root/pyproject.toml" | tr '\n' ' ')"
done

# Two calls at once (a test run beside a reproduction) take turns. The lock goes with this process.
if has_all flock; then
  exec 9<"${BASH_SOURCE[0]}"
  flock 9 2>/dev/null || true
fi

if is_ready && [[ -z $(list_missing required) ]]; then
  list_missing optional | describe_missing
  say "ready"
  exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
ensure_system
ensure_venv
ensure_torch
ensure_project
for extra in ${extras//,/ }; do
  stamp_digest >"$venv/.setup-stamp-$extra"
done
say "ready: $("$python" --version), $venv"
