"""What a bench is told and what it tells: two JSON files in its working folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panama.rtl.parent import end_with


def bench_arguments() -> dict[str, Any]:
    """What simulator.run was given. From now on the simulator ends with who called that."""
    told: dict[str, Any] = json.loads(Path("arguments.json").read_text())
    end_with(told.pop("parent"))
    return told


def report(values: Mapping[str, object]) -> None:
    """Hand values back to the caller of simulator.run."""
    Path("report.json").write_text(json.dumps(dict(values)))
