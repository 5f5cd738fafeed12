"""Analyses of rollouts share this: a log made readable for a model, token frames with classes, keys of a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import probe
from analyses.core.progress import progress
from probe.errors import InputError
from probe.readers.arrow import lengths, per_token
from probe.readers.segments import segment_numbers
from probe.rollouts import WINDOW

if TYPE_CHECKING:
    from probe import Model, Prompts, Rollouts
    from probe.recompute import Reduce

KEYS = ["rollout_step", "item", "group", "sample"]
"""What names a response: the step it was sampled at, its prompt, the group of that, its number among the samples."""


def readable(rollouts: Rollouts, model: Model) -> Rollouts:
    """The log with token ids: its own, or its texts' where the round trip through the tokenizer is exact."""
    return rollouts if rollouts.has_ids else rollouts.tokenized(model.tokenizer, asdict(model.framing))


def read(
    models: Sequence[Model],
    rollouts: Rollouts,
    reduce: Reduce,
    *,
    columns: Sequence[str] = (),
    batch_size: int,
    at_temperature: bool = False,
    what: str = "tokens",
) -> pd.DataFrame:
    """Every masked-in response token with what `reduce` makes of its logits, and its class.

    Columns: rollout_step, item, group, group_uid, sample, pos (in the response, from 0), token (id), token_class,
    those of the log asked for, and those of `reduce`.
    """
    from analyses.core.reading.teacher_forced import token_classes

    windows = probe.recompute.token_values(
        models, rollouts, reduce, columns=columns, batch_size=batch_size, at_temperature=at_temperature
    )
    total = -(-len(rollouts) // WINDOW)
    frame = pd.concat(list(progress(windows, what, total)), ignore_index=True)
    frame = frame.drop(columns="response").rename(columns={"step": "rollout_step", "token_id": "token"})
    frame["token_class"] = token_classes(models[0].tokenizer, frame["token"].to_numpy())
    return frame


def regrouped(frame: pd.DataFrame, prompts: Prompts | None) -> pd.DataFrame:
    """The frame with the design groups of a prompt file; items it does not have are `not in prompts`.

    Raises:
        InputError: the file has none of the log's items.
    """
    if prompts is None:
        return frame
    groups = {item.id: item.group for item in prompts.items}
    found = frame["item"].map(groups)
    if found.isna().all():
        given, logged = sorted(groups)[:3], sorted(frame["item"].unique())[:3]
        raise InputError(f"{prompts.source} has ids {given} ..., none of the log's prompt ids {logged} ...")
    return frame.assign(group=found.fillna("not in prompts"))


def per_response(frame: pd.DataFrame, means: Sequence[str]) -> pd.DataFrame:
    """One row per response: means over its tokens of the named columns, and n_tokens."""
    grouped = frame.groupby([*KEYS[:3], "group_uid", "sample"], sort=True, observed=True)
    return grouped.agg(n_tokens=("pos", "size"), **{m: (m, "mean") for m in means}).reset_index()


def sign_of(advantage: object) -> np.ndarray:
    """`A > 0`, `A < 0`, `A = 0`, or `unknown` where there is none."""
    values = np.asarray(advantage, float)
    return np.select([values > 0, values < 0, values == 0], ["A > 0", "A < 0", "A = 0"], "unknown")


def refuse_uncentred(rollouts: Rollouts, by: str) -> None:
    """Raise if advantages do not average to zero within their sampling groups.

    Raises:
        InputError: naming the groups; first-order forms in the advantage hold for centred ones only.
    """
    off = rollouts.uncentred()
    if off:
        more = f" and {len(off) - 5} more" if len(off) > 5 else ""
        raise InputError(
            f"{by}: advantages of {len(off)} sampling group(s) do not average to zero: {', '.join(off[:5])}{more} "
            "(as step/group_uid). Forms in A (S - B) hold for centred advantages: subtract each group's mean, or "
            "set centre='group' to have it done"
        )


def centred(frame: pd.DataFrame) -> pd.Series:
    """Advantages minus the mean over responses of their sampling group."""
    responses = frame.drop_duplicates(["rollout_step", "group_uid", "item", "sample"])
    means = responses.groupby(["rollout_step", "group_uid"])["advantage"].mean()
    index = pd.MultiIndex.from_frame(frame[["rollout_step", "group_uid"]])
    return frame["advantage"] - means.reindex(index).to_numpy()


def segments(rollouts: Rollouts) -> pd.Series | None:
    """Segment number of every masked-in token, in the order of `read`; None where the log has no boundaries."""
    if "segment_starts" not in rollouts.columns:
        return None
    parts: list[np.ndarray] = []
    for _, table in rollouts.windows(["segment_starts", "response_token_ids", "response_mask"]):
        counts = lengths(table, "response_token_ids")
        own = segment_numbers(table, counts)
        masked = "response_mask" in table.column_names
        parts.append(own[per_token(table, "response_mask", counts).astype(bool)] if masked else own)
    return pd.Series(np.concatenate(parts))
