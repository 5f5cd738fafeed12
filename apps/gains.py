"""Whether a run gained on items it may have seen and not on unseen ones, read from accuracies by group and step.

A group gained where the 95 % interval of its accuracy at the last step lies above that at the first: careful, since
intervals of the same items may overlap and their paired difference still be clear. The intervals are Wilson's: those of
a bootstrap have no width where all items are right, or none is.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analyses.core.stats import wilson
from analyses.memory._answer_grids import seen_of, unseen_of


@dataclass(frozen=True)
class Point:
    """Accuracy of one checkpoint with its 95 % interval (NaN where the items are not known)."""

    step: float
    accuracy: float
    low: float
    high: float

    def overlaps(self, other: Point) -> bool:
        """True where the intervals share a value, or one of them is not known."""
        return not (self.high < other.low or other.high < self.low)

    def __str__(self) -> str:
        interval = f" [{self.low:.3f}, {self.high:.3f}]" if pd.notna(self.low) else ""
        return f"{self.accuracy:.3f}{interval}"


@dataclass(frozen=True)
class Gain:
    """One group of items over a run: above the first step from `since` on, not yet at `before`; None if never."""

    group: str
    first: Point
    last: Point
    since: float | None
    before: float | None = None

    @property
    def size(self) -> float:
        return self.last.accuracy - self.first.accuracy


@dataclass(frozen=True)
class Gained:
    """Groups that may have been seen, and groups that were not; a group of which nothing is known is in neither."""

    seen: tuple[Gain, ...]
    unseen: tuple[Gain, ...]

    @property
    def is_memory(self) -> bool:
        """True where seen items gained and unseen ones, measured too, did not."""
        up = [any(g.since is not None for g in groups) for groups in (self.seen, self.unseen)]
        return bool(self.unseen) and up == [True, False]

    @property
    def said(self) -> str:
        """What happened, and since which step."""
        up = [g for g in self.seen if g.since is not None]
        if not up:
            return "gained nothing clear on seen items"
        clearest = max(up, key=lambda g: g.size)
        since = f", since step {clearest.since:g} (not yet at step {clearest.before:g})"
        if not self.unseen:
            return f"gained on seen items{since} (no unseen items to tell memory from skill)"
        if self.is_memory:
            return f"answers from memory: it gained on seen items only{since}"
        return f"gained on seen and on unseen items{since}"

    @property
    def numbers(self) -> str:
        """Accuracies at the first and the last step, the largest gain first."""
        shown = sorted((*self.seen, *self.unseen), key=lambda g: -g.size)
        steps = f" (step {shown[0].first.step:g} → {shown[0].last.step:g})"
        return "; ".join(f"{g.group} {g.first} → {g.last}" for g in shown) + steps

    @property
    def ends(self) -> str:
        """The same, short."""
        return "; ".join(
            f"{g.group} {g.first.accuracy:.3f} → {g.last.accuracy:.3f}" for g in (*self.seen, *self.unseen)
        )


def read(summary: pd.DataFrame) -> Gained | None:
    """Each group's accuracy over the steps of a sweep's summary; None with one step, or where no group may be seen."""
    rows = summary[summary["quantity"] == "accuracy"] if {"group", "step"} <= set(summary) else summary.head(0)
    if rows.empty or rows["step"].nunique() < 2:
        return None
    by_group = {str(g): _gain(str(g), part) for g, part in rows.groupby("group")}
    seen, unseen = (tuple(by_group[g] for g in of(sorted(by_group))) for of in (seen_of, unseen_of))
    return Gained(seen, unseen) if seen else None


def _gain(group: str, rows: pd.DataFrame) -> Gain:
    """Several kinds of answers of a group are read by the first of them."""
    if "answer_kind" in rows:
        rows = rows[rows["answer_kind"] == rows["answer_kind"].iloc[0]]
    rows = rows.sort_values("step").reindex(columns=["step", "value", "n"])
    points = [_point(*map(float, row)) for row in rows.to_numpy()]
    above = [point.low > points[0].high for point in points]
    start = len(above) - next((i for i, is_above in enumerate(reversed(above)) if not is_above), len(above))
    if start == len(points):
        return Gain(group, points[0], points[-1], None)
    return Gain(group, points[0], points[-1], points[start].step, points[start - 1].step)


def _point(step: float, accuracy: float, n: float) -> Point:
    if not (n > 0 and 0 <= accuracy <= 1):
        return Point(step, accuracy, float("nan"), float("nan"))
    found = wilson(round(accuracy * n), round(n))
    return Point(step, accuracy, float(found.ci_low), float(found.ci_high))
