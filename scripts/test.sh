#!/usr/bin/env bash
# All tests: bash scripts/test.sh        or one pytest call: bash scripts/test.sh [pytest arguments]
#   bash scripts/test.sh -k ranks tests/ttrec
# Without arguments the fast tests run two at a time, then the slow ones likewise, then those that
# measure time, alone and last so that nothing disturbs their clocks. Exit code 1 if any of the three
# fails.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh" dev

# Paths in arguments may be relative to where the caller stands; pytest runs from the checkout.
arguments=()
for argument in "$@"; do
  [[ $argument == [/-]* || ! -e $PWD/${argument%%::*} ]] || argument=$PWD/$argument
  arguments+=("$argument")
done
cd "$root"
pytest=(.venv/bin/python -m pytest -p no:randomly)
if ((${#arguments[@]})); then
  exec "${pytest[@]}" "${arguments[@]}"
fi

trap 'exit 130' INT
summary=()
failed=0
ran=0
phase() { # NAME MARKERS [PYTEST ARGUMENT...]
  local name=$1 markers=$2 code=0 started=$SECONDS word
  shift 2
  echo "== $name tests"
  "${pytest[@]}" -m "$markers" "$@" || code=$?
  case $code in
    0) word=passed ran=1 ;;
    5) word="none selected" ;; # pytest's code for that
    *) word="failed ($code)" ran=1 failed=1 ;;
  esac
  summary+=("$name: $word, $((SECONDS - started)) s")
}

# Two workers on two cores: more than one thread in each would only make them wait for each other.
# Soak tests (python -m pytest -m soak) take minutes each and are run on request.
OMP_NUM_THREADS=1 phase fast "not slow and not bench and not soak" -n 2 --dist loadfile
# The slow ones of a file are shared out as well: a few files hold most of them.
OMP_NUM_THREADS=1 phase slow "slow and not bench and not soak" -n 2 --dist worksteal
OMP_NUM_THREADS=1 phase bench "bench"

printf '== %s\n' "${summary[@]}"
if ((ran == 0)); then
  echo "no test was selected in any phase: the checkout has no tests" >&2
  exit 1
fi
exit "$failed"
