"""Branches of a run that went back: what a resumed run left behind is no part of the run that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from probe.readers.run_values import LogEntry

STRETCH = 2.5  # entries between two returns, on average, below which a file is in no order rather than resumed


def without_abandoned(entries: Sequence[LogEntry]) -> tuple[list[LogEntry], list[str]]:
    """The entries of the branch that went on, in the order of writing, and notes about what was cut.

    A log is written in the order of training, so an entry that takes a scalar back to an earlier step begins the
    branch of a run that was resumed there: everything from that step on that was written before belongs to the
    abandoned one. A scalar that only lags behind others (an evaluation that comes late) goes back to nothing. A file
    in falling order is one that was turned round; one that goes back every other entry is in no order, and nothing
    can be cut (a note says so).
    """
    steps = [e.step for e in entries]
    if len(steps) > 1 and all(a >= b for a, b in pairwise(steps)) and steps[0] > steps[-1]:
        return list(reversed(entries)), []
    returns = _returns(entries)
    if returns > 1 and len(entries) / (returns + 1) < STRETCH and not _repeats(entries):
        return list(entries), [
            f"steps are in no order (they go back {returns} times in {len(entries)} rows), so no abandoned branch of a "
            "resumed run could be told from the one that went on"
        ]
    return _cut(entries)


def _cut(entries: Sequence[LogEntry]) -> tuple[list[LogEntry], list[str]]:
    kept: list[LogEntry] = []
    notes: list[str] = []
    last: dict[str, int] = {}
    for entry in entries:
        if any(last.get(name, -1) > entry.step for name in entry.values):
            gone = sorted({e.step for e in kept if e.step >= entry.step})
            kept = [e for e in kept if e.step < entry.step]
            last = _lasts(kept)
            notes.append(
                f"the run went back to step {entry.step} (resumed from a checkpoint): what was logged before at steps "
                f"{gone[0]} to {gone[-1]} is of the abandoned branch and was left out"
            )
        kept.append(entry)
        for name in entry.values:
            last[name] = max(entry.step, last.get(name, -1))
    return kept, notes


def _lasts(entries: Sequence[LogEntry]) -> dict[str, int]:
    last: dict[str, int] = {}
    for entry in entries:
        for name in entry.values:
            last[name] = max(entry.step, last.get(name, -1))
    return last


def _returns(entries: Sequence[LogEntry]) -> int:
    """How often an entry goes back behind the one before it with a scalar that had been further."""
    found, before, last = 0, -1, dict[str, int]()
    for entry in entries:
        if entry.step < before and any(last.get(n, -1) > entry.step for n in entry.values):
            found += 1
        before = entry.step
        last.update(dict.fromkeys(entry.values, entry.step))
    return found


def _repeats(entries: Sequence[LogEntry]) -> bool:
    """True if a scalar was logged twice at one step: only a run that went back does that."""
    seen: set[tuple[int, str]] = set()
    for entry in entries:
        for name in entry.values:
            if (entry.step, name) in seen:
                return True
            seen.add((entry.step, name))
    return False
