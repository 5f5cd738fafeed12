"""Run all benchmarks (or those named) and write RESULTS.md: `python -m benchmarks [name ...]`.

A benchmark is a file with ``measure() -> list[dict]``: rows of ``name``, ``ratio`` (median), ``spread``
(interquartile range), ``bound``, ``holds``, ``note``. Rows of files that were not run are kept from the last time.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
ROWS, PAGE = FOLDER / "results.json", FOLDER / "RESULTS.md"
COLUMNS = ("name", "ratio", "spread", "bound", "holds", "note")


def names() -> list[str]:
    """Files that measure something."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))


def machine() -> str:
    """What the numbers were taken on."""
    threads = torch.get_num_threads()
    return f"{os.cpu_count()} CPUs ({platform.machine()}), {threads} torch threads, torch {torch.__version__}"


def main(chosen: list[str]) -> None:
    """Measure, keep, print."""
    kept: dict[str, Any] = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    for name in chosen or names():
        print(f"benchmarks/{name}.py", file=sys.stderr, flush=True)
        rows = importlib.import_module(f"benchmarks.{name}").measure()
        kept[name] = {"machine": machine(), "rows": [{c: row.get(c) for c in COLUMNS} for row in rows]}
        ROWS.write_text(json.dumps(kept, indent=1))
    PAGE.write_text(page(kept))
    print(page(kept))


def page(kept: dict[str, Any]) -> str:
    """RESULTS.md."""
    parts = [
        "# Benchmarks\n",
        "Ratios against a peer on the same work in one run: median over interleaved repetitions, spread is the",
        "interquartile range. Machines are shared and noisy. `python -m benchmarks` rewrites this page.\n",
    ]
    for name, entry in sorted(kept.items()):
        parts += [
            f"## {name}\n",
            f"{entry['machine']}\n",
            "| what | ratio | spread | bound | holds | note |",
            "|---|---|---|---|---|---|",
        ]
        parts += ["| " + " | ".join(_cell(row[c]) for c in COLUMNS) + " |" for row in entry["rows"]]
        parts.append("")
    return "\n".join(parts)


def _cell(value: Any) -> str:
    shown = (
        {None: "", True: "yes", False: "**no**"}.get(value, value) if not isinstance(value, float) else f"{value:.3g}"
    )
    return str(shown).replace("|", "\\|")


if __name__ == "__main__":
    main(sys.argv[1:])
