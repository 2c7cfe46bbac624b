#!/usr/bin/env bash
# From a bare machine to results/report.html: bash scripts/reproduce.sh [overrides]
#   bash scripts/reproduce.sh                            every experiment, quick
#   bash scripts/reproduce.sh paper=ttrec profile=full   one paper, as large as it is meant to be
# Overrides and exit codes are those of python -m scripts.reproduce. Interrupt it and call it again:
# it goes on where it stopped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh" all
cd "$root"
exec .venv/bin/python -m scripts.reproduce "$@"
