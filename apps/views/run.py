"""Page Run: what happened to the model over training, all curves of the chosen runs on one step axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core import figures
from analyses.core.figures import PALETTE
from apps.contents import training_log
from apps.reading import Entry, Listing, located, run_names
from apps.views import address, answers, parts, series, tables

OTHER_AXES = {"layer", "window", "pos", "key_pos", "head", "kv_head", "neuron", "source_step", "alpha", "k", "state"}
WANTED = (r"^accuracy\b", r"^ppl · answer(?: ·|$)", r"^ppl · prompt(?: ·|$)", r"^log: entropy$", r"^log: reward$")
ALL = "all items"
MAX_RUNS, MAX_OPEN = 4, 40


def show(found: Listing) -> None:
    """The answers, the curves of the chosen runs, what each result says."""
    st.subheader("What happened over training", anchor=False)
    by_name = run_names(found.runs())
    answers.show(found, by_name)
    swept = [n for n, path in by_name.items() if any(e.run == path and e.is_sweep for e in found.entries)]
    if swept:
        _chosen(found, by_name, swept)
    else:
        st.info("No result covers a series of checkpoints yet. Make one:")
        st.code("probe sweep perplexity --checkpoints DIR --prompts FILE", language="bash")
    _verdicts(found, by_name)


def _chosen(found: Listing, by_name: dict[str, str], swept: list[str]) -> None:
    """Curves of the runs a reader chose."""
    first = _alike(found, {n: by_name[n] for n in swept})
    chosen = address.select_many("Training runs", swept, key="run", default=first, buttons=len(swept) <= 12)
    left = [n for n in by_name if n not in swept]
    if left:
        st.caption(f"No curve over steps: {address.escaped(', '.join(left))} (see Circuit and Results).")
    entries = [e for name in chosen for e in series.newest(found, by_name[name])]
    rows = _rows(entries, {by_name[name]: name for name in chosen}, found.store.root)
    if rows.empty:
        st.info("No curve over steps in what is chosen: choose another run, or go to Circuit for curves over layers.")
        return
    _curves(rows, entries, by_name)
    st.caption("Newest result of each analysis per run; the page Results has the others. Bands: 95 % over items.")


def _verdicts(found: Listing, by_name: dict[str, str]) -> None:
    """What every run's newest results say, word for word; closed where that is a lot to read."""
    entries = [e for path in by_name.values() for e in series.newest(found, path)]
    few = len(entries) <= MAX_OPEN
    box = address.folded("What each result says", key="others", icon=":material/gavel:", default=few)
    if box.open:
        with box:
            if not series.claims(entries, {path: name for name, path in by_name.items()}):
                st.caption("No result states a verdict; over\\_memorization and cross\\_patching state one.")


def _alike(found: Listing, runs: dict[str, str]) -> list[str]:
    """Runs measured on the same data, which can be read against each other: most verdicts first, then most runs."""
    by_data: dict[str, list[str]] = {}
    for name, path in runs.items():
        entries = series.newest(found, path)
        data = next((e.data_name for e in entries if e.analysis == "perplexity"), "") or entries[0].data_name
        by_data.setdefault(data, []).append(name)
    staged = {e.run for e in found.of("over_memorization")}
    best = max(by_data.values(), key=lambda names: (sum(runs[n] in staged for n in names), len(names)))
    return best[:MAX_RUNS]


def _rows(entries: list[Entry], names: dict[str, str], root: Path) -> pd.DataFrame:
    """Estimates over steps of all entries, and the training logs, as rows with the columns run and panel."""
    found = [series.panelled(e, "step", OTHER_AXES) for e in entries if series.has_dims(e, "step")]
    for path in names:
        log = training_log(str(located(path, root) or path))
        named = "log: " + log["quantity"]
        found.append(log.assign(panel=named, quantity=named, run=path, group=ALL))
    rows = series.joined(found)
    return rows.assign(run=rows["run"].map(names)) if len(rows) else rows


def _curves(rows: pd.DataFrame, entries: list[Entry], by_name: dict[str, str]) -> None:
    panels = list(dict.fromkeys(rows["panel"]))
    how: dict[str, Any] = {"name": series.title, "buttons": False}
    shown = address.select_many("Curves", panels, key="curves", default=wanted(rows) or panels[:3], **how)
    rows = rows.assign(group=rows["group"].fillna(ALL))
    groups = [g for g in dict.fromkeys(rows["group"]) if g != ALL]
    if len(groups) > 1:
        picked = address.select_many("Groups of items", groups, key="group")
        rows = rows[rows["group"].isin([*(picked or groups), ALL])]
    rows = rows[rows["panel"].isin(shown)]
    if rows.empty:
        st.info("Choose at least one curve.")
        return
    rows = rows.assign(panel=pd.Categorical(rows["panel"], shown)).sort_values("panel", kind="stable")
    lines: dict[str, Any] = {"color": "run", "dash": "group"} if len(set(rows["run"])) > 1 else {"color": "group"}
    named = rows.assign(panel=[series.title(p) for p in rows["panel"]])
    figure = figures.curve(named, **lines, facet="panel", columns=1)
    for entry in entries:
        if entry.analysis == answers.STAGED:
            _stages(figure, entry, rows, by_name)
    parts.figure(figure, "run", key="run_figure", alt="Curves of the chosen runs over optimizer steps")
    box = address.folded("Numbers of these curves", key="numbers")
    if box.open:
        told = rows.drop(columns=["key", "analysis"], errors="ignore")
        box.dataframe(told, hide_index=True, column_config=tables.ROUND, key="run_rows")


def wanted(rows: pd.DataFrame) -> list[str]:
    """Per kind of curve the one most runs have."""
    found: list[str] = []
    for pattern in WANTED:
        hits = rows[rows["panel"].str.contains(pattern)]
        if len(hits):
            found.append(str(hits.groupby("panel", sort=False)["run"].nunique().idxmax()))
    return found


def _stages(figure: Any, entry: Entry, rows: pd.DataFrame, by_name: dict[str, str]) -> None:
    """Stages shaded where one run is shown; the recommended checkpoint of every run starred, named in the legend."""
    table = parts.result_of(str(entry.root), entry.analysis, entry.key).table
    run = next(n for n, p in by_name.items() if p == entry.run)
    order = list(dict.fromkeys(rows["run"]))
    if run not in order:
        return
    if len(order) == 1:
        figures.stage_shades(figure, table)
    panels = list(dict.fromkeys(rows["panel"]))
    number = next((i for i, p in enumerate(panels) if str(p).startswith("accuracy")), 0)
    place = {"row": number + 1, "col": 1} if len(panels) > 1 else {}
    color = PALETTE[order.index(run) % len(PALETTE)]
    for step in table.loc[table["recommended"].astype(bool), "step"]:
        at = rows[(rows["run"] == run) & (rows["step"] == step) & (rows["panel"] == panels[number])]
        if len(at):
            figures.star(figure, float(step), float(at["value"].iloc[0]), f"ship {run}", color=color, **place)
        else:
            figures.mark(figure, float(step), f"ship {run}", color=color)
