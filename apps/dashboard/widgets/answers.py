"""What the results answer, in plain words: which run memorized, which got worse, what to ship, where it sits.

Everything said is read from stored results; a claim that none supports is not made, and what was not assessed is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core.result import NOT_ASSESSABLE, STAGES
from analyses.core.store.store import StoreError
from apps import gains
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import parts, series, tables
from apps.dashboard.widgets.address import escaped
from apps.drawn.contents import verdict
from apps.gains import Gained, Point
from probe.errors import InputError

STAGED, GRADED, LOCATED = "over_memorization", "evaluate", ("anchor_adapter", "cross_patching")
OVER_MEMORIZED, OVER_FIT = STAGES[2:]
COLUMNS = ["training run", "what happened", "accuracy, first → last checkpoint", "ship"]


@dataclass(frozen=True)
class Staged:
    """One run as over_memorization read it."""

    run: str
    points: tuple[Point, ...]
    stages: tuple[str, ...]
    recommended: int | None
    delta: float
    rho: float
    rise: float

    @property
    def onset(self) -> float | None:
        """Step of the first over-memorized checkpoint."""
        return next((p.step for p, s in zip(self.points, self.stages, strict=True) if s == OVER_MEMORIZED), None)

    @property
    def got_worse(self) -> bool:
        """True where the last accuracy is over `delta` below the first, and intervals, where known, do not overlap."""
        first, last = self.points[0], self.points[-1]
        return last.accuracy < first.accuracy - self.delta and (pd.isna(first.low) or not first.overlaps(last))

    @property
    def is_assessable(self) -> bool:
        return NOT_ASSESSABLE not in self.stages

    def happened(self) -> str:
        """The run in one line."""
        if not self.is_assessable:
            return f"{NOT_ASSESSABLE}: perplexity is of another author's style"
        said = [f"over-memorized since step {self.onset:g}"] if self.onset is not None else ["did not over-memorize"]
        late = [f"{p.step:g}" for p, s in zip(self.points, self.stages, strict=True) if s == OVER_FIT]
        if late:
            said.append(f"over-fit at step {', '.join(late)}")
        if pd.notna(self.rise) and self.onset is None:
            said.append(f"perplexity above its bound since step {self.rise:g}, when accuracy had fallen")
        return "; ".join(said)


def show(found: Listing, by_name: Mapping[str, str]) -> None:
    """The answers across runs, then every run with what is known about it."""
    newest = {name: {e.analysis: e for e in series.newest(found, path)} for name, path in by_name.items()}
    staged = {name: s for name, of in newest.items() if STAGED in of and (s := read(name, of[STAGED]))}
    gained = {name: g for name, of in newest.items() if (g := _gained(of.get(GRADED)))}
    assessed = [s for s in staged.values() if s.is_assessable]
    told = {
        "orange[:material/psychology_alt:]": [*recalled(gained), *_memorized(assessed)],
        "red[:material/trending_down:]": _worse(assessed),
        "green[:material/check_circle:]": ship(assessed),
        "blue[:material/location_on:]": _where(newest),
    }
    with st.container(border=True):
        st.markdown("\n".join(f"- :{icon} {line}" for icon, lines in told.items() for line in lines))
    rows = [_row(name, staged.get(name), gained.get(name), of) for name, of in newest.items()]
    tables.static(pd.DataFrame(rows, columns=COLUMNS), _definitions(assessed, gained))


def tone(entry: Entry) -> str:
    """How a verdict is coloured: error where accuracy fell, warning where the run over-memorized, info else."""
    staged = read("", entry) if entry.analysis == STAGED else None
    if staged is None or not staged.is_assessable:
        return "info"
    return "error" if staged.got_worse else "warning" if staged.onset is not None else "info"


def read(name: str, entry: Entry) -> Staged | None:
    """A run's stages and accuracies; None where the result cannot be read (its page says why)."""
    try:
        result = parts.result_of(str(entry.root), entry.analysis, entry.key)
        summary = parts.summary_of(str(entry.root), entry.analysis, entry.key)
    except (StoreError, InputError):
        return None
    table = result.table
    if "run" in table and table["run"].nunique() > 1:
        return None  # several runs in one table of curves: they have no checkpoints, so no page of their own
    accuracy = summary[summary["quantity"] == "accuracy"].set_index("step")
    spread = accuracy.reindex(table["step"])[["ci_low", "ci_high"]].to_numpy()
    points = [Point(*map(float, p)) for p in zip(table["step"], table["accuracy"], *spread.T, strict=True)]
    chosen = [i for i, is_chosen in enumerate(table["recommended"]) if is_chosen]
    rise = summary.loc[summary["quantity"] == "ppl_rise", "value"]
    options = entry.record.get("options", {})
    return Staged(
        name,
        tuple(points),
        tuple(map(str, table["stage"])),
        chosen[0] if chosen else None,
        delta=float(table["delta"].max()) if "delta" in table else float(options.get("delta", 0.01)),
        rho=float(options.get("rho", 0.1)),
        rise=float(rise.iloc[0]) if len(rise) else float("nan"),
    )


