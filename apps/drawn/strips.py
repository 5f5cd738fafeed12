"""One item token by token: what the page Token draws, without a page.

Rows are read from a result's table as far as they are needed; texts come from the result, else from the checkpoint's
tokenizer (its JSON file; no model, no torch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from analyses.core import figures
from analyses.core.figures.scales import fixed_scale
from analyses.core.store.contents import rows, table_columns
from apps.catalog import Entry, located, not_found

KEYS = {"item", "group", "answer_kind", "pos", "layer", "step", "target", "sample", "is_prompt", "n_tokens", "head"}
TEXTS = ("token", "text", "token_text")
NUMBERS = ("float", "double", "int", "bool")
MAX_ROWS = 20_000  # of one item
Views = dict[str, tuple[Any, pd.DataFrame]]


def signals(entry: Entry) -> list[str]:
    """Columns with one number per token."""
    kinds = table_columns(entry.root, entry.analysis, entry.key)
    return [c for c, kind in kinds.items() if c not in KEYS and kind.startswith(NUMBERS)]


def named(column: str) -> str:
    """A signal for people, with its unit."""
    if column == "rank":
        return "rank (0 = top)"
    return figures.quantity_name(column) + (" (nats)" if column.endswith("_nats") else "")


def strips(
    entry: Entry,
    column: str,
    where: Mapping[str, object],
    *,
    step: int | None = None,
    base: int | None = None,
    difference: bool = False,
) -> Views:
    """Name -> (figure, rows): the tokens of one item, coloured by ``column``; {} where nothing was measured.

    Args:
        entry: a result with rows per token.
        column: the signal.
        where: item, and answer_kind and layer where the result has them.
        step: the checkpoint, for a sweep.
        base: a second checkpoint, drawn on the same scale.
        difference: one strip of ``step`` minus ``base`` instead of both.
    """
    steps = [s for s in dict.fromkeys((base, step)) if s is not None] or [None]
    found = {s: part for s in steps if len(part := _tokens(entry, column, where, s))}
    if step not in found:
        return {}
    unit = "nats" if column.endswith("_nats") else named(column)
    if difference:
        part = _subtracted(found[step], found.get(base), column)
        title = f"{figures.quantity_name(column)}: step {step} minus step {base}"
        return {"difference": (_strip(part, "change", title, unit, signed=True), part)}
    title = figures.quantity_name(column)
    limit = max(float(part[column].abs().max()) for part in found.values())
    return {
        "tokens" if s is None else f"tokens-step-{s}": (
            _strip(part, column, title if s is None else f"{title} at step {s}", unit, limit=limit),
            part,
        )
        for s, part in found.items()
    }


def of_token(entry: Entry, where: Mapping[str, object], steps: Sequence[int]) -> tuple[pd.DataFrame, int, Views]:
    """(rows about one token, how many there are, its first signal over layers where the result has layers)."""
    found, count = rows(entry, where={k: [v] for k, v in where.items()}, limit=MAX_ROWS)
    column = next(iter(signals(entry)), None)
    if not count or column is None or "layer" not in found:
        return found, count, {}
    part = found[found["step"].isin(steps)] if steps and "step" in found else found
    color = "step" if "step" in part else None
    part = part.drop_duplicates(["layer", *([color] if color else [])])
    title = f"{figures.quantity_name(column)} over layers"
    figure = figures.curve(part, x="layer", y=column, color=color, title=title, y_title=named(column))
    return found, count, {f"token-{entry.analysis}": (figure, part)}


def undecoded(entry: Entry) -> str:
    """Why tokens are shown as ids; "" where they are shown as text."""
    kinds = table_columns(entry.root, entry.analysis, entry.key)
    if set(TEXTS) & set(kinds) or "target" not in kinds or _decoder(entry):
        return ""
    lost = next((c["path"] for c in entry.checkpoints if not located(c["path"], entry.root)), None)
    return not_found(lost) if lost else "no checkpoint of this result has a tokenizer.json"


def _strip(part: pd.DataFrame, column: str, title: str, unit: str, **look: Any) -> Any:
    hover = [f"position {p}" for p in part["pos"]]
    values = list(part[column].to_numpy(dtype=float))
    scale = fixed_scale(part, column)
    if scale and not look.get("signed"):  # the same colour is the same number, whatever else is in the strip
        hover = [f"{h}; {v:.4g} {unit}" for h, v in zip(hover, values, strict=True)] if scale.unit else hover
        values, unit = list(scale.of(np.array(values))), scale.unit or unit
        look |= {"limit": scale.high, "signed": False}
    return figures.tokens(list(part["shown"]), values, title=title, unit=unit, hover=hover, **look)


def _subtracted(shown: pd.DataFrame, other: pd.DataFrame | None, column: str) -> pd.DataFrame:
    before = other.set_index("pos")[column] if other is not None else pd.Series(dtype=float)
    subtracted = before.reindex(shown["pos"]).to_numpy(dtype=float)
    values = shown[column].to_numpy(dtype=float)
    return shown.assign(base=subtracted, change=values - subtracted)


def _tokens(entry: Entry, column: str, where: Mapping[str, object], step: int | None) -> pd.DataFrame:
    """Rows of one item at one step, in order; the column shown holds the texts."""
    lists = {k: [v] for k, v in where.items()} | ({"step": [step]} if step is not None else {})
    found, _ = rows(entry, where=lists, limit=MAX_ROWS)
    keep = ["pos", column, *[c for c in (*TEXTS, "target") if c in found]]
    found = found[keep].drop_duplicates("pos").sort_values("pos", ignore_index=True)
    return found.assign(shown=texts_of(entry, found))


def texts_of(entry: Entry, part: pd.DataFrame) -> list[str]:
    """Texts of tokens: as the result has them, else decoded, else ids."""
    for name in TEXTS:
        if name in part:
            return list(map(str, part[name]))
    if "target" not in part:
        return [f"@{p}" for p in part["pos"]]
    decoder = _decoder(entry)
    if decoder is None:
        return [f"#{t}" for t in part["target"]]
    return [decoder.decode([int(t)], skip_special_tokens=False) or f"#{t}" for t in part["target"]]


def decoded(entry: Entry, found: pd.DataFrame) -> pd.DataFrame:
    """Rows with the texts of tokens in place of their ids, where a tokenizer of the result is at hand."""
    decoder = _decoder(entry) if {"target", "top_ids"} & set(found) else None
    if decoder is None:
        return found

    @cache
    def text(token: int) -> str:
        return figures.visible(decoder.decode([token], skip_special_tokens=False) or f"#{token}")

    texts: dict[str, list[Any]] = {}
    if "target" in found:
        texts["target"] = [text(int(t)) for t in found["target"]]
    if "top_ids" in found:
        texts["top_ids"] = [[text(int(t)) for t in ids] for ids in found["top_ids"]]
    return found.assign(**texts).rename(columns={"top_ids": "top_tokens"})


def _decoder(entry: Entry) -> Any:
    places = (located(c["path"], entry.root) for c in entry.checkpoints)
    return next((d for path in places if path and (d := _tokenizer(str(path)))), None)


@lru_cache(maxsize=16)
def _tokenizer(path: str) -> Any:
    """The tokenizer of a checkpoint folder, None if it is gone."""

    file = Path(path) / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.is_file() else None
