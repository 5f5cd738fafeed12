"""Where a run's scalars lie and what reads each form: rows as written, with the place of each for errors."""

from __future__ import annotations

import csv
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import InputError
from probe.readers.lines import json_objects, parsed, text_of
from probe.readers.run_values import STEP_NAMES, Row
from probe.readers.tensorboard import scalars, started
from probe.readers.wandb_file import history

Reader = Callable[[Path, str | None], Iterator[Row]]
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
EVENTS = "*tfevents*"


def rows_at(path: Path, run: str | None) -> tuple[list[Row], str]:
    """All rows of the one log at a path, files in the order they were begun, and the path that was read.

    Raises:
        InputError: nothing there, several logs (named), a form that nothing here reads.
    """
    files, inside = _files_of(path, run)
    rows = [row._replace(file=n) for n, file in enumerate(files) for row in _rows(file, None if inside else run)]
    return rows, str(files[0] if len(files) == 1 else files[0].parent)


def _files_of(path: Path, run: str | None) -> tuple[list[Path], bool]:
    """The files of one log, and whether `run` was used up to choose among folders."""
    if path.is_file():
        return [path], False
    if not path.is_dir():
        raise InputError(f"no run log at {path}; expected a file or a trainer's folder")

    direct = [path / n for n in ("trainer_state.json", "metrics.jsonl") if (path / n).is_file()]
    if direct:
        return direct[:1], False
    if events := sorted(path.glob(EVENTS), key=started):
        return events, False
    if states := sorted(path.glob("checkpoint-*/trainer_state.json"), key=lambda f: _numbers(f.parent.name)):
        _check_one_history(states)
        return states[-1:], False
    for pattern, what in ((EVENTS, "event files"), ("*.wandb", "W&B runs")):
        if folders := _folders(path, pattern):
            chosen = _one(folders, run, path, what)
            return sorted(chosen.glob(pattern), key=started), True
    for pattern in ("*.db", "*.jsonl", "*.csv"):
        if found := sorted(f for f in path.glob(pattern) if not f.name.startswith(".")):
            if len(found) > 1:
                named = ", ".join(f.name for f in found[:6])
                raise InputError(f"{path}: holds {len(found)} files that could be a run log ({named}); give one")
            return found, False
    raise InputError(
        f"no run log in {path}; looked for trainer_state.json, metrics, event files (also in runs/*), checkpoint-*/, "
        "*.wandb and trackio's *.db"
    )