def _gained(entry: Entry | None) -> Gained | None:
    try:
        return gains.read(parts.summary_of(str(entry.root), entry.analysis, entry.key)) if entry else None
    except (StoreError, InputError):
        return None


def recalled(gained: Mapping[str, Gained]) -> Iterator[str]:
    """Runs that gained on items they may have seen: alone, or along with unseen ones."""
    for run, found in gained.items():
        yield f"**{escaped(run)} {found.said}**: accuracy {escaped(found.numbers)}."


def _memorized(runs: Sequence[Staged]) -> Iterator[str]:
    if not runs:
        yield "**Over-memorization** was not assessed: no result of over\\_memorization is here."
        return
    found = [r for r in runs if r.onset is not None]
    if not found:
        assessed = escaped(", ".join(r.run for r in runs))
        yield f"**No run over-memorized** (accuracy held while perplexity rose); assessed: {assessed}."
    for run in found:
        yield f"**{escaped(run.run)} over-memorized, since step {run.onset:g}**: accuracy held, perplexity rose."


def _worse(runs: Sequence[Staged]) -> Iterator[str]:
    for run in runs:
        if run.got_worse:
            first, last = run.points[0], run.points[-1]
            change = escaped(f"accuracy {first} at step {first.step:g}, {last} at step {last.step:g}")
            yield f"**{escaped(run.run)} got worse**: {change}."


def ship(runs: Sequence[Staged]) -> Iterator[str]:
    """The most accurate of the runs' recommended checkpoints, and whether it differs from where its run began."""
    offered = [(r, r.recommended) for r in runs if r.recommended is not None]
    if not offered:
        return
    run, place = max(offered, key=lambda o: (o[0].points[o[1]].accuracy, -o[0].points[o[1]].step))
    first, best = run.points[0], run.points[place]
    said = f"**Ship {escaped(run.run)}, step {best.step:g}**: accuracy {escaped(best)}"
    if place == 0:
        yield f"{said}; no later checkpoint was more accurate within the bound of perplexity."
    elif pd.isna(best.low):
        yield f"{said}, {escaped(first)} at step {first.step:g}; without items there is no interval to tell them apart."
    elif best.overlaps(first):
        told = f"{said}; not told apart from step {first.step:g} ({escaped(first)})"
        yield f"{told}, no reason to prefer it: their intervals overlap."
    else:
        yield f"{said}, clearly above step {first.step:g} ({escaped(first)}): their intervals do not overlap."


def _where(newest: Mapping[str, Mapping[str, Entry]]) -> Iterator[str]:
    """What the rule for places says, else patching, run by run."""
    silent = True
    for name, of in newest.items():
        entry = next((of[a] for a in LOCATED if a in of), None)
        said = _verdict(entry) if entry else ""
        if said:
            silent = False
            yield f"**Where, in {escaped(name)}**: {escaped(said)}"
    if silent:
        yield "**Where it sits** was not assessed: no result of cross\\_patching or anchor\\_adapter is here."


def _verdict(entry: Entry) -> str:
    try:
        return verdict(entry.root, entry.analysis, entry.key)
    except StoreError:
        return ""


def _row(name: str, staged: Staged | None, gained: Gained | None, of: Mapping[str, Entry]) -> list[Any]:
    if staged is None:
        return [name, gained.said, gained.ends, ""] if gained else [name, f"not assessed: {missing(of)}", "", ""]
    ends = f"{staged.points[0]} → {staged.points[-1]}"
    ship = f"step {staged.points[staged.recommended].step:g}" if staged.recommended is not None else ""
    return [name, staged.happened(), ends, ship]


def missing(of: Mapping[str, Entry]) -> str:
    """Why a run has no stages, in words."""
    lacking = [
        word
        for analysis, word in (("evaluate", "accuracy"), ("perplexity", "perplexity"))
        if analysis not in of or not of[analysis].is_sweep
    ]
    if lacking:
        return f"no {' or '.join(lacking)} curve here"
    return "its stages cannot be read" if STAGED in of else "run over_memorization on its accuracy and perplexity"


def _definitions(runs: Sequence[Staged], gained: Mapping[str, Gained]) -> str:
    said: list[str] = []
    if gained:
        said.append(
            "Gained: Wilson's interval of the last checkpoint's accuracy lies above the first's; since: from that step "
            "on. Seen items: groups named leak..., planted... or member..., which training may have shown."
        )
    if runs:
        deltas = ", ".join(f"{r.delta:.3g} for {r.run}" for r in runs)
        bounds = sorted({1 + r.rho for r in runs})
        held = f"within what chance allows of the run's best ({deltas})"
        said.append(
            f"Over-memorized: accuracy still {held}, while perplexity is above "
            f"{' / '.join(f'{b:g}' for b in bounds)} × its smallest so far. Over-fit: accuracy further below its "
            "best, after it was reached. Ship: the most accurate checkpoint within the bound of perplexity; chosen on "
            "the items it is measured on, it is chosen optimistically."
        )
    return " ".join([*said, "Intervals are 95 %, over items."] if said else [])
