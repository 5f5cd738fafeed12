"""Responses as trainers write them, under the names of the rollout log.

| writer | files | what it lacks |
|---|---|---|
| this project's recorder | `rollouts/step-*.parquet` | nothing |
| TRL `log_completions` | `completions/completions_*.parquet` | ids, log-probs, entropies, mask, weights of rewards |
| verl `rollout_data_dir` | `<step>.jsonl`, special tokens stripped | ids, log-probs, entropies, advantages, groups |
| OpenRLHF | `*.jsonl` of prompt, output, reward | the same, and often `step` |

Parquet in the log's own columns is opened lazily; text logs are small and read whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from probe.errors import InputError
from probe.readers.schema import COLUMNS

SUFFIXES = (".parquet", ".jsonl")
ALIASES = {
    "response_text": ("completion", "output", "response"),
    "prompt_text": ("prompt", "input", "question"),
    "reward": ("score", "rewards"),
    "group_uid": ("uid",),
    "step": ("global_step", "global_steps"),
}
NAME_STEP = re.compile(r"(\d+)$")


def open_log(path: str | Path | Sequence[str | Path]) -> tuple[pads.Dataset, str]:
    """The rows at a path (or a list of paths) as one lazy dataset, and the path as text.

    Raises:
        InputError: nothing there, a truncated or foreign file (named), columns that differ in type.
    """
    paths = [Path(p) for p in ([path] if isinstance(path, (str, Path)) else path)]
    files = [f for p in paths for f in _files(p)]
    source = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files from {paths[0]}"
    if all(f.suffix == ".jsonl" for f in files):
        return pads.dataset(pa.concat_tables([_jsonl(f) for f in files], promote_options="permissive")), source
    if any(f.suffix == ".jsonl" for f in files):
        raise InputError(f"{source}: JSONL and Parquet files side by side; give the files of one log")
    schema = _one_schema(files, source)
    if "response_token_ids" in schema.names or "response_text" in schema.names:
        return pads.dataset([str(f) for f in files], schema=schema, format="parquet"), source
    tables = [renamed(pq.read_table(f), f) for f in files]
    return pads.dataset(pa.concat_tables(tables, promote_options="permissive")), source


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: not a rollout log; expected .parquet or .jsonl, or a folder of them")
        return [path]
    # A recorder's scratch file starts with a dot: a run that was killed leaves whole files only.
    found = [f for f in path.glob("*") if f.suffix in SUFFIXES and not f.name.startswith(".")]
    if not found:
        for inner in ("rollouts", "completions"):
            if (path / inner).is_dir():
                return _files(path / inner)
        raise InputError(f"no rollout log at {path}; expected a .parquet or .jsonl file, or a folder of them")
    return sorted(found, key=lambda f: (len(f.stem), f.name))


def _one_schema(files: Sequence[Path], source: str) -> pa.Schema:
    schemas: dict[Path, pa.Schema] = {}
    broken: dict[Path, str] = {}
    for file in files:
        try:
            schemas[file] = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            broken[file] = str(error).splitlines()[0]
    if broken:
        named = "; ".join(f"{f.name} ({why})" for f, why in broken.items())
        raise InputError(
            f"{source}: truncated or not Parquet: {named}. The other {len(schemas)} file(s) are whole: remove or "
            "copy the broken one again, or give the whole files as a list (nothing was changed)."
        )
    try:
        return pa.unify_schemas([s.remove_metadata() for s in schemas.values()], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{source}: files whose columns differ in type cannot be one log: {error}") from error


def _jsonl(file: Path) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{file}, line {number}: malformed JSON ({error.msg}); a truncated file?") from error
        if not isinstance(row, dict):
            raise InputError(f"{file}, line {number}: expected one JSON object per response; got {line[:60]!r}")
        rows.append(row)
    if not rows:
        raise InputError(f"{file}: empty; expected one JSON object per response")
    return renamed(pa.Table.from_pylist([_flat(r) for r in rows]), file)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without nested objects (Arrow needs one type per column, extras may be anything)."""
    kept = {k: v for k, v in row.items() if k in COLUMNS or isinstance(v, (int, float, str, bool))}
    texts = (*ALIASES["prompt_text"], *ALIASES["response_text"])
    return {**kept, **{k: v for k, v in row.items() if k in texts}}


