"""Page Run: what happened to the model over training, the answers first, then the curves of the runs chosen."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from apps.catalog import Entry, Listing, located, run_names
from apps.dashboard.widgets import address, answers, exports, linked, parts, rail, series, tables
from apps.drawn import curves, overview, panels
from apps.drawn.reproduction import of_run
from probe import RunLog
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LOG_SECONDS = 20  # after which a log is read again: a run may go on
SMOOTHING = [0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99]
Shown = tuple[pd.DataFrame, list[str], list[str], float, str]  # rows, panels, groups, smoothing, horizontal axis


def show(found: Listing) -> None:
    """The answers, the curves of the chosen runs, what older results say."""
    by_name = run_names(found.runs())
    st.subheader("What happened over training", anchor=False)
    others = answers.show(found, by_name)
    if any(e.is_sweep and e.run for e in found.entries):
        _chosen(found, by_name)
    else:
        st.info("No result covers a series of checkpoints yet. Make one:")
        st.code("probe sweep perplexity --checkpoints DIR --prompts FILE", language="bash")
    others()
    entries = [e for path in by_name.values() for e in overview.newest(found, path)]
    series.claims(entries, {path: name for name, path in by_name.items()})


def _chosen(found: Listing, by_name: dict[str, str]) -> None:
    """Curves of the runs a reader chose."""
    chosen = rail.selected(found)
    runs = {name: by_name[name] for name in chosen}
    entries = [e for path in runs.values() for e in overview.newest(found, path)]
    logs = {name: str((located(path, found.store.root) or Path(path)).resolve()) for name, path in runs.items()}
    rows = _rows(entries, {path: name for name, path in runs.items()}, logs)
    if rows.empty:
        st.info("No curve over steps in what is chosen: choose another run, or go to Circuit for curves over layers.")
        return
    if left := [n for n in chosen if n not in set(rows["run"])]:
        st.caption(f"No curve over steps: {address.escaped(', '.join(left))} (see Circuit and Results).")
    _curves(found, rows, entries, runs, logs)


def _rows(entries: list[Entry], names: dict[str, str], logs: dict[str, str]) -> pd.DataFrame:
    """Estimates over steps of all entries, and the training logs, as rows with the columns run and panel."""
    found = [
        curves.over_steps(series.measured(e, {})).assign(analysis=e.analysis, key=e.key, run=names[e.run])
        for e in entries
        if series.has_dims(e, "step", "rollout_step")
    ]
    read = {name: log_of(folder) for name, folder in logs.items() if Path(folder).is_dir()}
    written = [curves.logged(log).assign(run=name) for name, log in read.items() if isinstance(log, RunLog)]
    return curves.apart(curves.joined([*found, *written]))


@st.cache_resource(max_entries=50, ttl=LOG_SECONDS, show_spinner=False)
def log_of(folder: str) -> RunLog | str:
    """The log a trainer left in a run's folder, else why there is none."""
    try:
        return RunLog.read(folder)
    except InputError as error:
        return str(error)


def _chosen_curves(rows: pd.DataFrame, axes: list[str]) -> Shown:
    """What is set in the box of curves: panels, groups of items, smoothing, horizontal axis."""
    names = list(dict.fromkeys(rows["panel"]))
    groups = [g for g in dict.fromkeys(rows["group"].dropna()) if g != curves.ALL]
    default = panels.wanted(rows) or names[:3]
    how: dict[str, Any] = {"name": curves.title, "buttons": False}
    with st.popover("Curves", icon=":material/tune:"):
        shown = address.select_many("Curves", names, key="curves", default=default, **how)
        picked = address.select_many("Groups of items", groups, key="group") if len(groups) > 1 else []
        smoothing = address.slide("Smoothing (a smoothed line has no interval)", SMOOTHING, key="smooth", default=0.0)
        x = address.select("Along", axes, key="x", radio=True, horizontal=True) if len(axes) > 1 else "step"
    return curves.chosen(rows, shown, picked), shown, picked, smoothing, x


def _curves(
    found: Listing, rows: pd.DataFrame, entries: list[Entry], runs: dict[str, str], logs: dict[str, str]
) -> None:
    """The curves side by side, their numbers, and what a reader takes from both."""
    above = st.container()
    below = st.container(horizontal=True, vertical_alignment="center")
    with below:
        read = {name: log_of(folder) for name, folder in logs.items() if Path(folder).is_dir()}
        counts = {name: curves.axes(log) for name, log in read.items() if isinstance(log, RunLog)}
        known = list(dict.fromkeys(axis for of in counts.values() for axis in of))
        rows, shown, picked, smoothing, x = _chosen_curves(rows, ["step", *known])
        rows = panels.along(rows, counts, x)
    if rows.empty:
        st.info("Choose at least one curve.")
        return
    names = {path: name for name, path in runs.items()}
    alike = {run: name for run, name in rail.together(found).items() if run in runs}
    together = panels.together(rows, alike) if x == "step" else rows
    hues = curves.colors(list(dict.fromkeys(together["run"]))) | rail.colors(found)
    views = panels.panels(together, hues, x=x, smoothing=smoothing)
    staged = {names[e.run]: e for e in entries if e.analysis == overview.STAGED and names[e.run] in set(rows["run"])}
    for name, entry in staged.items() if x == "step" else ():
        table = parts.result_of(str(entry.root), entry.analysis, entry.key).table
        panels.staged(views, name, table, hues[name])
    with above:
        parts.side_by_side(views, alt="over optimizer steps", on_point=partial(_opened, x))
    linked.show("panels")
    with below:
        st.caption(_legend(staged, alike, is_shaded=any(figure.layout.shapes for figure, _ in views.values())))
    _logs(logs)
    box = address.folded("Numbers of these curves", key="numbers")
    if box.open:
        told = rows[[c for c in ("run", "panel", "step", *curves.SHOWN) if c in rows]]
        box.dataframe(told, hide_index=True, column_config=tables.ROUND, key="run_rows")
    drawn = [(names[e.run], e) for e in entries if "key" in rows and e.key in set(rows["key"])]
    logged = {name: logs[name] for name in dict.fromkeys(rows.loc[curves.is_logged(rows), "run"])}
    own = {name: hues[name] for name in hues if name in runs or name in set(together["run"])}
    exports.show(
        "run",
        views,
        lambda: of_run(entries[0].root, drawn, logged, staged, shown, picked, own, (alike, smoothing, x)),
        [*(e for _, e in drawn), *staged.values()],
    )


def _opened(x: str, figure: Figure, rows: pd.DataFrame, point: Any) -> None:
    """A point of a curve opens what its run wrote at that step, of the curve's group of items."""
    if at := panels.place_of(figure, rows, point, x):
        group = {"group": [at["group"]]} if at["group"] != curves.ALL else {}
        address.go(page="Read", of=at["run"], step=int(at["step"]), **group)


def _legend(staged: dict[str, Entry], alike: dict[str, str], *, is_shaded: bool) -> str:
    """What bands, stars and shades are."""
    band = "smallest to largest of the runs read together" if alike else "95 % over items"
    told = f"A point opens what was written there. Bands: {band}."
    if staged:
        told += " Star: the checkpoint to ship."
    if is_shaded:
        told += " Shades: good fit green, over-memorized orange, over-fit pink, any other stage grey."
    return told


def _logs(logs: dict[str, str]) -> None:
    """What is to be said of the training logs."""
    for name, folder in logs.items():
        if Path(folder).is_dir():
            log = log_of(folder)
            for said in (log,) if isinstance(log, str) else log.notes:
                st.caption(f"Training log of {address.escaped(name)}: {address.escaped(said)}")
