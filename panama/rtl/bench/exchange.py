"""What a bench is told and what it tells: two JSON files in its working folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def bench_arguments() -> dict[str, Any]:
    """The arguments that simulator.run was given."""
    told: dict[str, Any] = json.loads(Path("arguments.json").read_text())
    return told


def report(values: Mapping[str, object]) -> None:
    """Hand values back to the caller of simulator.run."""
    Path("report.json").write_text(json.dumps(dict(values)))
