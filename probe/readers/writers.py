"""Who wrote a rollout log, and its columns under this toolkit's names.

| writer | known by | columns |
|---|---|---|
| TRL `log_completions` | `prompt`, `completion` | text or messages, one column per reward function, `advantage` |
| verl `rollout_data_dir` | `input`, `output`, `gts` | text without special tokens; `uid` (v1: per response) |
| OpenRLHF | `prompt`/`input`, `output`, `reward` | rendered text |
| SkyRL `dumped_evals` | `input_prompt`, `output_response` | rendered text with special tokens, `score` |
| prime-rl (verifiers) | `prompt`, `completion`, `example_id` | messages, `reward` |
| AReaL `dump_dir` | `<version>/<query>.txt` | rendered text with special tokens (`probe.readers.areal`) |
| slime `--save-debug-rollout-data` | `rollout_id`, `samples` in a .pt | ids, masks, log-probs of the sampler |
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from probe.errors import InputError
from probe.lazily import torch
from probe.readers.conversations import is_conversation
from probe.readers.conversations import turns as conversation
from probe.readers.messages import all_text, cleaned, is_messages, own_text
from probe.readers.schema import COLUMNS

ALIASES = {
    "response_text": ("completion", "output", "response", "output_response"),
    "prompt_text": ("prompt", "input", "question", "input_prompt"),
    "reward": ("score", "rewards"),
    "group_uid": ("uid",),
    "step": ("global_step", "global_steps", "rollout_id"),
    "prompt_id": ("example_id",),
    "n_prompt_tokens": ("prompt_length", "prompt_len", "num_prompt_tokens", "input_length"),
}
FILE_STEP = re.compile(r"(?:completions?_|step[-_]|global_?step[-_]?|rollouts?[-_]|data_)?(\d+)(?:\.rank-\d+)?")
"""File names of the writers above that are a step: `12.jsonl`, `completions_00012`, `step-000012.rank-0`."""
FOLDER_STEP = re.compile(r"(?:global_)?step_(\d+)(?:_evals)?")
UID_OF_RESPONSE = re.compile(r"(.+)_\d+_\d+")


def renamed(table: pa.Table, file: Path) -> pa.Table:
    """A trainer's table under the log's names; a step in a writer's own file name serves where no column has one."""
    writer = _writer(set(table.column_names))
    for name, aliases in ALIASES.items():
        theirs = next((a for a in aliases if a in table.column_names), None)
        if name not in table.column_names and theirs is not None:
            table = table.rename_columns({theirs: name})
    if writer and "log_writer" not in table.column_names:
        table = table.append_column("log_writer", pa.array([writer] * table.num_rows))
    step = step_of(file)
    if "step" not in table.column_names and step is not None:
        table = table.append_column("step", pa.array([step] * table.num_rows, pa.int64()))
    for name in ("prompt_text", "response_text"):
        if name in table.column_names and not _is_text(table[name].type):
            table = _from_messages(table, name, file)
    if "reward" not in table.column_names:
        table = _with_single_reward(table)
    return _with_groups(table) if "group_uid" in table.column_names else table


def step_of(file: Path) -> int | None:
    """The step that a writer's own name of a file, or of its folder, says; None where the name is anyone's."""
    found = FILE_STEP.fullmatch(file.name.split(".parquet")[0].split(".jsonl")[0].split(".pt")[0])
    found = found or FOLDER_STEP.fullmatch(file.parent.name)
    return int(found[1]) if found else None


def _writer(names: set[str]) -> str | None:
    if {"input", "output", "gts"} <= names or {"input", "output", "score", "uid"} <= names:
        return "verl"
    if {"input_prompt", "output_response"} <= names:
        return "skyrl"
    if {"prompt", "completion", "example_id"} <= names:
        return "prime-rl"
    return "trl" if {"prompt", "completion"} <= names else None


def flat_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row without nested objects beyond those the log knows (Arrow needs one type per column)."""
    texts = (*ALIASES["prompt_text"], *ALIASES["response_text"])
    row = _of_one_conversation(row, where)
    kept: dict[str, Any] = {}
    kept |= {k: v for k, v in row.items() if k in COLUMNS or k in texts or isinstance(v, (int, float, str, bool))}
    for name in texts:
        if is_messages(kept.get(name)):
            kept[name] = [_alike(t) for t in cleaned(kept[name], where)]
    scores = next((k for k in ("reward", *ALIASES["reward"]) if isinstance(row.get(k), list)), None)
    if scores is not None and all(isinstance(v, (int, float)) for v in row[scores]):
        kept[scores] = float(sum(row[scores]))  # one number per token: their sum is the response's
    return kept


def _of_one_conversation(row: Mapping[str, object], where: str) -> Mapping[str, Any]:
    """A row whose prompt and response are one list of turns: the response begins with the assistant's first."""
    known = {"response_text", "response_token_ids", "response", *ALIASES["response_text"]}
    name = next((n for n in ("messages", "conversations", "conversation") if is_conversation(row.get(n))), None)
    if name is None or known & set(row):
        return row
    turns = conversation(row[name], where)
    first = next((n for n, turn in enumerate(turns) if turn["role"] == "assistant"), 0)
    if not first:
        raise InputError(f"{where}: {name} has no prompt before an answer; expected turns of a user and an assistant")
    rest = {k: v for k, v in row.items() if k != name}
    return {**rest, "prompt": turns[:first], "response": turns[first:]}


def _alike(turn: Mapping[str, Any]) -> dict[str, str | None]:
    """A message with the same fields as every other: tool calls, which have any form, as JSON."""
    calls = turn.get("tool_calls")
    return {
        "role": turn["role"],
        "content": turn["content"],
        "name": turn.get("name"),
        "tool_calls": None if calls is None else json.dumps(calls),
    }


