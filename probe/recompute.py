"""What a model says at every response token of a rollout log, streamed: never the logits of a whole batch.

States are read once per batch; logits exist for a few dozen tokens at a time and are reduced to numbers before
the next are made. Prefixes are the logged ids, so two models read here are read at identical states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from probe import finite
from probe.errors import InputError
from probe.prompts import Item
from probe.readers.arrow import per_token, token_frame
from probe.readers.lists import flat, lengths
from probe.rollouts import WINDOW, Rollouts
from probe.tokens import SPANS, Encoded, TokenBatch, plan

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float, Int
    from torch import Tensor

    from probe.model import Model

Reduce = Callable[[tuple["Float[Tensor, 'row vocab']", ...], "Int[Tensor, ' row']"], Mapping[str, "Tensor"]]

STATISTICS = ("logp", "H", "sum_p2", "sum_p2_logp", "B", "max_logp")
LOGITS_AT_ONCE = 1 << 24  # about 110 rows of a 152k vocabulary: fewer would read the whole head too often
REDUCED_AT_ONCE = 1 << 21  # elements handed to a reduction, which may work in float64
IN_CACHE = 1 << 18  # elements a reduction walks at once: its passes then run from cache, three times as fast


def statistics(logits: Float[Tensor, "row vocab"], targets: Int[Tensor, " row"]) -> dict[str, Float[Tensor, " row"]]:
    """What the log's columns say of each next-token distribution p, in fp32, natural logarithms.

    logp (log p of the target), H = -sum p log p, sum_p2 = sum p^2, sum_p2_logp = sum p^2 log p,
    B = H sum_p2 + sum_p2_logp = Cov_p(p, log p) >= 0, max_logp. The logits are overwritten.
    """
    size = max(1, IN_CACHE // logits.shape[-1])
    parts = [_statistics(z, t) for z, t in zip(logits.split(size), targets.split(size), strict=True)]
    columns = torch.cat(parts, dim=1) if parts else logits.new_zeros(len(STATISTICS), 0)
    return dict(zip(STATISTICS, columns, strict=True))


def _statistics(z: Tensor, targets: Tensor) -> Tensor:
    z -= z.amax(-1, keepdim=True)
    chosen = z.gather(-1, targets[:, None])[:, 0]
    e = z.exp()
    mass = e.sum(-1)
    log_mass = mass.log()
    z.clamp_(min=-1e4)  # a logit of -inf has probability 0 and adds 0, not NaN
    weighted = z.mul_(e)
    entropy = log_mass - weighted.sum(-1) / mass
    sum_p2 = (e * e).sum(-1) / mass**2
    sum_p2_logp = weighted.mul_(e).sum(-1) / mass**2 - log_mass * sum_p2
    return torch.stack([chosen - log_mass, entropy, sum_p2, sum_p2_logp, entropy * sum_p2 + sum_p2_logp, -log_mass])


def token_values(
    models: Sequence[Model],
    rollouts: Rollouts,
    reduce: Reduce,
    *,
    columns: Sequence[str] = (),
    batch_size: int = 8,
    at_temperature: bool = False,
    window: int = WINDOW,
) -> Iterator[pd.DataFrame]:
    """Masked-in response tokens in canonical order with what `reduce` makes of their logits, window by window.

    Args:
        models: one or more, all read at the same states.
        rollouts: the log; needs ids.
        reduce: gets, for some tokens, each model's logits [row vocab] (float32, its own to overwrite) and the
            sampled ids, and returns one number per row for each name.
        columns: of the log, to carry along.
        batch_size: responses per forward pass.
        at_temperature: divide the logits by each response's sampling temperature first.
        window: responses held at once.

    Raises:
        InputError: no ids, ids outside the vocabulary, a response longer than the context, an empty prompt, an
            unknown temperature where one is asked for (each named).
    """
    rollouts.require("prompt_token_ids", "response_token_ids", by="reading a model on a log")
    extra = ["prompt_token_ids", "response_token_ids", "response_mask"] + ["temperature"] * at_temperature
    check(models[0], rollouts, at_temperature)
    for rows, table in rollouts.windows([*columns, *extra], window):
        frame = token_frame(rows, table, columns)
        temperature = _temperatures(rows, table, rollouts.source) if at_temperature else None
        with finite.as_named(named_as_logged(rows)):
            read = _read_window(models, table, frame, reduce, batch_size, temperature)
        yield frame.assign(**read)


def named_as_logged(rows: pd.DataFrame) -> dict[str, str]:
    """What the log calls each row of `response_batches`: its item and sample."""
    said = zip(rows["item"], rows["sample"], rows["step"], strict=True)
    return {str(n): f"{item}, sample {sample} of step {step}" for n, (item, sample, step) in enumerate(said)}


def check(model: Model, rollouts: Rollouts, at_temperature: bool = False) -> None:
    """Raise if the log cannot be read by this model: context, empty prompts, temperature.

    Args:
        model: the checkpoint that reads them.
        rollouts: the log.
        at_temperature: divide logits by each response's sampling temperature.
    """
    index = rollouts.index
    total = index["n_prompt"] + index["n_response"]
    long = index.loc[total > model.shape.n_ctx, "item"].unique()
    if len(long):
        raise InputError(
            f"{rollouts.source}: {len(long)} item(s) have responses beyond the context of {model.shape.n_ctx} tokens: "
            f"{', '.join(long[:5])}; responses are never cut"
        )
    bare = index.loc[index["n_prompt"] == 0, "item"].unique()
    if len(bare):
        named = ", ".join(bare[:5])
        raise InputError(f"{rollouts.source}: empty prompt_token_ids in item(s) {named}: there is no state to read")
    if at_temperature:
        rollouts.require("temperature", by="reading at the sampling temperature")


def _temperatures(rows: pd.DataFrame, table: pa.Table, source: str) -> np.ndarray:
    values = table["temperature"].to_numpy().astype(float)
    bad = rows.loc[~(values > 0), "item"].unique()
    if len(bad):
        raise InputError(
            f"{source}: temperature is missing or not above 0 for item(s) {', '.join(bad[:5])}; the distribution "
            "they were sampled from is unknown"
        )
    return values


def _read_window(
    models: Sequence[Model],
    table: pa.Table,
    frame: pd.DataFrame,
    reduce: Reduce,
    batch_size: int,
    temperature: np.ndarray | None,
) -> dict[str, np.ndarray]:
    response, pos = frame["response"].to_numpy(), frame["pos"].to_numpy()
    first = np.searchsorted(response, np.arange(table.num_rows + 1))
    out: dict[str, np.ndarray] = {}
    for batch in response_batches(models[0], table, batch_size):
        places = [int(item.id) for item in batch.items]
        tokens = np.concatenate([np.arange(first[p], first[p + 1]) for p in places])
        item = np.repeat(np.arange(len(places)), [first[p + 1] - first[p] for p in places])
        starts = (batch.span == SPANS.index("answer")).int().argmax(-1).cpu().numpy()
        heat = None if temperature is None else temperature[response[tokens]]
        targets, read = frame["token_id"].to_numpy()[tokens], starts[item] + pos[tokens] - 1
        for name, value in _read_batch(models, batch, item, read, targets, reduce, heat).items():
            out.setdefault(name, np.full(len(frame), np.nan))[tokens] = value
    return out


def _read_batch(
    models: Sequence[Model],
    batch: TokenBatch,
    item: np.ndarray,
    pos: np.ndarray,
    targets: np.ndarray,
    reduce: Reduce,
    temperature: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """`reduce` over the tokens read at (item, pos) of a batch, a chunk of logits at a time."""
    states: list[Tensor] = []
    for model in models:
        site = model.last_state
        states.append(model.run(batch, read=[site], logits="none")[site][item, pos])
    offsets = batch.offsets.tolist()

    def where(row: int) -> tuple[str, str, int]:
        return "logits", batch.items[item[row]].id, int(pos[row]) - offsets[item[row]]

    device = states[0].device
    ids = torch.as_tensor(targets, device=device)
    size = min(4096, max(8, LOGITS_AT_ONCE // (models[0].shape.d_vocab * len(models))))
    fine = max(1, REDUCED_AT_ONCE // models[0].shape.d_vocab)
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, len(ids), size):
        chunk = slice(start, start + size)
        logits = [model.logits_of(rows[chunk]).float().to(device) for model, rows in zip(models, states, strict=True)]
        for model, z in zip(models, logits, strict=True):
            finite.require_logits(z, where, finite.advice(model, bool(model.open_edits)), start)
        if temperature is not None:
            heat = torch.as_tensor(temperature[chunk], device=device, dtype=torch.float32)[:, None]
            logits = [z / heat for z in logits]
        parts.extend(_reduced(logits, ids[chunk], reduce, fine))
        del logits  # or this chunk lives on while the next is made
    names = list(parts[0]) if parts else []
    return {n: torch.cat([part[n] for part in parts]).double().cpu().numpy() for n in names}


def _reduced(logits: list[Tensor], ids: Tensor, reduce: Reduce, fine: int) -> list[Mapping[str, Tensor]]:
    """`reduce` over `fine` rows at a time; its views of the logits end with the call."""
    return [
        reduce(pieces[:-1], pieces[-1])
        for pieces in zip(*(z.split(fine) for z in logits), ids.split(fine), strict=True)
    ]


def response_batches(model: Model, table: pa.Table, batch_size: int) -> list[TokenBatch]:
    """Prompt and response ids of a table's rows as padded batches; `items[i].id` is the row's number.

    Args:
        model: the checkpoint that reads them.
        table: rows with prompt_token_ids and response_token_ids.
        batch_size: responses per forward pass.

    Raises:
        InputError: an id the model or its tokenizer does not have (another tokenizer's log).
    """
    prompts, responses = _split(table, "prompt_token_ids"), _split(table, "response_token_ids")
    known = min(model.shape.d_vocab, len(model.tokenizer))
    encoded: list[Encoded] = []
    for row, (before, after) in enumerate(zip(prompts, responses, strict=True)):
        ids = np.concatenate([before, after])
        if len(after) == 0:
            continue
        if ids.max() >= known or ids.min() < 0:
            raise InputError(
                f"row {row} holds token id {int(ids.max())}, but this model's tokenizer has {known}: the log was "
                "made with another tokenizer"
            )
        span = (SPANS.index("prompt"),) * len(before) + (SPANS.index("answer"),) * len(after)
        encoded.append(Encoded(Item(str(row), "", ""), tuple(ids.tolist()), span))
    return plan(encoded, model.at_once(batch_size), pad_id=model.pad_id, turn=model.turn)


def _split(table: pa.Table, name: str) -> list[np.ndarray]:
    return np.split(flat(table, name), np.cumsum(lengths(table, name))[:-1])


def recompute(
    rollouts: Rollouts, model: Model, out: str | Path, *, batch_size: int = 8, at_temperature: bool = True
) -> Rollouts:
    """The log with old_logp, H, sum_p2, sum_p2_logp, B and max_logp filled in by a model, written to `out`.

    Numbers are fp32 on the logged prefixes; tokens that are masked out get NaN. `logp_temperature` becomes the
    sampling temperature (or 1 with `at_temperature=False`). Columns of the same names are replaced: the model
    should be the checkpoint that sampled.

    Args:
        rollouts: the log.
        model: the checkpoint that reads them.
        out: Parquet file that is written.
        batch_size: responses per forward pass.
        at_temperature: divide logits by each response's sampling temperature.

    Raises:
        InputError: as in `token_values`.
    """

    if not rollouts.has_ids:
        rollouts = rollouts.tokenized(model.tokenizer, asdict(model.framing))
    target = Path(out)
    scratch = target.with_name(f".{target.name}.partial")
    values = token_values(
        [model], rollouts, lambda z, t: statistics(z[0], t), batch_size=batch_size, at_temperature=at_temperature
    )
    writer: Any = None
    kept = [c for c in rollouts.columns if c not in (*STATISTICS, "old_logp", "logp_temperature")]
    for frame, (_, table) in zip(values, rollouts.windows([*kept, "temperature"]), strict=True):
        filled = _filled(table.select(kept), table, frame, at_temperature)
        writer = writer or pq.ParquetWriter(scratch, filled.schema, compression="zstd")
        writer.write_table(filled.cast(writer.schema) if isinstance(filled, pa.Table) else filled)
    if writer is not None:
        writer.close()
        scratch.replace(target)
    return replace(Rollouts.read(target), said=rollouts.notes)


def _filled(kept: pa.Table, table: pa.Table, frame: pd.DataFrame, at_temperature: bool) -> pa.Table:

    counts = lengths(table, "response_token_ids")
    mask = per_token(table, "response_mask", counts).astype(bool) if "response_mask" in table.column_names else None
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    for name in STATISTICS:
        values = np.full(int(counts.sum()), np.nan, np.float32)
        values[slice(None) if mask is None else mask] = frame[name].to_numpy()
        listed = pa.ListArray.from_arrays(offsets, pa.array(values))
        kept = kept.append_column("old_logp" if name == "logp" else name, listed)
    heat = table["temperature"].to_numpy().astype(np.float32) if at_temperature else np.ones(len(counts), np.float32)
    return kept.append_column("logp_temperature", pa.array(heat))
