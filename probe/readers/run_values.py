"""Rows of a run log as optimizer steps and numbers; what cannot be read faithfully is refused with its place.

The optimizer step is what the trainer says it is (`train/global_step` and its spellings). A tracker's own counter
(`_step`, and `step` of trackio) counts calls of `log`, of which one update makes several: it serves only where
nothing else is there, or where it agrees with the trainer's wherever both stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from probe.errors import InputError

TRAINER_STEPS = (
    "train/global_step",
    "trainer/global_step",
    "training/global_step",
    "global_step",
    "eval/global_step",
)
WRITER_STEPS = ("step", "Step", "_step")
STEP_NAMES = (*TRAINER_STEPS, *WRITER_STEPS)
CLOCKS = ("_step", "_timestamp", "Wall time", "timestamp")
"""What says in which order rows were written, whatever order a file has them in."""

NOT_SCALARS = re.compile(
    r"(train/)?epoch|timestamp|[Ww]all[ _]time|id|profiling/.*|_.*"
    # The trainer's closing summary repeats the last step with run totals.
    r"|(train/)?(train_(runtime|samples_per_second|steps_per_second|loss)|total_flos)"
)
GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?([eE][+-]?\d+)?")
LIKE_A_NUMBER = re.compile(r"\s*[+-]?[.,]?\d[\d.,eE+_\s-]*")


class Row(NamedTuple):
    """One row as written: its cells, where it stands (for errors), and the number of its file."""

    cells: Mapping[str, Any]
    where: str
    file: int = 0


class LogEntry(NamedTuple):
    """Scalars of one step, in the order of writing."""

    step: int
    values: dict[str, float]
    file: int = 0


def entries(rows: Sequence[Row], source: str) -> tuple[list[LogEntry], str, list[str]]:
    """The rows' scalars by optimizer step in the order of writing, the name(s) of the steps, and notes.

    Raises:
        InputError: no step anywhere, a step that is no whole number, a cell that is almost a number.
    """
    rows = _as_written(rows)
    names = {name for row in rows for name in row.cells if name in STEP_NAMES and not _missing(row.cells[name])}
    trainers = [n for n in TRAINER_STEPS if n in names]
    writers = [n for n in WRITER_STEPS if n in names]
    empty = [n for n in STEP_NAMES if any(n in row.cells for row in rows)]
    if not names and empty:
        raise InputError(f"{rows[0].where} has no step ({empty[0]} is {rows[0].cells.get(empty[0])!r} in every row)")
    if not names:
        found = sorted({str(n) for row in rows for n in row.cells})[:12]
        raise InputError(f"{source}: no step column; looked for {', '.join(STEP_NAMES)}, found {found}")
    fallback = writers if not trainers else [n for n in writers[:1] if _agree(rows, trainers, n)]
    used = [*trainers, *fallback]
    kept, lost = _placed(rows, used, source, bool(trainers))
    said = ", ".join(trainers or writers[:1])
    notes: list[str] = []
    if trainers and writers and not fallback:
        notes.append(f"steps are {said} (the writer's own {writers[0]} counts something else, such as calls of log)")
    if said == "_step":
        notes.append(
            "steps are the tracker's own _step, which counts calls of log unless the trainer passed its step (verl "
            "does, transformers and TRL do not): export train/global_step too"
        )
    if lost:
        named = ", ".join(sorted(lost)[:5])
        notes.append(f"{sum(lost.values())} value(s) without {said} were left out: {named}")
    return kept, said, notes


def _placed(
    rows: Sequence[Row], used: Sequence[str], source: str, may_lose: bool
) -> tuple[list[LogEntry], dict[str, int]]:
    kept: list[LogEntry] = []
    lost: dict[str, int] = {}
    odd: dict[str, tuple[str, Any]] = {}
    for row in rows:
        values = _scalars(row, odd)
        step = next((row.cells[n] for n in used if not _missing(row.cells.get(n))), None)
        if step is None and not may_lose:
            raise InputError(f"{row.where} has no step; every row of a run log needs one ({', '.join(STEP_NAMES)})")
        if step is None:
            for name in values:
                lost[name] = lost.get(name, 0) + 1
        else:
            kept.append(LogEntry(whole(step, row.where), values, row.file))
    known = {name for entry in kept for name in entry.values}
    for name, (where, value) in odd.items():
        if name in known:
            raise InputError(
                f"{where}: {name} is {value!r}, which is almost a number; write it as 1234.5 (other rows of {source} "
                "have numbers there)"
            )
    return kept, lost


def _as_written(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows in the order of writing, where they carry a clock (an export may be sorted by any column)."""
    for clock in CLOCKS:
        stamps = [row.cells.get(clock) for row in rows]
        if rows and not any(_missing(s) for s in stamps):
            keys = [number(s) for s in stamps]
            if not any(k is None or math.isnan(k) for k in keys):
                return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (rows[i].file, keys[i] or 0.0))]
            if all(isinstance(s, str) for s in stamps):
                return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (rows[i].file, str(stamps[i])))]
    return rows


def _agree(rows: Iterable[Row], trainers: Sequence[str], writer: str) -> bool:
    """True if the writer's step is the trainer's in every row that has both."""
    for row in rows:
        theirs = next((row.cells[n] for n in trainers if not _missing(row.cells.get(n))), None)
        own = row.cells.get(writer)
        if theirs is not None and not _missing(own) and whole(theirs, row.where) != whole(own, row.where):
            return False
    return True


def whole(value: object, where: str) -> int:
    """A step as an int.

    Raises:
        InputError: not a whole number from 0 up.
    """
    exact = None if isinstance(value, bool) else number(value)
    if exact is None or not math.isfinite(exact) or exact != int(exact) or exact < 0:
        raise InputError(f"{where} has step {value!r}; expected a whole number from 0 up")
    return int(exact)


def number(value: Any) -> float | None:
    """A cell as a number: NaN and infinity by any of their names, thousands grouped by commas; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        text = text.replace(",", "") if GROUPED.fullmatch(text) else text
        try:
            return float(text) if "_" not in text else None
        except ValueError:
            return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _missing(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan", "none", "null", "na", "n/a", "<na>")
    return isinstance(value, float) and math.isnan(value)


def _scalars(row: Row, odd: dict[str, tuple[str, Any]]) -> dict[str, float]:
    """The row's numbers by name; texts that begin like one go to `odd`, which the caller judges."""
    out: dict[str, float] = {}
    for name, value in row.cells.items():
        if name in STEP_NAMES or NOT_SCALARS.fullmatch(name) or _missing(value) or _of_media(name, row.cells):
            continue
        found = number(value)
        if found is None:
            if isinstance(value, str) and LIKE_A_NUMBER.fullmatch(value):
                odd.setdefault(name, (row.where, value))
        elif not math.isnan(found):
            out[name] = found
    return out


def _of_media(name: str, cells: Mapping[str, object]) -> bool:
    """True for parts of a logged table or picture (`completions.nrows`): W&B describes it by its `_type`."""
    return "." in name and f"{name.rpartition('.')[0]}._type" in cells
