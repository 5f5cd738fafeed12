"""What the benchmarks measured, on disk: one entry a file, with the machine and its rows."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
ROWS = FOLDER / "results.json"


def names() -> list[str]:
    """Files that measure something."""
    files = [p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")]
    return sorted([*files, *(p.parent.name for p in FOLDER.glob("*/__main__.py"))])


def machine() -> str:
    """What the numbers were taken on."""
    threads = torch.get_num_threads()
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {threads} torch threads, torch {torch.__version__}"


def read() -> dict[str, Any]:
    """Entry of every benchmark that finished."""
    return json.loads(ROWS.read_text()) if ROWS.is_file() else {}


def keep(name: str, entry: dict[str, Any] | None) -> None:
    """Put a benchmark's entry into the file, or take it out."""
    kept = {k: v for k, v in read().items() if k != name} | ({name: entry} if entry else {})
    ROWS.write_text(json.dumps(kept, indent=1))


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, bool):  # before numbers: a ratio of 0 is no "no"
        return "yes" if value else "**no**"
    shown = "" if value is None else f"{value:.3g}" if isinstance(value, float) else value
    return str(shown).replace("|", "\\|")
