"""Responses other programs logged, as rows: `item, sample, prompt, text, gold, n_tokens, truncated, group` and more.

| writer | known by | what is read |
|---|---|---|
| lm-evaluation-harness samples | `resps`, `doc_id` | text, or choices by log-likelihood; repeats; one filter |
| inspect `.json`, `.eval` (zstd too) | `samples` with `output` | epochs, targets, choices, metadata |
| verl `validation_data_dir` | `input`, `output`, `gts` | a file a step; the prompt's text names the item |
| TRL `log_completions` | `prompt`, `completion` | text or messages; a file a step |
| OpenRLHF, SkyRL, HumanEval, one's own | a response under a usual name | JSONL, JSON, CSV as text, Parquet |

A folder is one log: its files' steps are columns, their own or by the writers' own names (`20.jsonl`,
`completions_00020.parquet`, `checkpoint-20/samples_task.jsonl`). Read by shape, not by name. Never imports torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import InputError
from probe.readers import archives, response_rows
from probe.readers.lines import json_objects, parsed, text_of
from probe.readers.response_rows import Row
from probe.readers.tables import Line, csv_rows, memory_rows

COLUMNS = ("item", "sample", "prompt", "text", "gold", "n_tokens", "truncated", "group")
SUFFIXES = (".jsonl", ".json", ".eval", ".csv", ".tsv", ".parquet")
STEP_FOLDER = re.compile(r"(?:checkpoint|ckpt|global_?step|step|iter)[-_]?(\d+)")


def read_responses(path: Path) -> pd.DataFrame:
    """The responses of a log, one row each; `n_tokens` and `truncated` are NaN/None where the log does not say.

    Further columns: `step` where the log has them, `decoding`, `verdict`, `choices`, `right_choice` where it says
    them, and whatever else it says of an item or response. `gold` is a text, or a tuple of texts any of which counts.

    Raises:
        InputError: nothing there, a malformed line (its number), a shape that is none of the above, no response, the
            same responses twice, files of which some have a step and others not.
    """
    files = _files(path)
    found: list[dict[str, object]] = []
    for file in files:
        found += _of_file(file, path)
    if not found:
        raise InputError(f"{path}: no responses in {len(files)} file(s)")
    found = [_worded(row) for row in found]
    _steps(found, path)
    _doubled(found, path)
    frame = pd.DataFrame(_numbered(found))
    frame = frame.reindex(columns=[*COLUMNS, *(c for c in frame.columns if c not in COLUMNS)])
    keys = [c for c in ("step", "item", "sample", "decoding") if c in frame]
    twice = frame.loc[frame.duplicated(keys), "item"].tolist()
    if twice:
        raise InputError(f"{path}: item(s) {twice[:5]} twice with one sample number; ids must be unique in a log")
    return frame


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: not a log of responses; expected {', '.join(SUFFIXES)} or a folder of them")
        return [path]
    if not path.is_dir():
        raise InputError(f"no log at {path}; expected {', '.join(SUFFIXES)} or a folder of them")
    inside = (f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file())
    found = [f for f in inside if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    found = [f for f in found if not (f.suffix == ".json" and f.name.startswith(("results", "header", "config")))]
    if not found:
        raise InputError(f"{path}: no log in this folder; expected files {', '.join(SUFFIXES)}")
    return sorted(found, key=lambda f: (len(f.name), str(f)))


def _of_file(file: Path, root: Path) -> list[dict[str, object]]:
    """The responses of one file, with the step that its name or folder says where its rows say none."""
    records = _records(file)
    rows = response_rows.read(records, str(file), [_where(file, r, n) for n, r in enumerate(records, start=1)])
    named = _named_step(file, root) if file != root else None
    task = re.match(r"samples_(.+?)_\d{4}-\d\d-\d\dT", file.name)
    return [
        {
            **r,
            **({"step": named} if r.get("step") is None and named is not None else {}),
            "task": task[1] if task else None,
        }
        for r in rows
    ]


def _named_step(file: Path, root: Path) -> int | None:
    for part in reversed(file.parent.relative_to(root).parts):
        found = STEP_FOLDER.fullmatch(part)
        if found:
            return int(found[1])
    from probe.readers.writers import step_of  # imports pyarrow

    return step_of(file)


def _where(file: Path, record: Row, number: int) -> str:
    return f"{file}, line {record.number}" if isinstance(record, Line) else f"{file}, record {number}"


def _records(file: Path) -> list[Row]:
    """The objects of a file, each of which holds one response or several."""
    if file.suffix == ".eval":
        return list(archives.inspect_samples(file))
    if file.suffix in (".csv", ".tsv"):
        return list(csv_rows(file, "\t" if file.suffix == ".tsv" else ","))
    if file.suffix == ".parquet":
        return _parquet(file)
    if file.suffix == ".json":
        whole = parsed(text_of(file), str(file))
        samples = whole.get("samples", [whole]) if isinstance(whole, dict) else whole
        if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
            raise InputError(f"{file}: expected one JSON object per response or item in a list, or under `samples`")
        return list(samples)
    return [Line(row, number) for number, row in json_objects(file, "one JSON object per response or item")]


def _parquet(file: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(memory_rows(pq.read_table(file), str(file)))
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: truncated or not Parquet ({error})") from error


def _steps(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Raises: InputError where only some responses have a step; several tasks become groups."""
    with_step = sum(r.get("step") is not None for r in rows)
    if 0 < with_step < len(rows):
        raise InputError(
            f"{path}: {with_step} of {len(rows)} responses have a step and the others none; give a series its steps "
            "(a column `step`, or files named by it), or its files one by one"
        )
    tasks = {r["task"] for r in rows}
    for row in rows:
        task = row.pop("task")
        if len(tasks) > 1:
            row.update(item=f"{task}/{row['item']}", group=str(task))
        if not with_step:
            row.pop("step", None)


def _doubled(rows: Sequence[Row], path: Path) -> None:
    """Raises: InputError where every response without a number stands there more than once: a file copied twice."""
    counts = Counter(repr(sorted(r.items(), key=lambda kv: str(kv[0]))) for r in rows if _is_unnumbered(r))
    if counts and min(counts.values()) > 1:
        named = next(str(r["item"]) for r in rows if _is_unnumbered(r))
        raise InputError(
            f"{path}: every response stands there twice or more (item {named} ...): a file copied twice? Samples that "
            "are really alike need a number each (a column `sample`)"
        )


def _is_unnumbered(row: Row) -> bool:
    """True for a response with its item's id and no number; of items named by their prompts several may be alike."""
    return row["sample"] is None and not row.get("by_prompt")


def _worded(row: dict[str, Any]) -> dict[str, object]:
    """A response to one of several wordings belongs to an item of its own, named as prompt files name it."""
    variant = row.get("variant")
    if variant is None or variant != variant or not str(variant):  # NaN: an empty cell
        return row
    problem = str(row["item"]).removesuffix(f"/{variant}")
    return {**row, "item": f"{problem}/{variant}", "problem": problem, "variant": str(variant)}


def _numbered(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Responses that the log does not number are the samples of their item in its order."""
    seen = Counter[Any]()
    out: list[dict[str, object]] = []
    for row in rows:
        at = (row.get("step"), row["item"], row.get("decoding"))
        row = {k: v for k, v in row.items() if k != "by_prompt"}
        out.append({**row, "sample": seen[at] if row["sample"] is None else row["sample"]})
        seen[at] += 1
    return out
