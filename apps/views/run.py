"""Page Run: what happened to the model over training, all curves of the chosen runs on one step axis."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core import figures
from analyses.core.result import DIMS
from analyses.core.store import Store, StoreError
from analyses.core.traces import PALETTE, plain
from apps.reading import Entry, Listing, array_names, training_log, verdict
from apps.views import address, parts
from probe.errors import InputError

NOT_ONE_AXIS = {"layer", "window", "pos", "key_pos", "head", "kv_head", "neuron", "source_step", "alpha", "k", "state"}
UNSAID = ("micro", "given")  # what a reader assumes where nothing else is said
WANTED = (r"^accuracy\b", r"^ppl · answer( ·|$)", r"^ppl · prompt( ·|$)", r"^log: entropy$", r"^log: reward$")
LOGGED = "training batches"
MAX_RUNS = 4
STAGE_COLORS = {"good fit": "#009E73", "over-memorized": "#D55E00", "over-fit": "#CC79A7"}


def show(store: Store, found: Listing) -> None:
    """Verdicts of the chosen runs, then their curves."""
    st.subheader("What happened over training", anchor=False)
    by_name = run_names(found.runs())
    swept = [n for n, path in by_name.items() if any(e.run == path and e.is_sweep for e in found.entries)]
    if not swept:
        st.info("No result covers a series of checkpoints yet. Make one:")
        st.code("probe sweep perplexity --checkpoints DIR --prompts FILE", language="bash")
        return
    chosen = address.select_many("Training runs", swept, key="run", default=swept[:MAX_RUNS])
    entries = [e for name in chosen for e in newest(found, by_name[name])]
    _claims(entries, {path: name for name, path in by_name.items()})
    rows = _series(store, entries, {by_name[name]: name for name in chosen})
    if rows.empty:
        st.info("Choose at least one training run that has results over steps.")
        return
    _curves(rows, entries, chosen, by_name)
    st.caption("Newest result of each analysis per run; the page Results has the others. Bands: 95 % over items.")


def run_names(runs: list[str]) -> dict[str, str]:
    """Shortest names that tell the runs' folders apart -> path."""
    for depth in range(1, 6):
        names = ["/".join(PurePath(r).parts[-depth:]) for r in runs]
        if len(set(names)) == len(names):
            break
    else:
        names = runs
    return dict(zip(names, runs, strict=True))


def newest(found: Listing, run: str) -> list[Entry]:
    """The newest result of each analysis about a run."""
    kept: dict[str, Entry] = {}
    for entry in found.entries:
        if entry.run == run:
            kept[entry.analysis] = entry
    return list(kept.values())


def _claims(entries: list[Entry], names: dict[str, str]) -> None:
    said: list[dict[str, str]] = []
    for entry in entries:
        try:
            text = verdict(entry.root, entry.analysis, entry.key)
        except StoreError as error:
            st.error(address.escaped(error))
            continue
        if text:
            said.append({"run": names[entry.run], "analysis": entry.analysis, "verdict": text})
    if not said:
        st.caption("No analysis here states a verdict; over_memorization and perplexity_paradox do, over such results.")
        return
    for run in dict.fromkeys(s["run"] for s in said):
        with st.container(border=True):
            st.markdown(f"**{address.escaped(run)}**")
            for line in (s for s in said if s["run"] == run):
                st.markdown(f"{address.escaped(line['analysis'])}: {address.escaped(line['verdict'])}")


def _series(store: Store, entries: list[Entry], names: dict[str, str]) -> pd.DataFrame:
    """Estimates over steps of all entries, and the training logs, as rows with the columns run and panel."""
    parts_: list[pd.DataFrame] = []
    for entry in entries:
        try:
            if "step" in array_names(entry.root, entry.analysis, entry.key):
                parts_.append(_panelled(parts.summary_of(str(store.root), entry.analysis, entry.key), entry))
        except (StoreError, InputError) as error:
            st.error(address.escaped(error))
    logs = {path: training_log(path) for path in {e.run: None for e in entries}}
    for path, log in logs.items():
        named = "log: " + log["quantity"]
        parts_.append(log.assign(panel=named, quantity=named, source=path, group=LOGGED))
    rows = pd.concat([p for p in parts_ if len(p)], ignore_index=True) if any(map(len, parts_)) else pd.DataFrame()
    return rows.assign(run=rows["source"].map(names)) if len(rows) else rows


