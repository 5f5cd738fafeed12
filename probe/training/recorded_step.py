"""One recorded rollout step: what is computed of every token, how it waits for its updates, how it is written."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from probe.errors import ProbeError

if TYPE_CHECKING:
    import torch

# Agreement asked of the recorder's log-probs and the trainer's own, per dtype of the weights.
TOLERANCE = {"torch.float32": 1e-3, "torch.bfloat16": 0.1, "torch.float16": 0.05}
FLOATS = ("old_logp", "H", "sum_p2", "sum_p2_logp", "B", "max_logp")
# Rows of logits held at once: bounds the extra memory to this many times the vocabulary.
CHUNK_ROWS = 1024


def token_statistics(
    hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], targets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Log-prob of the target, entropy and peakedness of the next-token distribution at each position.

    Args:
        hidden: [token, d_model], the states the head reads.
        head: maps [token, d_model] to logits [token, d_vocab], temperature included.
        targets: [token], the sampled ids.

    Returns:
        Vectors [token] in fp32: `old_logp` (log p of the target), `H` = -sum p log p (nats), `sum_p2` = sum p^2,
        `sum_p2_logp` = sum p^2 log p, `B` = H sum p^2 + sum p^2 log p = Cov_p(p, log p) >= 0, `max_logp`.
    """
    import torch

    parts: list[torch.Tensor] = []
    for rows, ids in zip(hidden.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True):
        logp = head(rows).float().log_softmax(-1)
        p = logp.exp()
        entropy = -(p * logp).sum(-1)
        chosen, top = logp.gather(-1, ids[:, None])[:, 0], logp.amax(-1)
        p2 = p.square_()
        sum_p2, sum_p2_logp = p2.sum(-1), p2.mul_(logp).sum(-1)
        parts.append(torch.stack([chosen, entropy, sum_p2, sum_p2_logp, entropy * sum_p2 + sum_p2_logp, top]))
    values = torch.cat(parts, dim=1) if parts else torch.zeros(len(FLOATS), 0)
    return dict(zip(FLOATS, values, strict=True))


class Pending:
    """One rollout step in memory, from its sampling to its last update: rows by their place in the generation batch."""

    def __init__(self, step: int, columns: Mapping[str, Any], ids: list[list[int]]) -> None:
        self.step = step
        self.columns = columns
        self.ids = ids
        n = len(ids)
        self.floats: dict[str, list[np.ndarray | None]] = {name: [None] * n for name in FLOATS}
        self.updates: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(n)]
        self.micro_batch = np.full(n, -1, dtype=np.int32)
        self.lr = np.full(n, math.nan, dtype=np.float32)
        self.grad_norm = np.full(n, math.nan, dtype=np.float32)

    def fill(self, rows: Sequence[int], values: Mapping[str, np.ndarray]) -> None:
        """Deal the concatenated token values out to their rows."""
        ends = np.cumsum([len(self.ids[row]) for row in rows])[:-1]
        for name in FLOATS:
            for row, part in zip(rows, np.split(values[name], ends), strict=True):
                self.floats[name][row] = part


def parquet_schema() -> pa.Schema:
    """Columns of a rollout file, in the order of the schema in the documentation."""

    floats, text = pa.list_(pa.float32()), pa.string()
    fields: dict[str, pa.DataType] = {
        "run_id": text, "policy_version": text, "step": pa.int64(), "prompt_id": text, "group_uid": text,
        "prompt_token_ids": pa.list_(pa.int32()), "response_token_ids": pa.list_(pa.int32()),
        "response_mask": pa.list_(pa.bool_()), "segment_starts": pa.list_(pa.int32()),
        "segment_type": pa.list_(text), "finish_reason": text, "reward": pa.float64(),
        "reward_parts": pa.map_(text, pa.float64()), "advantage": pa.float32(), "adv_std_normalised": pa.bool_(),
        "adv_eps": pa.float32(), "temperature": pa.float32(), "top_p": pa.float32(), "top_k": pa.int32(),
        "sampling_logp": floats, "old_logp": floats, "new_logp": floats, "ref_logp": floats,
        "logp_temperature": pa.float32(), "H": floats, "sum_p2": floats, "sum_p2_logp": floats, "B": floats,
        "max_logp": floats, "new_logp_updates": pa.list_(floats), "update_steps": pa.list_(pa.int32()),
        "micro_batch_id": pa.int32(), "clip_low": pa.float32(), "clip_high": pa.float32(), "loss_agg": text,
        "lr": pa.float32(), "grad_norm": pa.float32(), "n_updates": pa.int32(),
    }  # fmt: skip
    return pa.schema(list(fields.items()))


def write_step(pending: Pending, path: Path, meta: Mapping[str, Any]) -> None:
    """Write one rollout step as Parquet, under a temporary name and renamed.

    Log-probs of another policy (the engine's, the reference's) that the trainer did not have are no column.

    Args:
        pending: what was recorded of the step.
        path: the file.
        meta: what stands in the file's metadata.
    """

    columns = dict(pending.columns)
    without = [n for n in ("sampling_logp", "ref_logp") if all(v is None for v in columns[n])]
    schema = pa.schema([field for field in parquet_schema() if field.name not in without])
    columns.update(pending.floats)
    columns["new_logp_updates"] = [[values for _, values in seen] for seen in pending.updates]
    columns["update_steps"] = [[step for step, _ in seen] for seen in pending.updates]
    columns["new_logp"] = [seen[-1][1] if seen else None for seen in pending.updates]
    columns["n_updates"] = [len(seen) for seen in pending.updates]
    columns["micro_batch_id"], columns["lr"], columns["grad_norm"] = pending.micro_batch, pending.lr, pending.grad_norm
    arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({"posttrain_probe": json.dumps(dict(meta))}))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, scratch, compression="zstd")
    os.replace(scratch, path)


def response_mask(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Which tokens of the responses were written by the policy, padding left out: bool [response pos]."""
    return inputs["completion_mask"].bool()


def ragged(values: torch.Tensor | None, real: np.ndarray) -> list[np.ndarray | None]:
    """Values [response pos] at the `real` tokens of each response; None for each where there are no values."""
    if values is None:
        return [None] * len(real)
    return [row[keep] for row, keep in zip(values.float().cpu().numpy(), real, strict=True)]


def prompt_id(item: Mapping[str, object]) -> str:
    """The dataset's own id where it has one, else a hash of the prompt."""
    for name in ("prompt_id", "id"):
        if name in item:
            return str(item[name])

    return hashlib.sha256(json.dumps(item["prompt"], sort_keys=True).encode()).hexdigest()[:16]


def weighted(row: np.ndarray, weights: np.ndarray) -> float:
    """Weighted sum over the reward functions that scored this response; NaN if none did."""
    scored = ~np.isnan(row)
    return float((row[scored] * weights[scored]).sum()) if scored.any() else math.nan


def check_agreement(ours: torch.Tensor, theirs: torch.Tensor, dtype: str) -> None:
    """Raise ProbeError where log-probs of the same tokens are further apart than rounding in `dtype` explains.

    Args:
        ours: log-probs in nats.
        theirs: log-probs of the same tokens in nats.
        dtype: the dtype trained in, by name.
    """
    worst = float((ours - theirs).abs().max()) if len(ours) else 0.0
    if not worst <= TOLERANCE.get(dtype, 1e-3):
        raise ProbeError(
            f"the recorder's log-probs differ from the trainer's by {worst:.3g} nats: this model's head is not one "
            "the recorder knows. Train with trl.GRPOTrainer instead; entropies recorded here would be wrong"
        )