def _numbers(name: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", name)]


def _folders(path: Path, pattern: str) -> list[Path]:
    """Folders at most three down that hold such files; a link to one of them is the same folder."""
    found = {f.parent.resolve(): f.parent for depth in ("", "*/", "*/*/", "*/*/*/") for f in path.glob(depth + pattern)}
    return sorted(found)


def _one(folders: Sequence[Path], run: str | None, path: Path, what: str) -> Path:
    if len(folders) == 1 and run is None:
        return folders[0]
    chosen = [f for f in folders if run is not None and run in (f.name, str(f))]
    if len(chosen) != 1:
        named = ", ".join(f.name for f in folders[:8])
        raise InputError(f"{path}: holds {what} in {len(folders)} folders ({named}); say which with run=, or give it")
    return chosen[0]


def _check_one_history(states: Sequence[Path]) -> None:
    """Raise if two checkpoints tell different histories: then one is of an abandoned branch, and which is unknown."""
    told: dict[tuple[Any, str], tuple[Any, str]] = {}
    for file in states:
        for row in _object(file).get("log_history", []):
            for name, value in row.items():
                if "runtime" in name or "per_second" in name or not isinstance(value, (int, float)):
                    continue
                before, where = told.setdefault((row.get("step"), name), (value, file.parent.name))
                if before != value and not (math.isnan(before) and math.isnan(value)):
                    raise InputError(
                        f"{file.parent.parent}: {where} and {file.parent.name} tell different histories ({name} at "
                        f"step {row.get('step')}: {before} and {value}): a run that was resumed and went another way. "
                        "Give the trainer_state.json of the checkpoint you mean"
                    )


def _rows(file: Path, run: str | None) -> Iterator[Row]:
    for patterns, read in BY_NAME:
        if any(file.match(p) for p in patterns):
            return read(file, run)
    with file.open("rb") as handle:
        head = handle.read(1 << 16)
    if head.startswith(b":W&B"):
        return _wandb(file, run)
    if b"\0" in head:
        raise InputError(f"{file}: a binary file of a form that is not known here; export the run's scalars as CSV")
    text = text_of(file)
    return next((read for form, read in BY_TEXT if re.search(form, text)), _lines)(file, run)


def _events(file: Path, _: str | None) -> Iterator[Row]:

    for step, tag, value in scalars(file):
        yield Row({"step": step, tag: value}, f"{file}: {tag}")


def _wandb(file: Path, _: str | None) -> Iterator[Row]:

    for number, cells in enumerate(history(file)):
        yield Row(cells, f"{file}, call {number} of log")


def _parquet(file: Path, run: str | None) -> Iterator[Row]:
    try:
        records = pd.read_parquet(file).to_dict("records")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a Parquet file that can be read ({str(error).splitlines()[0]})") from error
    rows = [Row({str(k): v for k, v in r.items()}, f"{file}, row {n}") for n, r in enumerate(records)]
    return _table(rows, file, run)


def _csv(file: Path, run: str | None) -> Iterator[Row]:
    lines = text_of(file).splitlines() if "\r" in text_of(file) else text_of(file).split("\n")
    mark = _delimiter(lines[0] if lines else "")
    reader = csv.reader(lines, delimiter=mark)
    header = next(reader, [])
    rows: list[Row] = []
    for cells in reader:
        where = f"{file}, line {reader.line_num}"
        if not any(c.strip() for c in cells):
            continue
        if len(cells) > len(header):
            raise InputError(f"{where}: {len(cells)} fields under a header of {len(header)}; a comma inside a number?")
        rows.append(Row(dict(zip(header, cells)), where))
    return _table(_decimal_points(rows) if mark == ";" else rows, file, run)


def _delimiter(header: str) -> str:
    """The mark that cuts the header so that a step is among its names."""
    for mark in (",", ";", "\t"):
        if set(next(csv.reader([header], delimiter=mark), [])) & set(STEP_NAMES):
            return mark
    return ","


def _decimal_points(rows: Sequence[Row]) -> list[Row]:
    """Cells of a file cut by semicolons, whose commas are decimal (as spreadsheets of half the world write them)."""
    commas = any(DECIMAL_COMMA.fullmatch(c) for r in rows for c in r.cells.values())
    for row in rows:
        dotted = next((c for c in row.cells.values() if commas and re.fullmatch(r"[+-]?\d+\.\d+", c)), None)
        if dotted is not None:
            raise InputError(f"{row.where}: {dotted} beside numbers with decimal commas: one mark for decimals, please")
    return [
        r._replace(cells={k: v.replace(",", ".") if DECIMAL_COMMA.fullmatch(v) else v for k, v in r.cells.items()})
        for r in rows
    ]


def _object(file: Path) -> Any:
    try:
        return json.loads(text_of(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: malformed JSON ({error.msg}); a truncated file?") from error


def _json(file: Path, run: str | None) -> Iterator[Row]:
    value = _object(file)
    rows = value.get("log_history") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise InputError(f"{file}: no log_history and not a list; expected a trainer_state.json or a list of rows")
    return _table([Row(r, f"{file}, row {n}") for n, r in enumerate(rows)], file, run)


def _lines(file: Path, run: str | None) -> Iterator[Row]:
    rows: list[Row] = []
    for number, row in json_objects(file, "a JSON object with a step and numbers"):
        # verl's file logger nests the scalars.
        nested = row.get("data")
        cells = {"step": row.get("step"), **nested} if isinstance(nested, dict) else row
        rows.append(Row(cells, f"{file}, line {number}"))
    return _table(rows, file, run)


def _console(file: Path, _: str | None) -> Iterator[Row]:
    """verl's console logger: `step:12 - actor/entropy:0.31 - critic/score/mean:0.5`."""
    for match in re.finditer(r"\bstep:(\d+) - (.*)$", text_of(file), re.MULTILINE):
        pairs = (part.rpartition(":") for part in match[2].split(" - "))
        values = {name.strip(): re.sub(r"^np\.\w+\((.*)\)$", r"\1", value.strip()) for name, _, value in pairs}
        yield Row({**values, "step": match[1]}, f"{file}: step {match[1]}")


def _table(rows: Sequence[Row], file: Path, run: str | None) -> Iterator[Row]:
    if not rows:
        raise InputError(f"{file}: empty; expected rows with a step and numbers")
    runs = {str(r.cells["run_name"]) for r in rows if r.cells.get("run_name")}
    if runs:
        chosen = _one_run(runs, run, file)
        rows = [r for r in rows if str(r.cells.get("run_name")) == chosen]
    if any(name.endswith("__MIN") for name in rows[0].cells):
        rows = _of_chart(rows, run, file)
    if {"Wall time", "Value"} <= set(rows[0].cells):
        # TensorBoard's download holds one scalar, named by the file only.
        tag = re.sub(r"^.*tag-", "", file.stem)
        keep = ("Step", "Wall time")
        rows = [r._replace(cells={**{k: r.cells.get(k) for k in keep}, tag: r.cells["Value"]}) for r in rows]
    return iter(rows)


def _of_chart(rows: Sequence[Row], run: str | None, file: Path) -> list[Row]:
    """W&B's download of a chart: `<run> - <scalar>` beside its `__MIN` and `__MAX`, `Step` its own counter.

    After W&B's documentation: no file that its page wrote was at hand. A row may belong to other runs alone, and the
    counter may be there once more, by run.
    """
    names = [n for n in rows[0].cells if " - " in n and not n.endswith(("__MIN", "__MAX"))]
    of_run = {n: n.rpartition(" - ")[::2] for n in names}
    chosen = _one_run({named for named, _ in of_run.values()}, run, file)
    kept = {n: scalar for n, (named, scalar) in of_run.items() if named == chosen and scalar != "_step"}
    steps = {n: "_step" if n == "Step" else n for n in rows[0].cells if n in STEP_NAMES}
    own = [r for r in rows if any(r.cells.get(n) not in (None, "") for n in kept)]
    return [r._replace(cells={new: r.cells.get(old) for old, new in {**steps, **kept}.items()}) for r in own]


def _one_run(runs: set[str], run: str | None, file: Path) -> str:
    if run is None and len(runs) == 1:
        return next(iter(runs))
    if run not in runs:
        raise InputError(f"{file}: holds runs {sorted(runs)}; say which with run=")
    return run


def _trackio(file: Path, run: str | None) -> Iterator[Row]:
    """trackio's database: table `metrics` of run_name, step and the scalars as JSON; newer ones also name a run_id."""

    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            columns = {str(r[1]) for r in database.execute("PRAGMA table_info(metrics)")}
            owner = "run_id" if "run_id" in columns else "run_name"
            asked = f"SELECT {owner}, run_name, step, metrics FROM metrics ORDER BY id"
            found = database.execute(asked).fetchall()
    except sqlite3.DatabaseError as error:
        raise InputError(f"{file}: not a trackio database ({error})") from error
    if not found:
        raise InputError(f"{file}: no metrics in this trackio database")
    runs = {str(key): str(name) for key, name, _, _ in found}
    fits = [key for key, name in runs.items() if run in (None, key, name)]
    if len(fits) != 1:
        named = sorted(set(runs.values())) if len(set(runs.values())) == len(runs) else sorted(runs.items())
        raise InputError(f"{file}: holds runs {named}; say which with run= (a name, or an id where names repeat)")
    return (
        Row({"step": step, **_metrics(metrics, f"{file}, row {n}")}, f"{file}, row {n}")
        for n, (key, _, step, metrics) in enumerate(found, start=1)
        if str(key) == fits[0]
    )


def _metrics(text: object, where: str) -> dict[str, Any]:
    try:
        found = parsed(text.decode() if isinstance(text, bytes) else str(text), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: metrics are no text ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: metrics are {text!r:.60}; expected a JSON object of scalars")
    return found


BY_NAME: tuple[tuple[tuple[str, ...], Reader], ...] = (
    ((EVENTS,), _events),
    (("*.wandb",), _wandb),
    (("*.db", "*.sqlite"), _trackio),
    (("*.parquet",), _parquet),
    (("*.csv", "*.tsv"), _csv),
    (("*.json",), _json),
)
"""What a run log is called, and what reads it; other files are known by what they say."""

BY_TEXT: tuple[tuple[str, Reader], ...] = (
    (r"\bstep:\d+ - ", _console),
    (r"\A\s*\[\s*\{", _json),
)
"""What a text says somewhere, and what reads it, the first that fits; any other text is JSON lines."""
