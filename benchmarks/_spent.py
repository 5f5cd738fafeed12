"""Processor time of all processes below this one, which other work on the machine hardly changes."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def spent() -> dict[int, float]:
    """Process -> seconds it has computed for so far, of all that this process started and what those did."""
    found: dict[int, tuple[int, float]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        found[int(file.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK
    below, more = {os.getpid()}, True
    while more:
        new = {pid for pid, (parent, _) in found.items() if parent in below} - below
        below, more = below | new, bool(new)
    return {pid: found[pid][1] for pid in below - {os.getpid()} if pid in found}


def since(before: dict[int, float]) -> float:
    """Seconds computed since `before` by the processes that still run."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in spent().items())
