"""Curves of several results on one axis, as rows: what the pages Run and Circuit draw, without a page.

Rows are estimates as ``Result.summary()`` gives them. The column ``panel`` names every combination of dims but the
axis and the group; ``run`` says which training run a row is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.core import figures
from analyses.core.figures import PALETTE, as_text, plain, quantity_name, value_name
from analyses.core.result import DIMS
from probe.errors import InputError
from probe.readers.runlog import ALIASES

if TYPE_CHECKING:
    from probe import RunLog

LAYERS = ("layer", "window", "state")
NOT_STEPS = {"layer", "window", "pos", "key_pos", "head", "kv_head", "neuron", "source_step", "alpha", "k", "state"}
NOT_LAYERS = {"pos", "key_pos", "head", "kv_head", "neuron", "alpha", "k", "step", "source_step"}
AXES = {
    "tokens": ("num_tokens", "num_input_tokens_seen", "tokens", "train/num_tokens", "perf/total_num_tokens"),
    "epoch": ("epoch", "train/epoch"),
    "seconds": ("_runtime", "runtime", "elapsed", "wall_time", "time/elapsed"),
}
ALL, LOG = "all items", "log: "
LOG_UNITS = {"entropy": "nats"}
UNSAID = ("micro", "given")  # what a reader assumes where nothing else is said
SEPARATOR = " · "
SHOWN = ("quantity", "unit", "group", "value", "ci_low", "ci_high", "n")


def over_steps(summary: pd.DataFrame) -> pd.DataFrame:
    """Estimates over optimizer steps; of one log, over the steps of the policies that sampled it."""
    if "step" not in summary and "rollout_step" in summary:
        summary = summary.rename(columns={"rollout_step": "step"})
    return _over(summary, "step", NOT_STEPS)


def over_layers(summary: pd.DataFrame) -> pd.DataFrame:
    """Estimates over layers; windows stand at their first layer, states at the block they come out of."""
    return joined([_by_layer(summary, axis) for axis in LAYERS])


def logged(log: RunLog) -> pd.DataFrame:
    """Scalars of a run log as rows over steps; entropy and reward by these names, whatever the trainer calls them."""
    known: dict[str, str] = {}
    for name in ALIASES:
        with suppress(InputError):  # not logged
            known[str(log.series(name).name)] = name
    rows = log.frame.drop(columns="epoch", errors="ignore").rename(columns=known).reset_index()
    rows = rows.melt("step", var_name="quantity").dropna(subset="value").reset_index(drop=True)
    named = LOG + rows["quantity"]
    unit = rows["quantity"].map(LOG_UNITS).astype(object)
    return rows.assign(panel=named, quantity=named, unit=unit, group=ALL)


def axes(log: RunLog) -> dict[str, dict[int, float]]:
    """What a run log counts beside steps: tokens, epoch, seconds, each as step -> count, 0 at step 0."""
    found: dict[str, dict[int, float]] = {}
    for axis, names in AXES.items():
        for name in (n for n in names if n in log.frame):
            values = log.frame[name].dropna()
            if len(values) and values.is_monotonic_increasing:
                found[axis] = {
                    0: 0.0,
                    **{int(s): float(v) for s, v in zip(values.index.to_list(), values.to_list(), strict=True)},
                }
                break
    return found


def is_logged(rows: pd.DataFrame) -> pd.Series:
    """True for rows of a training log."""
    return rows["quantity"].str.startswith(LOG)


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows of the frames that have any."""
    full = [f for f in frames if len(f)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def apart(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of which no two share run, panel, group and step: what a second analysis calls the same bears its name."""
    if rows.empty or "analysis" not in rows:
        return rows
    first = rows.groupby(["run", "panel"], sort=False)["analysis"].transform("first")
    other = rows["analysis"].notna() & (rows["analysis"] != first)
    return rows.assign(panel=rows["panel"].where(~other, rows["panel"] + SEPARATOR + rows["analysis"].astype(str)))


def chosen(rows: pd.DataFrame, panels: Sequence[str], groups: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of ``panels``, in their order, and of ``groups`` (all of them if empty; what has no group is kept)."""
    rows = rows.assign(group=rows["group"].astype(object).fillna(ALL).infer_objects())
    kept = rows[rows["panel"].isin(panels) & (rows["group"].isin([*groups, ALL]) if groups else True)]
    return kept.sort_values("panel", key=lambda names: names.map(list(panels).index), kind="stable", ignore_index=True)


def colors(runs: Sequence[str]) -> dict[str, str]:
    """A colour for every run; beyond the palette it is used again, darker."""
    return {run: _darker(PALETTE[i % len(PALETTE)], i // len(PALETTE)) for i, run in enumerate(runs)}


def layers_figure(rows: pd.DataFrame) -> Any:
    """Curves over layers, one panel under the other."""
    return figures.curve(_titled(rows), x="layer", color="group", facet="panel", columns=1)


def row_at(rows: pd.DataFrame, figure: Any, point: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row behind a point chosen on ``layers_figure(rows)``; None for one of an earlier figure."""
    number = int(point["curve_number"])
    if number >= len(figure.data):
        return None
    trace = figure.data[number]
    panels = list(dict.fromkeys(rows["panel"]))
    panel = panels[int((trace.yaxis or "y")[1:] or 1) - 1]
    is_it = (rows["panel"] == panel) & (rows["group"].map(as_text) == trace.name) & (rows["layer"] == point["x"])
    found = rows[is_it].dropna(axis="columns").to_dict("records")
    return {str(k): v for k, v in found[0].items()} if found else None


def place_name(row: Mapping[str, object]) -> str:
    """A row of ``layers_figure`` as a link names it."""
    return f"{row['panel']}, {row['group']}, layer {plain(row['layer'])}"


def place_of(row: Mapping[str, object]) -> dict[str, object]:
    """Where a row was measured: the dims that tell it apart from others of its quantity."""
    derived = {"run", *(["layer"] if {"window", "state"} & set(row) else [])}
    return {k: v for k, v in row.items() if k in DIMS and k not in derived and (k, v) != ("group", ALL)}


def title(panel: str) -> str:
    """Name of a panel for people: its quantity and what else tells it apart, in plain words."""
    if panel.startswith(LOG):
        return f"{quantity_name(panel.removeprefix(LOG))}, from the training log"
    quantity, *rest = panel.split(SEPARATOR)
    return SEPARATOR.join([quantity_name(quantity), *map(value_name, rest)])


def _darker(color: str, times: int) -> str:
    return "#" + "".join(f"{round(int(color[i : i + 2], 16) * 0.6**times):02x}" for i in (1, 3, 5))


def _titled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(panel=[title(p) for p in rows["panel"]], quantity=rows["quantity"].str.removeprefix(LOG))


def _over(summary: pd.DataFrame, axis: str, never: set[str]) -> pd.DataFrame:
    """Estimates over ``axis``; quantities with another ordered dim (in ``never``) are left to maps."""
    found: list[pd.DataFrame] = []
    for _, part in summary.groupby("quantity", sort=False):
        dims = [d for d in part.columns if d in DIMS and part[d].notna().any()]
        several = [d for d in dims if len(part[d].unique()) > 1]
        if axis not in several or never & set(several):
            continue
        texts = part[["quantity", *[d for d in dims if d not in (axis, "group", *never)]]].itertuples(index=False)
        panel = [SEPARATOR.join(plain(v) for v in values if v not in UNSAID) for values in texts]
        kept = dict.fromkeys([*SHOWN, *several])
        found.append(part.reindex(columns=list(kept)).assign(panel=panel))
    return joined(found)


def _by_layer(summary: pd.DataFrame, axis: str) -> pd.DataFrame:
    rows = _over(summary, axis, NOT_LAYERS | (set(LAYERS) - {axis}))
    if rows.empty or axis == "layer":
        return rows
    note = " (window by first layer)" if axis == "window" else " (state; −1 is the embedding)"
    return rows.assign(layer=rows[axis] - (axis == "state"), panel=rows["panel"] + note)
