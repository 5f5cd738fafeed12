"""Curves over training as small multiples: what the page Run draws, without a page.

One panel a quantity and, where several runs have several groups of items, a panel a group: colour tells runs apart, or
groups where there is one run; nothing is told by dashes. Runs that differ in a pattern of their names alone (a seed)
can be read together: their mean, and a band from the smallest to the largest of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.core import figures
from analyses.core.figures import quantity_name, unit_name, value_name
from apps.drawn.curves import ALL, LOG, SEPARATOR, colors

HEIGHT, TOP, BOTTOM = 262, 50, 40
TITLE = {"x": 0, "xref": "container", "xanchor": "left", "y": 0.94, "yref": "container", "yanchor": "top"}
MOST = 6  # lines a panel
FIRST = 12  # panels at first sight; others are chosen by hand
WANTED = (
    r"^accuracy\b",
    r"^ppl · answer(?: ·|$)",
    r"^log: reward$",
    r"^log: entropy$",
    r"^ppl · prompt(?: ·|$)",
    r"^kl_nats$",
)
Views = dict[str, tuple[Any, pd.DataFrame]]


def panels(
    rows: pd.DataFrame, of: Mapping[str, str] | None = None, *, x: str = "step", smoothing: float = 0.0
) -> Views:
    """Name -> (figure, its rows): one figure a panel, in the order of the rows.

    Args:
        rows: estimates with the columns run, panel and group, as `apps.drawn.curves` joins them.
        of: run -> colour, so that it keeps it beside other runs; by default those of ``colors``.
        x: column on the horizontal axis.
        smoothing: share of the running mean kept at each step, 0 (none) to below 1; a smoothed line has no interval.
    """
    of = of or colors(list(dict.fromkeys(rows["run"])))
    drawn = [_panel(part.reset_index(drop=True), of, x, smoothing) for part in _parts(rows)]
    return {f"curves-{number}": view for number, view in enumerate(drawn, 1)}


def _parts(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows of each panel: at most `MOST` lines, all of one group or all of one run."""
    for _, part in rows.groupby("panel", sort=False):
        several = part["run"].nunique() > 1 and part["group"].nunique() > 1
        for _, own in part.groupby("group", sort=False) if several else [("", part)]:
            line = own["run" if own["run"].nunique() > 1 else "group"]
            names = list(dict.fromkeys(line))
            for start in range(0, len(names), MOST):
                yield own[line.isin(names[start : start + MOST])]


def _panel(rows: pd.DataFrame, of: Mapping[str, str], x: str, smoothing: float) -> tuple[Any, pd.DataFrame]:
    by = "group" if rows["run"].nunique() == 1 and rows["group"].nunique() > 1 else "run"
    shown = smoothed(rows, by, x, smoothing)
    quantity = str(rows["quantity"].iloc[0]).removeprefix(LOG)
    figure: Any = figures.curve(shown.assign(quantity=quantity), x=x, color=by)
    for trace in figure.data:
        _coloured(trace, of if by == "run" else {}, str(rows["run"].iloc[0]), of)
    figure.update_layout(uirevision=f"{rows['panel'].iloc[0]} {x}")  # a zoom outlives a redraw
    return _arranged(figure, rows, quantity, by), rows


def _coloured(trace: Any, by_run: Mapping[str, str], run: str, of: Mapping[str, str]) -> None:
    """Lines of runs keep their run's colour; the one line of a run without groups too."""
    names = {figures.as_text(r): c for r, c in by_run.items()}
    color = names.get(trace.name or figures.as_text(run)) if by_run else None
    if color is None and not trace.name:
        color = of.get(run)
    if color:
        trace.update(line_color=color, marker_color=color)
        trace.update({"fillcolor": figures.faint(color)} if trace.fill else {})


def _arranged(figure: Any, rows: pd.DataFrame, quantity: str, by: str) -> Any:
    """A small panel: its name and what tells it apart on two lines, names at the ends of lines."""
    panel = str(rows["panel"].iloc[0])
    logged = panel.startswith(LOG)
    qualities = ["from the training log"] if logged else [value_name(p) for p in panel.split(SEPARATOR)[1:]]
    own = rows["group"].iloc[0] if by == "run" and rows["group"].iloc[0] != ALL else None
    unit = unit_name(rows["unit"].iloc[0]) if "unit" in rows else ""
    second = " · ".join(figures.as_text(t) for t in (*qualities, own, unit) if t)
    figure.update_layout(
        title={"text": f"{figures.as_text(quantity_name(quantity))}<br><sup>{second}</sup>", **TITLE},
        height=HEIGHT,
        margin={"l": 44, "t": TOP, "b": BOTTOM},
        hovermode="x",
        xaxis={"title": {"standoff": 4}},
        yaxis={"title": {"text": ""}, "automargin": False},
    )
    return figures.named_ends(figure, HEIGHT - TOP - BOTTOM)


def along(rows: pd.DataFrame, counts: Mapping[str, Mapping[str, Mapping[int, float]]], x: str) -> pd.DataFrame:
    """Rows with the column ``x``: what their run had counted at each step, between logged steps in proportion.

    Rows of steps outside the log, and of runs whose log does not count it, are left out.

    Args:
        rows: with the columns run and step.
        counts: run -> what ``curves.axes`` gives.
        x: tokens, epoch or seconds; ``step`` leaves the rows as they are.
    """
    if x == "step":
        return rows
    found: list[pd.DataFrame] = []
    for run, part in rows.groupby("run", sort=False):
        if counted := counts.get(str(run), {}).get(x):
            steps, values = sorted(counted), [counted[s] for s in sorted(counted)]
            at = np.interp(part["step"].to_numpy(dtype=float), steps, values, left=np.nan, right=np.nan)
            found.append(part.assign(**{x: at}).dropna(subset=[x]))
    return pd.concat(found, ignore_index=True) if found else rows.iloc[:0].assign(**{x: []})