def _panelled(summary: pd.DataFrame, entry: Entry) -> pd.DataFrame:
    """Quantities whose only axis is the step, each combination of their other dims a panel of its own."""
    found: list[pd.DataFrame] = []
    for _, part in summary.groupby("quantity", sort=False):
        dims = [d for d in part.columns if d in DIMS and part[d].notna().any() and len(part[d].unique()) > 1]
        if "step" not in dims or NOT_ONE_AXIS & set(dims):
            continue
        others = [d for d in part.columns if d in DIMS and d not in ("step", "group") and part[d].notna().any()]
        texts = part[["quantity", *others]].itertuples(index=False)
        panel = [" · ".join(plain(v) for v in values if v not in UNSAID) for values in texts]
        keep = ["quantity", "unit", "step", "group", "value", "ci_low", "ci_high", "n"]
        found.append(part.reindex(columns=keep).assign(panel=panel, source=entry.run))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _curves(rows: pd.DataFrame, entries: list[Entry], chosen: list[str], by_name: dict[str, str]) -> None:
    panels = list(dict.fromkeys(rows["panel"]))
    shown = address.select_many("Curves", panels, key="curves", default=_wanted(rows) or panels[:3], buttons=False)
    rows = rows.assign(group=rows["group"].fillna("all items"))
    groups = [g for g in dict.fromkeys(rows["group"]) if g != LOGGED]
    if len(groups) > 1:
        picked = address.select_many("Groups of items", groups, key="group")
        rows = rows[rows["group"].isin([*(picked or groups), LOGGED])]
    rows = rows[rows["panel"].isin(shown)]
    if rows.empty:
        st.info("Choose at least one curve.")
        return
    rows = rows.assign(panel=pd.Categorical(rows["panel"], shown)).sort_values("panel", kind="stable")
    lines = {"color": "run", "dash": "group"} if len(set(rows["run"])) > 1 else {"color": "group"}
    figure = figures.curve(rows.astype({"panel": str}), **lines, facet="panel", columns=1, y_title=" ")
    order = {run: i for i, run in enumerate(dict.fromkeys(rows["run"]))}
    for entry in entries:
        if entry.analysis == "over_memorization":
            _stages(figure, entry, order, by_name, alone=len(chosen) == 1)
    parts.figure(figure, "run", key="run_figure", alt="Curves of the chosen runs over optimizer steps")
    with st.expander("Numbers of these curves"):
        st.dataframe(rows.drop(columns=["source"]), hide_index=True, column_config=parts.ROUND, key="run_rows")


def _wanted(rows: pd.DataFrame) -> list[str]:
    """Per kind of curve the one most runs have."""
    found: list[str] = []
    for pattern in WANTED:
        hits = rows[rows["panel"].str.contains(pattern)]
        if len(hits):
            found.append(str(hits.groupby("panel", sort=False)["run"].nunique().idxmax()))
    return found


def _stages(figure: Any, entry: Entry, order: dict[str, int], by_name: dict[str, str], *, alone: bool) -> None:
    """Stages shaded where one run is shown; the recommended checkpoint of every run marked."""
    table = parts.result_of(str(entry.root), entry.analysis, entry.key).table
    run = next(n for n, p in by_name.items() if p == entry.run)
    if alone:
        numbered = (table["stage"] != table["stage"].shift()).cumsum()
        for _, span in table.groupby(numbered):
            later = table.loc[table["step"] > span["step"].max(), "step"]
            end = float(later.min() if len(later) else span["step"].max())
            stage = str(span["stage"].iloc[0])
            figures.shade(figure, float(span["step"].min()), end, stage, color=STAGE_COLORS.get(stage, figures.NEUTRAL))
    for step in table.loc[table["recommended"].astype(bool), "step"]:
        figures.mark(figure, float(step), f"ship {run}", color=PALETTE[order.get(run, 0) % len(PALETTE)])