def renamed(table: pa.Table, file: Path) -> pa.Table:
    """A trainer's table under the log's names; a step in the file's name serves where no column has one."""
    for name, aliases in ALIASES.items():
        theirs = next((a for a in aliases if a in table.column_names), None)
        if name not in table.column_names and theirs is not None:
            table = table.rename_columns({theirs: name})
    if "step" not in table.column_names and (found := NAME_STEP.search(file.stem)):
        table = table.append_column("step", pa.array([int(found[1])] * table.num_rows, pa.int64()))
    for name in ("prompt_text", "response_text"):
        if name in table.column_names and not _is_text(table[name].type):
            table = _from_messages(table, name, file)
    if "reward" not in table.column_names:
        table = _with_single_reward(table)
    return table


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _from_messages(table: pa.Table, name: str, file: Path) -> pa.Table:
    """Conversations: the text of their turns, and the turns themselves as JSON for the chat template."""
    turns = table[name].to_pylist()
    if not all(isinstance(t, list) and all(isinstance(m, dict) and "content" in m for m in t) for t in turns):
        raise InputError(f"{file}: column {name} is {table[name].type}; expected text or a list of chat messages")
    clean = [[{"role": str(m.get("role", "")), "content": str(m["content"] or "")} for m in t] for t in turns]
    texts = pa.array(["\n".join(m["content"] for m in t) for t in clean])
    place = table.column_names.index(name)
    table = table.set_column(place, name, texts)
    return table.append_column(name.replace("_text", "_messages"), pa.array([json.dumps(t) for t in clean]))


def _with_single_reward(table: pa.Table) -> pa.Table:
    """TRL writes one column per reward function and not their weights: the total is known for one function only."""
    known = {*COLUMNS, "prompt_text", "response_text", "__index_level_0__"}
    numbers = [
        f.name
        for f in table.schema
        if f.name not in known and (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))
    ]
    if len(numbers) != 1:
        return table
    return table.append_column("reward", pc.cast(table[numbers[0]], pa.float64()))


def with_ids(table: pa.Table, tokenizer: Any, source: str) -> tuple[pa.Table, str]:
    """The table with token ids for its texts, and the note that goes with them.

    Raises:
        InputError: responses whose text is not what their ids decode to (by prompt id), or no texts.
    """
    gone = [c for c in ("prompt_text", "response_text") if c not in table.column_names]
    if gone:
        raise InputError(f"{source}: no token ids and no {', '.join(gone)} to make them from")
    prompts = _prompt_ids(table, tokenizer)
    texts = table["response_text"].to_pylist()
    responses = [_encode(tokenizer, t) for t in texts]
    names = table["prompt_id"].to_pylist() if "prompt_id" in table.column_names else table["prompt_text"].to_pylist()
    bad = [
        f"row {i} ({str(names[i])[:40]})"
        for i, (text, ids) in enumerate(zip(texts, responses, strict=True))
        if ids is None or _decode(tokenizer, ids) != text or prompts[i] is None
    ]
    if bad:
        raise InputError(
            f"{source}: no token ids, and {len(bad)} text(s) do not come back from this tokenizer unchanged, so "
            f"their tokens are unknown: {', '.join(bad[:5])}. Record ids with probe.recording"
        )
    for name, ids in (("prompt_token_ids", prompts), ("response_token_ids", responses)):
        table = table.append_column(name, pa.array(ids, pa.list_(pa.int32())))
    return table, (
        f"{source} has text only: {len(texts)} responses were re-tokenized (exact round trip); the policy may have "
        "sampled other pieces of the same text, and special tokens that the log stripped (end, turns) are absent"
    )


def _prompt_ids(table: pa.Table, tokenizer: Any) -> list[list[int] | None]:
    if "prompt_messages" not in table.column_names:
        ids = [_encode(tokenizer, t) for t in table["prompt_text"].to_pylist()]
        texts = table["prompt_text"].to_pylist()
        return [i if i is not None and _decode(tokenizer, i) == t else None for i, t in zip(ids, texts, strict=True)]
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the log's prompts are chat messages, but this tokenizer has no chat template")
    turns = [json.loads(t) for t in table["prompt_messages"].to_pylist()]
    rendered = [tokenizer.apply_chat_template(t, add_generation_prompt=True, tokenize=False) for t in turns]
    return [_encode(tokenizer, str(t)) for t in rendered]


def _encode(tokenizer: Any, text: str | None) -> list[int] | None:
    return None if text is None else list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
