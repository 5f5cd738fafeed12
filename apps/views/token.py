"""Page Token: one item, its tokens coloured by any per-token signal, at one checkpoint, at two, or their difference."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core import figures
from analyses.core.store import StoreError
from apps.contents import rows, table_columns
from apps.reading import Entry, Listing, located, not_found
from apps.views import address, parts, series, tables

KEYS = {"item", "group", "answer_kind", "pos", "layer", "step", "target", "sample", "is_prompt", "n_tokens", "head"}
TEXTS = ("token", "text", "token_text")
ONE, SIDE, DIFFERENCE = "one checkpoint", "two checkpoints", "difference"
MISSING = (
    "No result here keeps values per token yet. logit_lens and divergence do: "
    "probe sweep logit_lens --checkpoints DIR --prompts FILE"
)


def show(found: Listing) -> None:
    """Choose item and signal; the strip; what is known about one token."""
    st.subheader("One item, token by token", anchor=False)
    chosen = series.choose_run(found, _per_token, MISSING)
    if chosen is None:
        return
    _, entries = chosen
    signals = {f"{e.analysis}: {c}": (e, c) for e in entries for c in _signals(e)}
    left, right = st.columns(2)
    with left:
        name = address.select("Signal", list(signals), key="signal", default=_first(list(signals)))
    entry, column = signals[name]
    items = _items(entry)
    with right:
        item = address.select("Item (type to search)", items, key="item")
    left, right = st.columns(2)
    with left:
        where = {"item": item, **_kind(entry, item)}
    with right:
        where |= _layer(entry)
    _text_of(entry, item, where)
    picked = _strips(entry, column, where)
    if picked is not None:
        _about(entries, item, where, picked)


def _per_token(entry: Entry) -> bool:
    try:
        return {"item", "pos"} <= set(table_columns(entry.root, entry.analysis, entry.key))
    except StoreError:
        return False


def _signals(entry: Entry) -> list[str]:
    kinds = table_columns(entry.root, entry.analysis, entry.key)
    return [c for c, kind in kinds.items() if c not in KEYS and kind.startswith(("float", "double", "int", "bool"))]


def _first(names: list[str]) -> str:
    wanted = [n for n in names if n.endswith(("logprob_nats", "nll_nats", "jsd_nats"))]
    return (wanted or names)[0]


@st.cache_data(max_entries=50, show_spinner=False)
def _distinct(root: str, analysis: str, key: str, column: str, where: dict[str, list[Any]]) -> list[Any]:
    entry = Entry(Path(root), {"analysis": analysis, "key": key})
    found, _ = rows(entry, where=where, columns=[column], limit=10_000_000, distinct=True)
    return found[column].dropna().tolist()


def _items(entry: Entry) -> list[str]:
    return sorted(map(str, _distinct(str(entry.root), entry.analysis, entry.key, "item", {})))


def _kind(entry: Entry, item: str) -> dict[str, Any]:
    if "answer_kind" not in table_columns(entry.root, entry.analysis, entry.key):
        return {}
    kinds = _distinct(str(entry.root), entry.analysis, entry.key, "answer_kind", {"item": [item]})
    if not kinds:
        return {}
    return {"answer_kind": address.select("Answer", sorted(kinds), key="answer", radio=True, horizontal=True)}


def _layer(entry: Entry) -> dict[str, Any]:
    if "layer" not in table_columns(entry.root, entry.analysis, entry.key):
        return {}
    layers = sorted(_distinct(str(entry.root), entry.analysis, entry.key, "layer", {}))
    return {"layer": address.slide("Layer", layers, key="layer", default=layers[-1])}


def _text_of(entry: Entry, item: str, where: dict[str, Any]) -> None:
    """Prompt and answer as written in the prompt file, where that still lies where it was read."""
    source = entry.record.get("inputs", {}).get("prompts", {}).get("source")
    path = located(source, entry.root) if source else None
    found = _prompt(str(path), item, where.get("answer_kind")) if path else None
    if found:
        st.code(f"{found.get('prompt', '')}\n{found.get('answer', '')}", language=None, wrap_lines=True)
    elif source:
        why = f"{source} has no item {item} in a form this page reads" if path else not_found(source)
        st.caption(address.escaped(f"The text is not shown: {why}."))


@lru_cache(maxsize=256)
def _prompt(source: str, item: str, kind: str | None) -> dict[str, Any] | None:
    path = Path(source)
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line) if line.strip() else {}
            if row.get("id") == item and kind in (None, row.get("answer_kind", "given")):
                return row
    return None


def _strips(entry: Entry, column: str, where: dict[str, Any]) -> int | None:
    """The strip or strips; the position of the token chosen on one."""
    steps = entry.steps if entry.is_sweep else []
    modes = [ONE, SIDE, DIFFERENCE] if len(steps) > 1 else [ONE]
    mode = address.select("Show", modes, key="show", radio=True, horizontal=True) if len(modes) > 1 else ONE
    left, right = st.columns(2)
    with left:
        second = address.slide("Step", steps, key="step", default=steps[-1]) if steps else None
    with right:
        first = address.slide("Compared with step", steps, key="base", default=steps[0]) if mode != ONE else second
    values: dict[Any, pd.DataFrame] = {s: _tokens(entry, column, where, s) for s in dict.fromkeys((first, second))}
    shown = values[second]
    if shown.empty:
        st.info("Nothing was measured on this item here.")
        return None
    if mode == DIFFERENCE:
        other = values[first].set_index("pos")[column].reindex(shown["pos"]).to_numpy(dtype=float)
        change = shown[column].to_numpy(dtype=float) - other
        title = f"{column}: step {second} minus step {first}"
        return _strip(token_texts(entry, shown), change, shown, title, signed=True)
    limit = max(float(v[column].abs().max()) for v in values.values() if len(v))
    picked = None
    for step, part in values.items():
        title = column if step is None else f"{column} at step {step}"
        got = _strip(token_texts(entry, part), part[column].to_numpy(dtype=float), part, title, limit=limit)
        picked = got if got is not None else picked
    return picked


def _strip(texts: list[str], values: Any, part: pd.DataFrame, title: str, **look: Any) -> int | None:
    unit = "nats" if "nats" in title else ""
    hover = [f"position {p}" for p in part["pos"]]
    figure = parts.clickable(figures.tokens(texts, list(values), title=title, unit=unit, hover=hover, **look))
    event = parts.figure(figure, "tokens", key=f"strip-{title}", on_select="rerun", alt=title)
    points = event.selection.points if event else []
    if not points:
        return None
    place = round(points[0]["y"]) * figures.TOKENS_PER_ROW + round(points[0]["x"])
    return int(part["pos"].iloc[place]) if place < len(part) else None


def _tokens(entry: Entry, column: str, where: dict[str, Any], step: int | None) -> pd.DataFrame:
    lists = {k: [v] for k, v in where.items()} | ({"step": [step]} if step is not None else {})
    found, _ = rows(entry, where=lists, limit=20_000)
    keep = ["pos", column, *[c for c in (*TEXTS, "target") if c in found]]
    return found[keep].drop_duplicates("pos").sort_values("pos", ignore_index=True) if len(found) else found


def token_texts(entry: Entry, part: pd.DataFrame) -> list[str]:
    """Texts of tokens: as the result has them, else decoded with the checkpoint's tokenizer, else ids."""
    for name in TEXTS:
        if name in part:
            return list(map(str, part[name]))
    if "target" not in part:
        return [f"@{p}" for p in part["pos"]]
    places = [(c["path"], located(c["path"], entry.root)) for c in entry.checkpoints]
    decode = next((d for _, path in places if path and (d := _tokenizer(str(path)))), None)
    if decode is None:
        lost = next((recorded for recorded, path in places if path is None), None)
        why = not_found(lost) if lost else "no checkpoint of this result has a tokenizer.json"
        st.caption(address.escaped(f"Tokens are shown as ids: {why}."))
        return [f"#{t}" for t in part["target"]]
    return [decode.decode([int(t)], skip_special_tokens=False) or f"#{t}" for t in part["target"]]


