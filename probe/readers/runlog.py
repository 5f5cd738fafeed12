"""RunLog: scalars of a run by step, from what trainers and trackers write.

Read by content, not by name: `trainer_state.json` (transformers, TRL), verl's file logger (`{"step", "data"}`
lines) and its console lines (`step:1 - key:value - ...`), JSONL or CSV with a step column (OpenRLHF, W&B's
`_step`), TensorBoard's CSV download and event files, trackio's SQLite file and its Parquet export.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import InputError

STEP_NAMES = ("step", "_step", "global_step", "train/global_step", "Step", "trainer/global_step")
NOT_SCALARS = ("_runtime", "_timestamp", "timestamp", "Wall time", "wall_time", "epoch", "id")
ALIASES: dict[str, tuple[str, ...]] = {
    "entropy": ("entropy", "train/entropy", "actor/entropy", "actor/entropy_loss", "policy/entropy", "entropy_loss"),
    "reward": ("reward", "train/reward", "critic/score/mean", "critic/rewards/mean", "rewards/mean"),
}
"""What the usual trainers call the same quantity, most specific first."""

Row = tuple[Any, Mapping[str, Any]]
Reader = Callable[[Path, str | None], Iterator[Row]]


@dataclass(frozen=True, eq=False)
class RunLog:
    """Scalars by step: `frame` has the steps as its index and one float column per scalar (NaN: not logged)."""

    frame: pd.DataFrame
    source: str = "memory"

    @classmethod
    def read(cls, path: str | Path, run: str | None = None) -> RunLog:
        """The scalars of a file, or of a folder's `trainer_state.json`, metrics or event files.

        Args:
            path: the file or folder.
            run: which run, where a file holds several (trackio).

        Raises:
            InputError: no such file, rows without a step, several runs, nothing numeric.
        """
        file = _the_file(Path(path))
        return cls.of(_rows(file, run), str(file))

    @classmethod
    def of(cls, rows: Iterable[Row | Mapping[str, Any]], source: str = "memory") -> RunLog:
        """A log of (step, {name: value}) pairs, or of dicts with a `step`."""
        by_step: dict[int, dict[str, float]] = {}
        for number, row in enumerate(rows, start=1):
            step, values = row if isinstance(row, tuple) else (row.get("step"), row)
            # Training and evaluation of one step come in separate lines: they share a row here.
            by_step.setdefault(_step(step, number, source), {}).update(_scalars(values))
        frame = pd.DataFrame.from_dict(by_step, orient="index").sort_index()
        if frame.empty:
            raise InputError(f"{source}: no scalars by step; expected rows with a step and numbers")
        frame.index.name = "step"
        return cls(frame[sorted(frame.columns)].astype(float), source)

    @property
    def names(self) -> list[str]:
        """Names of the scalars."""
        return list(self.frame.columns)

    @property
    def steps(self) -> list[int]:
        """Steps, sorted."""
        return [int(s) for s in self.frame.index]

    def fingerprint(self) -> str:
        """Hex hash of names, steps and values; the order of lines is no part of it."""
        digest = hashlib.sha256(json.dumps([self.names, self.steps]).encode())
        digest.update(np.ascontiguousarray(self.frame.to_numpy(float)).tobytes())
        return digest.hexdigest()[:32]

    def series(self, name: str) -> pd.Series:
        """One scalar by step, steps without it left out; `entropy` and `reward` also under trainers' own names.

        Raises:
            InputError: no such scalar (with those there are).
        """
        for column in (name, *ALIASES.get(name, ())):
            if column in self.frame.columns:
                return self.frame[column].dropna()
        raise InputError(f"{self.source}: no scalar {name!r}; it has {', '.join(self.names[:30])}")


def _step(value: Any, number: int, source: str) -> int:
    if isinstance(value, bool) or value is None or (isinstance(value, float) and math.isnan(value)):
        raise InputError(f"{source}: row {number} has no step; every row of a run log needs one ({STEP_NAMES})")
    try:
        exact = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: row {number} has step {value!r}; expected a whole number") from error
    if exact != int(exact):
        raise InputError(f"{source}: row {number} has step {value!r}; expected a whole number")
    return int(exact)


def _scalars(values: Mapping[str, Any]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, value in values.items():
        if name in STEP_NAMES or name in NOT_SCALARS:
            continue
        if isinstance(value, str) and name not in out:
            try:
                value = float(value)
            except ValueError:
                continue
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
            out[name] = float(value)
    return out


def _the_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"no run log at {path}; expected a file or a trainer's folder")
    direct = [path / n for n in ("trainer_state.json", "metrics.jsonl") if (path / n).is_file()]
    events = sorted(path.glob("*tfevents*"))
    inner = sorted(path.glob("checkpoint-*/trainer_state.json"), key=lambda f: (len(f.parent.name), f.parent.name))
    for found in (direct, events[-1:], inner[-1:], sorted(path.glob("*.jsonl")), sorted(path.glob("*.csv"))):
        if found:
            return found[0]
    raise InputError(f"no run log in {path}; looked for trainer_state.json, metrics, event files and checkpoint-*/")


def _rows(file: Path, run: str | None) -> Iterator[Row]:
    return next(read for fits, read in READERS if fits(file))(file, run)


def _events(file: Path, _: str | None) -> Iterator[Row]:
    from probe.readers.tensorboard import scalars

    return ((step, {tag: value}) for step, tag, value in scalars(file))


def _parquet(file: Path, run: str | None) -> Iterator[Row]:
    return _table([{str(k): v for k, v in r.items()} for r in pd.read_parquet(file).to_dict("records")], file, run)


def _csv(file: Path, run: str | None) -> Iterator[Row]:
    with file.open(newline="", encoding="utf-8") as handle:
        return _table(list(csv.DictReader(handle)), file, run)


def _json(file: Path, run: str | None) -> Iterator[Row]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: malformed JSON ({error.msg}); a truncated file?") from error
    rows = value.get("log_history") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise InputError(f"{file}: no log_history and not a list; expected a trainer_state.json or a list of rows")
    # The trainer's closing summary repeats the last step with run totals.
    return _table([r for r in rows if "train_runtime" not in r], file, run)


def _lines(file: Path, run: str | None) -> Iterator[Row]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{file}, line {number}: malformed JSON ({error.msg}); a truncated file?") from error
        if not isinstance(row, dict):
            raise InputError(f"{file}, line {number}: expected a JSON object with a step and numbers; got {line:.60}")
        # verl's file logger nests the scalars.
        rows.append({"step": row.get("step"), **row["data"]} if isinstance(row.get("data"), dict) else row)
    return _table(rows, file, run)


def _console(file: Path, _: str | None) -> Iterator[Row]:
    """verl's console logger: `step:12 - actor/entropy:0.31 - critic/score/mean:0.5`."""
    for match in re.finditer(r"\bstep:(\d+) - (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE):
        pairs = (part.rpartition(":") for part in match[2].split(" - "))
        yield int(match[1]), {name.strip(): re.sub(r"^np\.\w+\((.*)\)$", r"\1", value) for name, _, value in pairs}


def _table(rows: list[dict[str, Any]], file: Path, run: str | None) -> Iterator[Row]:
    if not rows:
        raise InputError(f"{file}: empty; expected rows with a step and numbers")
    names = {k for row in rows for k in row}
    step = next((n for n in STEP_NAMES if n in names), None)
    if step is None:
        raise InputError(f"{file}: no step column; looked for {', '.join(STEP_NAMES)}, found {sorted(names)[:12]}")
    runs = {str(row["run_name"]) for row in rows if row.get("run_name")}
    if runs:
        rows = [r for r in rows if str(r.get("run_name")) == _one_run(runs, run, file)]
    if {"Wall time", "Value"} <= names:
        # TensorBoard's download holds one scalar, named by the file only.
        return ((row[step], {re.sub(r"^.*tag-", "", file.stem): row["Value"]}) for row in rows)
    return ((row.get(step), row) for row in rows)


def _one_run(runs: set[str], run: str | None, file: Path) -> str:
    if run is None and len(runs) == 1:
        return next(iter(runs))
    if run not in runs:
        raise InputError(f"{file}: holds runs {sorted(runs)}; say which with run=")
    return run


def _trackio(file: Path, run: str | None) -> Iterator[Row]:
    """trackio's database: table `metrics` of run_name, step and the scalars as JSON."""
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{file}: not a trackio database ({error})") from error
    if not found:
        raise InputError(f"{file}: no metrics in this trackio database")
    name = _one_run({str(r[0]) for r in found}, run, file)
    return ((step, json.loads(metrics)) for owner, step, metrics in found if str(owner) == name)


def _named(*patterns: str) -> Callable[[Path], bool]:
    return lambda file: any(file.match(pattern) for pattern in patterns)


def _says(pattern: str) -> Callable[[Path], bool]:
    return lambda file: re.search(pattern, file.read_text(encoding="utf-8")) is not None


READERS: tuple[tuple[Callable[[Path], bool], Reader], ...] = (
    (_named("*tfevents*"), _events),
    (_named("*.db", "*.sqlite"), _trackio),
    (_named("*.parquet"), _parquet),
    (_named("*.csv"), _csv),
    (_named("*.json"), _json),
    (_says(r"\bstep:\d+ - "), _console),
    (_says(r"^\s*\[\s*\{"), _json),
    (_named("*"), _lines),
)
"""What a run log looks like, and what reads it; the first that fits does."""
