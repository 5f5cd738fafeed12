"""Responses other programs logged, as rows `item, sample, prompt, text, gold, n_tokens, truncated, group`.

Read by shape, not by file name: lm-evaluation-harness samples (`--log_samples`), inspect logs (`.json`, and the
zip archive `.eval`) and plain JSONL with one response (or list of them) per line. Never imports torch.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from probe.errors import InputError

COLUMNS = ("item", "sample", "prompt", "text", "gold", "n_tokens", "truncated", "group")
TEXT = ("text", "response", "responses", "output", "outputs", "completion", "completions", "generation", "generations")
GOLD = ("gold", "answer", "target", "ground_truth", "label")
PROMPT = ("prompt", "question", "problem", "input")
NAME = ("item", "id", "doc_id", "idx")
Row = Mapping[str, Any]
Reader = Callable[[Row, str], Iterable[Row]]


def read_responses(path: Path) -> pd.DataFrame:
    """The responses of a log, one row each; `n_tokens` and `truncated` are NaN/None where the log does not say.

    Raises:
        InputError: no such file, a malformed line (its number), a shape that is none of the three, no response.
    """
    if not path.is_file():
        raise InputError(f"no log at {path}; expected .jsonl, .json or .eval")
    rows = _records(path)
    kind = _shape(rows, path)
    if kind is _harness:  # the same document is logged once per answer filter; responses are the same
        rows = [r for r in rows if r.get("filter") == rows[0].get("filter")]
    found = [row for number, record in enumerate(rows, start=1) for row in kind(record, f"{path}, record {number}")]
    if not found:
        raise InputError(f"{path}: no responses in {len(rows)} records")
    frame = pd.DataFrame(found).reindex(columns=COLUMNS)
    twice = frame.loc[frame.duplicated(["item", "sample"]), "item"].tolist()
    if twice:
        raise InputError(f"{path}: item(s) {twice[:5]} twice with one sample number; ids must be unique in a log")
    return frame


def _records(path: Path) -> list[Row]:
    if path.suffix == ".eval":
        return _archive(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            whole = json.loads(text)
            samples = whole.get("samples", []) if isinstance(whole, dict) else whole
            return cast("list[Row]", samples)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: malformed JSON ({error.msg} at column {error.colno})") from error
    return rows


def _archive(path: Path) -> list[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith("samples/") and n.endswith(".json"))
            return [json.loads(archive.read(name)) for name in names]
    except (zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not an inspect log ({error})") from error


def _shape(rows: Sequence[Row], path: Path) -> Reader:
    if not rows or not all(isinstance(r, dict) for r in rows):
        raise InputError(f"{path}: {len(rows)} records; expected one JSON object per response or item")
    first = rows[0]
    for fits, read in READERS:
        if fits(first):
            return read
    raise InputError(
        f"{path}: fields {sorted(first)} hold no response; expected one of {list(TEXT)}, or resps (lm-eval)"
    )


def _harness(row: Row, where: str) -> Iterable[Row]:
    """lm-evaluation-harness: resps is a list over requests of lists over repeats."""
    texts = [text for request in row["resps"] for text in (request if isinstance(request, list) else [request])]
    if not all(isinstance(t, str) for t in texts):
        raise InputError(f"{where}: responses are log-likelihoods, not text; log a generate_until task instead")
    shared = {"item": str(row["doc_id"]), "prompt": _harness_prompt(row), "gold": str(row["target"]), "group": "all"}
    for sample, text in enumerate(texts):
        yield {**shared, "sample": sample, "text": text}


def _harness_prompt(row: Row) -> str | None:
    arguments = row.get("arguments")
    if isinstance(arguments, dict):
        arguments = next(iter(arguments.values()), {})
        return str(next(iter(arguments.values()), "")) if isinstance(arguments, dict) else None
    if isinstance(arguments, list) and arguments:
        return str(arguments[0][0]) if isinstance(arguments[0], list) else str(arguments[0])
    return None


def _inspect(row: Row, where: str) -> Iterable[Row]:  # noqa: ARG001
    """inspect: one record per (id, epoch); an errored sample is missing, not wrong."""
    if row.get("error"):
        return
    output = row["output"]
    choice = (output.get("choices") or [{}])[0]
    text = output.get("completion")
    if text is None:
        text = choice.get("message", {}).get("content", "")
    if isinstance(text, list):
        text = "".join(part.get("text", "") for part in text)
    target = row["target"]
    yield {
        "item": str(row["id"]),
        "sample": int(row.get("epoch", 1)) - 1,
        "prompt": row["input"] if isinstance(row.get("input"), str) else None,
        "text": text,
        "gold": str(target[0] if isinstance(target, list) else target),
        "n_tokens": (output.get("usage") or {}).get("output_tokens"),
        "truncated": choice.get("stop_reason") == "max_tokens" if "stop_reason" in choice else None,
        "group": "all",
    }


def _plain(row: Row, where: str) -> Iterable[Row]:
    name, texts = _first(row, NAME), _first(row, TEXT)
    if name is None:
        raise InputError(f"{where}: no id; expected one of {list(NAME)}, got {sorted(row)}")
    gold, prompt = _first(row, GOLD), _first(row, PROMPT)
    shared = {
        "item": str(name),
        "prompt": prompt,
        "gold": None if gold is None else str(gold),
        "n_tokens": row.get("n_tokens"),
        "truncated": row.get("truncated"),
        "group": str(row.get("group", "all")),
    }
    many = texts if isinstance(texts, list) else [texts]
    start = int(row.get("sample", 0))
    for sample, text in enumerate(many, start=start):
        if not isinstance(text, str):
            raise InputError(f"{where}: response {sample} is {type(text).__name__}, not text")
        yield {**shared, "sample": sample, "text": text}


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[n] for n in names if row.get(n) is not None), None)


READERS: tuple[tuple[Callable[[Row], bool], Reader], ...] = (
    (lambda first: {"resps", "target"} <= set(first), _harness),
    (lambda first: "target" in first and isinstance(first.get("output"), dict), _inspect),
    (lambda first: _first(first, TEXT) is not None, _plain),
)
"""What the first record of a log looks like, and what reads all of them; the first that fits does."""