@lru_cache(maxsize=16)
def _tokenizer(path: str) -> Any:
    """The tokenizer of a checkpoint folder (its JSON file; no model, no torch), None if it is gone."""
    from tokenizers import Tokenizer

    file = Path(path) / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.is_file() else None


def _about(entries: list[Entry], item: str, where: dict[str, Any], pos: int) -> None:
    """Every signal of one token: over layers where it has layers, over steps else."""
    st.markdown(f"##### Token read at position {pos}")
    for entry in entries:
        kinds = table_columns(entry.root, entry.analysis, entry.key)
        at = {"item": [item], "pos": [pos]} | (
            {"answer_kind": [where["answer_kind"]]} if "answer_kind" in where else {}
        )
        found, count = rows(entry, where=at, limit=20_000)
        if not count:
            continue
        st.markdown(f"**{address.escaped(entry.analysis)}**")
        column = next((c for c in _signals(entry)), None)
        if column and "layer" in kinds:
            steps = {s for s in (st.session_state.get("step"), st.session_state.get("base")) if s is not None}
            part = found[found["step"].isin(steps)] if steps and "step" in found else found
            color = "step" if "step" in part else None
            part = part.drop_duplicates(["layer", *([color] if color else [])])
            figure = figures.curve(part, x="layer", y=column, color=color, title=f"{column} over layers")
            parts.figure(figure, "token", key=f"about-{entry.key}", alt=f"{column} of this token over layers")
        box = address.folded(f"{count:,} rows", key=f"rows-{entry.analysis}")
        if box.open:
            box.dataframe(found.head(tables.MAX_ROWS), hide_index=True, key=f"about-rows-{entry.key}")
