"""Page Token: one item, its tokens coloured by any per-token signal, at one checkpoint, at two, or their difference."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from analyses.core import figures
from analyses.core.store.contents import rows, table_columns
from analyses.core.store.files import place
from analyses.core.store.store import Store, StoreError
from apps.catalog import Entry, Listing, listing, located, not_found
from apps.dashboard.widgets import address, exports, live, looking, parts, rail, running, series, tables
from apps.drawn import grid, strips, texts
from apps.drawn.reproduction import of_token
from apps.drawn.texts import Written

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# What tells an item's rows apart beside layer and token.
SITES = ("site", "variant", "direction", "checkpoint", "head", "rollout_step", "sample")
FIRST = ("logprob_nats", "nll_nats", "jsd_nats")  # signals shown before one is chosen, by what they end with
PREVIEW = 80  # characters of a prompt in the list of items
ONE, SIDE, DIFFERENCE = "one checkpoint", "two checkpoints", "difference"
MISSING = (
    "No result here keeps values per token yet. logit_lens and divergence do: "
    "probe sweep logit_lens --checkpoints DIR --prompts FILE"
)


def show(found: Listing) -> None:
    """Choose item and signal; the strip; what is known about one token."""
    st.subheader("One item, token by token", anchor=False)
    chosen = series.choose_run(found, _per_token, MISSING, rail.selected(found))
    if chosen is None:
        return
    _, entries = chosen
    signals = {f"{e.analysis}: {c}": (e, c) for e in entries for c in strips.signals(e)}
    left, middle, right = st.columns([2, 3, 2])
    with left:
        named = {n: f"{e.analysis}: {strips.named(c)}" for n, (e, c) in signals.items()}
        first = _first(list(signals))
        name = address.select("Signal", list(signals), key="signal", default=first, name=lambda n: named[n])
    entry, column = signals[name]
    items = _items(entry)
    prompts = texts.of(entry)
    with middle:
        item = address.select("Item (type to search)", items, key="item", name=lambda i: _item_name(i, prompts))
    with right:
        where = {"item": item, **_kind(entry, item), **_site(entry, item)}
        where |= _layer(entry)
    _text_of(entry, prompts.get(item, []), item, where)
    _drawn(entries, entry, column, where)


def _drawn(entries: list[Entry], entry: Entry, column: str, where: Mapping[str, object]) -> None:
    """The strip or strips, what is known about the token chosen on one, and what a reader takes from both."""
    look = _look(entry)
    views = strips.strips(entry, column, where, **look)
    if not views:
        st.info("Nothing was measured on this item here.")
        return
    if why := strips.undecoded(entry):
        st.caption(address.escaped(f"Tokens are shown as ids: {why}."))
    places = [str(p) for _, part in views.values() for p in part["pos"]]
    picked = address.held("pos", ["", *places], "")
    found = _grid(entry, column, where, look)
    if found:
        cell = (int(str(where["layer"])), int(picked)) if picked else None
        live.show(grid.table(found, cell, f"{strips.named(column)} by layer and position"), key="grid", on_pick=_cell)
    for name, view in views.items():
        _shown(name, *view, picked)
    about = None
    if picked:
        place = {"pos": int(picked), **{k: v for k, v in where.items() if k != "layer"}}
        about = (entries, place, [look[name] for name in ("step", "base") if name in look])
        views = {**views, **_about(*about, _token_text(views, int(picked)))}
    _attention(entry, where, look)
    made = partial(of_token, entry, column, where, look, about)
    exports.show("token", views, made, dict.fromkeys([entry, *(entries if about else [])]))


def _attention(entry: Entry, where: Mapping[str, object], look: Mapping[str, object]) -> None:
    """The box with attention; there is none where no model can be run or its text or checkpoint is out of reach."""
    kind = where.get("answer_kind")
    written = next((w for w in texts.of(entry).get(str(where["item"]), []) if kind in (None, w[2])), None)
    of = [c for c in entry.checkpoints if "step" not in look or c.get("step") == look["step"]]
    path = located(of[-1]["path"], entry.root) if of else None
    if written is None or path is None or running.reason():
        return
    box = address.folded("Attention of this text (runs the model)", key="attention", icon=":material/visibility:")
    if box.open:
        with box:
            text = " ".join(written[:2])
            looking.show(text, str(path), int(str(where.get("layer", 0))), running.model)


def _grid(entry: Entry, column: str, where: Mapping[str, object], look: Mapping[str, object]) -> grid.Grid | None:
    """Layers by positions of the item; None for a result without layers."""
    return _made(str(entry.root), entry.analysis, entry.key, column, parts.frozen(where), parts.frozen(look))


@st.cache_resource(max_entries=60, show_spinner=False)
def _made(
    root: str,
    analysis: str,
    key: str,
    column: str,
    where: tuple[tuple[str, Any], ...],
    look: tuple[tuple[str, Any], ...],
) -> grid.Grid | None:
    entry = listing(Store.at(root)).find(key) or Entry(place(root), {"analysis": analysis, "key": key})
    return grid.of_item(entry, column, dict(where), **dict(look))


def _cell(word: str) -> None:
    """A cell of the grid sets layer and position."""
    layer, _, pos = word.partition(grid.BREAK)
    address.go(layer=int(layer), pos=pos)


def _per_token(entry: Entry) -> bool:
    try:
        return {"item", "pos"} <= set(table_columns(entry.root, entry.analysis, entry.key))
    except StoreError:
        return False


def _first(names: list[str]) -> str:
    """The lens where there is one, whichever result was finished first."""
    wanted = [n for end in FIRST for n in names if n.endswith(end)]
    return (wanted or names)[0]


@st.cache_data(max_entries=50, show_spinner=False)
def _distinct(root: str, analysis: str, key: str, column: str, where: dict[str, list[Any]]) -> list[Any]:
    entry = Entry(place(root), {"analysis": analysis, "key": key})
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
    if len(kinds) == 1:
        return {"answer_kind": kinds[0]}
    return {"answer_kind": address.select("Answer", sorted(kinds), key="answer", radio=True, horizontal=True)}


def _site(entry: Entry, item: str) -> dict[str, object]:
    """Of which site, direction and the like, where an item has several."""
    found: dict[str, object] = {}
    for name in [c for c in SITES if c in table_columns(entry.root, entry.analysis, entry.key)]:
        values = _distinct(str(entry.root), entry.analysis, entry.key, name, {"item": [item]})
        if len(values) > 1:
            found[name] = address.select(figures.axis_name(name), sorted(values), key=f"of_{name}")
    return found


def _layer(entry: Entry) -> dict[str, Any]:
    if "layer" not in table_columns(entry.root, entry.analysis, entry.key):
        return {}
    layers = sorted(_distinct(str(entry.root), entry.analysis, entry.key, "layer", {}))
    return {"layer": address.slide("Layer", layers, key="layer", default=layers[-1])}


def _text_of(entry: Entry, written: Written, item: str, where: Mapping[str, object]) -> None:
    """Prompt and answer as written in the prompt file, where that still lies where it was read."""
    source = texts.source(entry)
    found = next((w for w in written if where.get("answer_kind", w[2]) == w[2]), None)
    if found:
        st.code("\n".join(found[:2]), language=None, wrap_lines=True)
    elif source:
        is_there = located(source, entry.root)
        why = f"{source} has no item {item} in a form this page reads" if is_there else not_found(source)
        st.caption(address.escaped(f"The text is not shown: {why}."))


def _item_name(item: str, prompts: dict[str, Written]) -> str:
    """An item with the beginning of its prompt, so that typing words of either finds it."""
    if item not in prompts:
        return item
    start = " ".join(prompts[item][0][0][:PREVIEW].split())
    return f"{item} · {start}{'…' if len(prompts[item][0][0]) > PREVIEW else ''}"


def _look(entry: Entry) -> dict[str, Any]:
    """Which checkpoints are shown, and how, as ``strips`` takes it."""
    steps = entry.steps if entry.is_sweep else []
    modes = [ONE, SIDE, DIFFERENCE] if len(steps) > 1 else [ONE]
    left, middle, right = st.columns([3, 2, 2], vertical_alignment="bottom")
    with left:
        mode = address.select("Show", modes, key="show", radio=True, horizontal=True) if len(modes) > 1 else ONE
    with middle:
        look = {"step": address.slide("Step", steps, key="step", default=steps[-1])} if steps else {}
    with right:
        if mode != ONE:
            look["base"] = address.slide("Compared with step", steps, key="base", default=steps[0])
    return {**look, **({"difference": True} if mode == DIFFERENCE else {})}


def _shown(name: str, figure: Figure, part: pd.DataFrame, picked: str) -> None:
    """A strip; a token chosen on it is kept as its position."""
    wide = figures.TOKENS_PER_ROW
    places = list(map(str, part["pos"]))
    at = places.index(picked) if picked in places else None
    cell = (str(at % wide), str(at // wide)) if at is not None else None
    layout: Any = figure.layout
    title = layout.title.text

    def named(point: Any) -> str:
        place = round(point["y"]) * wide + round(point["x"])
        return places[place] if place < len(places) else ""

    keep = parts.kept("pos", named)
    parts.figure(parts.clickable(figure, cell), name, key=f"strip-{title}", on_point=keep, alt=title)


def _token_text(views: exports.Views, pos: int) -> str:
    """The text of the token at a position, as the strips show it."""
    texts = (part.loc[part["pos"] == pos, "shown"] for _, part in views.values())
    return next(figures.visible(str(t.iloc[0])) for t in texts if len(t))


def _about(entries: list[Entry], place: Mapping[str, object], steps: list[int], text: str) -> exports.Views:
    """Every signal of one token: over layers where it has layers; the figures drawn."""
    named = address.escaped(f"“{text}” of {place['item']}")
    st.markdown(f"##### Token {named}, read at position {place['pos']}")
    drawn: dict[str, tuple[Any, pd.DataFrame]] = {}
    for entry in entries:
        found, count, views = strips.of_token(entry, place, steps)
        if not count:
            continue
        st.markdown(f"**{address.escaped(entry.analysis)}**")
        for figure, _ in views.values():
            parts.figure(figure, "token", key=f"about-{entry.key}", alt=figure.layout.title.text)
        drawn.update(views)
        box = address.folded(f"{count:,} rows", key=f"rows-{entry.analysis}")
        if box.open:
            told = strips.decoded(entry, found.head(tables.MAX_ROWS))
            box.dataframe(told, hide_index=True, key=f"about-rows-{entry.key}")
    return drawn