def smoothed(rows: pd.DataFrame, by: str, x: str, smoothing: float) -> pd.DataFrame:
    """Rows whose values are running means along ``x``, as TensorBoard makes them; intervals of those are not known.

    Args:
        rows: estimates of one panel.
        by: column that tells its lines apart.
        x: column along which they run.
        smoothing: share of the mean so far that is kept at each step.
    """
    if not smoothing:
        return rows
    rows = rows.sort_values(x, kind="stable")
    mean = rows.groupby(by, sort=False)["value"].transform(lambda v: v.ewm(alpha=1 - smoothing).mean())
    return rows.assign(value=mean, ci_low=np.nan, ci_high=np.nan)


def stem(run: str, pattern: str) -> str:
    """A run's name without what the pattern finds in it, and without separators left hanging; "" is the name itself."""
    try:
        left = re.sub(pattern, "", run) if pattern else run
    except re.error:
        return run
    return re.sub(r"^[-_.\s/]+|[-_.\s/]+$", "", re.sub(r"([-_.\s])[-_.\s]+", r"\1", left)) or run


def together(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Rows of runs with one name as one run: mean over them, and from the smallest to the largest as its band.

    Only steps that all runs of a name have are kept, since a mean over other runs at every step is no curve.

    Args:
        rows: estimates, as `panels` takes them.
        names: run -> what it is read as; one that is not there stands for itself.
    """
    stems = rows["run"].map(lambda run: names.get(str(run), str(run)))
    counts = rows.assign(stem=stems).groupby(["stem", "panel", "group"], dropna=False)["run"].transform("nunique")
    alone, several = rows[counts == 1], rows[counts > 1].assign(stem=stems[counts > 1], most=counts[counts > 1])
    if several.empty:
        return rows
    keys = ["panel", "quantity", *(["unit"] if "unit" in several else []), "group", "stem", "step"]
    grouped = several.groupby(keys, sort=False, dropna=False)
    spread = {"value": "mean", "ci_low": "min", "ci_high": "max", "n": "size"}
    made = grouped.agg(most=("most", "max"), **{k: ("value", how) for k, how in spread.items()}).reset_index()
    made = made[made["n"] == made["most"]].drop(columns="most")
    labels = made["stem"] + " × " + made["n"].astype(str)
    return pd.concat([alone, made.assign(run=labels).drop(columns="stem")], ignore_index=True)


def staged(views: Views, run: str, table: pd.DataFrame, color: str) -> None:
    """Add a run's stages to its panels: shaded where it is alone; the recommended checkpoint starred on its accuracy.

    Args:
        views: what ``panels`` drew.
        run: the run as the rows name it; one that is not there adds nothing.
        table: rows of its over_memorization result.
        color: of the run's curves.
    """
    for figure, rows in views.values():
        own = rows[rows["run"] == run]
        told = _of_groups(table, list(dict.fromkeys(own["group"])))
        if own.empty or told.empty:
            continue
        if rows["run"].nunique() == 1 and ("group" not in told or told["group"].nunique() == 1):
            figures.stage_shades(figure, told)
        if str(rows["panel"].iloc[0]).startswith("accuracy"):
            _starred(figure, own, run, told, color)


def _of_groups(table: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """Stages of the groups of items that a panel is of: those of another group are not its own."""
    return table if "group" not in table or ALL in groups else table[table["group"].isin(groups)]


def _starred(figure: Any, own: pd.DataFrame, run: str, table: pd.DataFrame, color: str) -> None:
    for one in table[table["recommended"].astype(bool)].to_dict("records"):
        at = own[own["step"] == one["step"]]
        if "group" in one and ALL not in set(at["group"]):
            at = at[at["group"] == one["group"]]
        if len(at):
            figures.star(figure, float(one["step"]), float(at["value"].iloc[0]), f"ship {run}", color=color)
        else:
            figures.mark(figure, float(one["step"]), f"ship {run}", color=color)


def place_of(figure: Any, rows: pd.DataFrame, point: Mapping[str, Any], x: str = "step") -> dict[str, Any]:
    """Run, group and step of a point chosen on a panel; {} for one of an earlier figure or of no run alone."""
    number = int(point["curve_number"])
    name = figure.data[number].name if number < len(figure.data) else None
    line = rows["run"].map(figures.as_text) if rows["run"].nunique() > 1 else None
    for column in ("run", "group"):
        texts = rows[column].map(figures.as_text) if column == "group" or line is None else line
        of = rows[(texts == name) & (rows[x] == point["x"])]
        if len(of):
            return {c: of[c].iloc[0] for c in ("run", "group", "step")}
    return {}


def wanted(rows: pd.DataFrame, patterns: Sequence[str] = WANTED) -> list[str]:
    """Per kind of curve the panels that every run with such a curve has one of, those of most runs first.

    Kinds at the end of the list are left out where there would be more than `FIRST` panels.
    """
    found: list[str] = []
    for pattern in patterns:
        hits = rows[rows["panel"].str.contains(pattern)]
        left = set(hits["run"])
        while left:
            of = {p: left & set(part["run"]) for p, part in hits.groupby("panel", sort=False)}
            best = max(of, key=lambda p: len(of[p]))
            found.append(str(best))
            left -= of[best]
    counts = {p: sum(1 for _ in _parts(rows[rows["panel"] == p])) for p in found}
    while len(found) > 1 and sum(counts[p] for p in found) > FIRST:
        found.pop()
    return found