def one_type_each(rows: Sequence[dict[str, object]], file: Path) -> list[dict[str, object]]:
    """Rows whose columns each hold one kind of value: mixed extras become their JSON text, flags numbers.

    Raises:
        InputError: a column of the log itself that mixes text and numbers.
    """
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                kinds.setdefault(name, set()).add(type(value))
    known = {*COLUMNS, *(a for aliases in ALIASES.values() for a in aliases)}
    numbers = {n for n, k in kinds.items() if k <= {int, float, bool} and len(k) > 1}
    texts = {n for n, k in kinds.items() if len(k) > 1 and n not in numbers and k & {str, int, float, bool}}
    texts |= {n for n, k in kinds.items() if int in k and n not in known and any(_is_wide(r.get(n)) for r in rows)}
    mixed = sorted(n for n in texts if n in known)
    if mixed:
        found = sorted(k.__name__ for k in kinds[mixed[0]])
        raise InputError(f"{file}: column {mixed[0]} holds {' and '.join(found)}; expected one kind of value")
    numbers -= texts
    return [{n: _as(v, n in numbers, n in texts) for n, v in row.items()} for row in rows]


def _is_wide(value: object) -> bool:
    return isinstance(value, int) and not -(1 << 63) <= value < 1 << 63


def _as(value: Any, number: bool, text: bool) -> Any:
    if value is None:
        return None
    return float(value) if number else json.dumps(value, ensure_ascii=False) if text else value


def _is_text(kind: object) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _from_messages(table: pa.Table, name: str, file: Path) -> pa.Table:
    """Conversations: of a prompt all text, of a response the policy's own; the turns as JSON for the chat template."""
    turns = table[name].to_pylist()
    if not all(is_messages(t) for t in turns):
        raise InputError(f"{file}: column {name} is {table[name].type}; expected text or a list of chat messages")
    clean = [cleaned(t, f"{file}, row {row}") for row, t in enumerate(turns)]
    texts = [all_text(t) if name == "prompt_text" else own_text(t) for t in clean]
    table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.string()))
    return table.append_column(name.replace("_text", "_messages"), pa.array([json.dumps(t) for t in clean]))


def _with_groups(table: pa.Table) -> pa.Table:
    """Sampling groups from a writer's key, of which verl's v1 trainer numbers one a response (`<prompt>_<n>_<output>`).

    A key that no two responses share names no group: then responses of one prompt and step are the group.
    """
    keys = table["group_uid"].to_pylist()
    if table["group_uid"].null_count:
        return table
    cut = [m[1] if (m := UID_OF_RESPONSE.fullmatch(str(k))) else None for k in keys]
    merges = None not in cut and len(set(cut)) < len(set(keys))
    # A key of one response names one text (its row may stand in the log twice).
    if merges and _one_each(table, keys, "response_text") and _one_each(table, cut, "prompt_text"):
        place = table.column_names.index("group_uid")
        return table.set_column(place, "group_uid", pa.array(cut, pa.string()))
    return table.drop_columns(["group_uid"]) if 1 < len(set(keys)) == len(keys) else table


def _one_each(table: pa.Table, groups: Sequence[str | None], column: str) -> bool:
    """True if each group has one text of this column."""
    if column not in table.column_names:
        return True
    found: dict[str | None, str] = {}
    return all(found.setdefault(g, t) == t for g, t in zip(groups, table[column].to_pylist(), strict=True))


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


_DAMAGED = (TypeError, AttributeError, OverflowError)  # what a pickle cut or changed in its middle raises besides


def slime_rows(file: Path) -> pa.Table:
    """slime's debug dump of one rollout: ids, masks and the sampler's log-probs of every sample.

    Raises:
        InputError: not such a dump.
    """
    try:
        saved = torch.load(file, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, LookupError, *_DAMAGED) as error:
        raise InputError(f"{file}: not a slime rollout dump that can be read safely ({error})") from error
    samples = saved.get("samples") if isinstance(saved, dict) else None
    if not samples or not all(isinstance(s, dict) and "tokens" in s for s in samples):
        raise InputError(f"{file}: not a slime rollout dump; expected rollout_id and samples with tokens")
    try:
        return pa.Table.from_pylist([_slime_row(s, int(saved.get("rollout_id", step_of(file) or 0))) for s in samples])
    except (ValueError, KeyError, *_DAMAGED) as error:
        raise InputError(f"{file}: a sample of another form than slime's ({error!r})") from error


def _slime_row(sample: Mapping[str, Any], step: int) -> dict[str, object]:
    n = int(sample["response_length"])
    tokens = [int(t) for t in sample["tokens"]]
    prompt, reward = sample.get("prompt"), sample.get("reward")
    mask, logps = sample.get("loss_mask"), sample.get("rollout_log_probs")
    return {
        "step": step,
        "prompt_text": prompt if isinstance(prompt, str) else json.dumps(prompt),
        "group_uid": f"{step}-{sample.get('group_index')}",
        "prompt_token_ids": tokens[: len(tokens) - n],
        "response_token_ids": tokens[len(tokens) - n :],
        "response_mask": [True] * n if mask is None else [bool(m) for m in mask],
        "response_text": str(sample.get("response", "")),
        "reward": float(reward) if isinstance(reward, (int, float)) else None,
        "sampling_logp": None if logps is None else [float(v) for v in logps],
        "finish_reason": "length" if sample.get("status") == "truncated" else "stop",
        "log_writer": "slime",
    }
