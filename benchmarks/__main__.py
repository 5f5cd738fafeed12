"""Run all benchmarks (or those named) and write RESULTS.md and VERIFY.md: `python -m benchmarks [name ...]`.

A benchmark is a file with ``measure() -> list[dict]``: rows of ``name``, ``ratio`` (median), ``spread``
(interquartile range), ``bound``, ``holds``, ``note``. Rows of files that were not run are kept from the last time,
those of one that fails are not.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from typing import Any

from benchmarks import _rows, _verify
from benchmarks._rows import FOLDER, cell

PAGE = FOLDER / "RESULTS.md"
COLUMNS = ("name", "ratio", "spread", "bound", "holds", "note")


def main(chosen: list[str]) -> int:
    """Measure each in a process of its own, so that one that fails stops no other; 1 if one did."""
    if len(chosen) != 1:
        commands = [[sys.executable, "-m", "benchmarks", name] for name in chosen or _rows.names()]
        codes = [subprocess.run(command, check=False).returncode for command in commands]
        return int(any(codes))
    (name,) = chosen
    print(f"benchmarks/{name}.py", file=sys.stderr, flush=True)
    _rows.keep(name, None)  # nothing of an earlier run stands in for one that fails
    rows = importlib.import_module(f"benchmarks.{name}").measure()
    entry = {"machine": _rows.machine(), "rows": [{c: row.get(c) for c in COLUMNS} for row in rows]}
    _rows.keep(name, entry)
    PAGE.write_text(page(_rows.read()))
    _verify.write()
    print(page({name: entry}))
    return 0


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
        parts += ["| " + " | ".join(cell(row[c]) for c in COLUMNS) + " |" for row in entry["rows"]]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure, write RESULTS.md and VERIFY.md."
    )
    known = ", ".join(_rows.names())
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {known}; all without one")
    names = parser.parse_args().names
    if unknown := set(names) - set(_rows.names()):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {known}")
    sys.exit(main(names))
