"""Page Run: what happened to the model over training, all curves of the chosen runs on one step axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from apps.catalog import Entry, Listing, located, run_names
from apps.dashboard.widgets import address, answers, exports, parts, series, tables
from apps.drawn import curves
from apps.drawn.reproduction import of_run
from probe import RunLog
from probe.errors import InputError

WANTED = (
    r"^accuracy\b",
    r"^ppl · answer(?: ·|$)",
    r"^ppl · prompt(?: ·|$)",
    r"^log: entropy$",
    r"^kl_nats$",
    r"^log: reward$",
)
MAX_RUNS, MAX_OPEN = 4, 40
LOG_SECONDS = 20  # after which a log is read again: a run may go on


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
    runs = {name: by_name[name] for name in chosen}
    entries = [e for path in runs.values() for e in series.newest(found, path)]
    logs = {name: str((located(path, found.store.root) or Path(path)).resolve()) for name, path in runs.items()}
    rows = _rows(entries, {path: name for name, path in runs.items()}, logs)
    if rows.empty:
        st.info("No curve over steps in what is chosen: choose another run, or go to Circuit for curves over layers.")
        return
    _curves(rows, entries, runs, logs, {name: c for name, c in curves.colors(swept).items() if name in runs})


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


def _rows(entries: list[Entry], names: dict[str, str], logs: dict[str, str]) -> pd.DataFrame:
    """Estimates over steps of all entries, and the training logs, as rows with the columns run and panel."""
    found = [
        curves.over_steps(series.measured(e, {})).assign(analysis=e.analysis, key=e.key, run=names[e.run])
        for e in entries
        if series.has_dims(e, "step", "rollout_step")
    ]
    read = {name: log_of(folder) for name, folder in logs.items() if Path(folder).is_dir()}
    for name, log in read.items():
        for said in (log,) if isinstance(log, str) else log.notes:
            st.caption(f"Training log of {address.escaped(name)}: {address.escaped(said)}")
    written = [curves.logged(log).assign(run=name) for name, log in read.items() if isinstance(log, RunLog)]
    return curves.joined([*found, *written])


@st.cache_resource(max_entries=50, ttl=LOG_SECONDS, show_spinner=False)
def log_of(folder: str) -> RunLog | str:
    """The log a trainer left in a run's folder, else why there is none."""
    try:
        return RunLog.read(folder)
    except InputError as error:
        return str(error)


def _curves(
    rows: pd.DataFrame, entries: list[Entry], runs: dict[str, str], logs: dict[str, str], colors: dict[str, str]
) -> None:
    """Choose curves and groups; the figure, its numbers, and what a reader takes from both."""
    panels = list(dict.fromkeys(rows["panel"]))
    how: dict[str, Any] = {"name": curves.title, "buttons": False}
    shown = address.select_many("Curves", panels, key="curves", default=wanted(rows) or panels[:3], **how)
    groups = [g for g in dict.fromkeys(rows["group"].dropna()) if g != curves.ALL]
    picked = address.select_many("Groups of items", groups, key="group") if len(groups) > 1 else []
    rows = curves.chosen(rows, shown, picked)
    if rows.empty:
        st.info("Choose at least one curve.")
        return
    figure = curves.steps_figure(rows, colors)
    names = {path: name for name, path in runs.items()}
    staged = {names[e.run]: e for e in entries if e.analysis == answers.STAGED and names[e.run] in set(rows["run"])}
    for name, entry in staged.items():
        table = parts.result_of(str(entry.root), entry.analysis, entry.key).table
        curves.stages(figure, rows, name, table, colors[name])
    parts.figure(figure, "run", key="run_figure", alt="Curves of the chosen runs over optimizer steps")
    st.caption("Newest result of each analysis per run; the page Results has the others. Bands: 95 % over items.")
    box = address.folded("Numbers of these curves", key="numbers")
    if box.open:
        told = rows[[c for c in ("run", "panel", "step", *curves.SHOWN) if c in rows]]
        box.dataframe(told, hide_index=True, column_config=tables.ROUND, key="run_rows")
    drawn = [(names[e.run], e) for e in entries if "key" in rows and e.key in set(rows["key"])]
    logged = {name: logs[name] for name in dict.fromkeys(rows.loc[curves.is_logged(rows), "run"])}
    exports.show(
        "run",
        {"curves": (figure, rows)},
        lambda: of_run(entries[0].root, drawn, logged, staged, shown, picked, colors),
        [*(e for _, e in drawn), *staged.values()],
    )


def wanted(rows: pd.DataFrame) -> list[str]:
    """Per kind of curve the one most runs have."""
    found: list[str] = []
    for pattern in WANTED:
        hits = rows[rows["panel"].str.contains(pattern)]
        if len(hits):
            found.append(str(hits.groupby("panel", sort=False)["run"].nunique().idxmax()))
    return found
