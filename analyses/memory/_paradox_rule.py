"""Whether answers of seen items fell and their prompts rose, by more than unseen items explain. Never imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.reading.roles import NEEDS_FRESH, NEEDS_ROLES
from analyses.core.stats.max_t import MaxT, group_max_t, mean_max_t
from analyses.memory._answer_grids import SEEN, UNSEEN, AnswerGrid, Array, is_in

FEWEST = 8  # items of each kind
ESTIMAND = "change of the answer's mean NLL since the first step, seen minus unseen items"
PARADOX = "answers of seen items fell beyond those of unseen ones, and their prompts rose"
FELL_ALONE = "answers of seen items fell"
FELL = "answers of seen items fell beyond those of unseen ones"
WHETHER = "answers of seen items fell beyond others while prompts rose"


def judged(kind: str, grid: AnswerGrid, prompt_mask: str, floor: float, is_selected: bool, seed: int) -> Claim:
    """The claim about one kind of answer at the last step.

    Args:
        kind: of answer.
        grid: of that kind.
        prompt_mask: which tokens are the prompt.
        floor: smallest change that counts, nats per token.
        is_selected: the groups were made from outcomes.
        seed: of the bootstrap.
    """
    if why := _cannot(kind, grid, is_selected):
        return Claim("paradox", UNJUDGED, WHETHER, group=kind, why=why[0], needs=why[1])
    is_seen = is_in(grid, SEEN)
    used = is_seen | is_in(grid, UNSEEN)
    answer, prompt = (_moved(grid.per_item(mask)[used]) for mask in ("answer", prompt_mask))
    ratio = _moved(np.log(np.maximum(grid.per_item("answer")[used], 1e-6)))
    first = is_seen[used]
    labels = None if grid.clusters is None else np.asarray(grid.clusters)[used]
    own = None if labels is None else labels[first]
    how: dict[str, Any] = {"seed": seed}
    gap, relative = (group_max_t(x, first, clusters=labels, **how) for x in (answer, ratio))
    falls, rises = (mean_max_t(x[first], clusters=own, **how) for x in (answer, prompt))
    fell = (gap.high < 0) & (gap.value < -floor) & (relative.high < 0) & (falls.high < 0)
    rose = (rises.low > 0) & (rises.value > floor)
    return _claim(kind, grid.step[1:], gap, falls, rises, fell, rose, prompt_mask, _sizes(grid))


def _moved(values: Array) -> Array:
    """Change of every item since the first step, at every later one."""
    return values[:, 1:] - values[:, :1]


def _sizes(grid: AnswerGrid) -> int:
    counts = [is_in(grid, cell) for cell in (SEEN, UNSEEN)]
    return min(len(set(grid.items[c] if grid.clusters is None else np.asarray(grid.clusters)[c])) for c in counts)


def _cannot(kind: str, grid: AnswerGrid, is_selected: bool) -> tuple[str, str] | None:
    """Why this kind cannot be judged, and what would let it be."""
    counts = [int((is_in(grid, cell) & ~np.isnan(grid.nll["answer"]).any(1)).sum()) for cell in (SEEN, UNSEEN)]
    if kind.startswith("gen"):
        return "a checkpoint's own text falls under it by construction", "answers that no checkpoint wrote"
    if is_selected:
        return "groups were made from outcomes, which alone does it", NEEDS_FRESH
    if not any(counts):
        return "nothing says which items were seen", NEEDS_ROLES
    if min(counts) < FEWEST:
        return f"there are {counts[0]} seen and {counts[1]} unseen items", f"at least {FEWEST} items of each"
    return None


def _claim(
    kind: str, steps: Array, gap: MaxT, falls: MaxT, rises: MaxT, fell: Array, rose: Array, mask: str, n: int
) -> Claim:
    is_paradox = bool(fell[-1] and rose[-1])
    holds = fell & rose if is_paradox else fell
    since = float(steps[len(holds) - int(np.argmin(np.append(holds[::-1], False)))]) if holds[-1] else None
    if not holds[-1] and gap.high[-1] < 0 <= falls.high[-1]:
        own = {"effect": float(falls.value[-1]), "low": float(falls.low[-1]), "high": float(falls.high[-1])}
        rose_more = "answers of unseen items got less likely: seen ones are compared with themselves here"
        said: Fields = {
            "unit": "nats per token",
            "n": n,
            "family": f"{len(steps)} steps",
            "control": "unseen items",
        }
        return Claim("fall", NONE, FELL_ALONE, "change of seen answers", group=kind, caveat=rose_more, **own, **said)
    parts = [("answers of seen items", falls), (f"{mask} of seen items", rises)]
    checked = tuple(f"{name}: {t.value[-1]:+.3f} [{t.low[-1]:+.3f}, {t.high[-1]:+.3f}] nats" for name, t in parts)
    return Claim(
        "paradox" if is_paradox else "fall",
        FOUND if holds[-1] else NONE,
        PARADOX if is_paradox else FELL,
        estimand=ESTIMAND, effect=float(gap.value[-1]), low=float(gap.low[-1]), high=float(gap.high[-1]),
        unit="nats per token", p=float(gap.p_cell[-1]), n=n, family=f"{len(steps)} steps", control="unseen items",
        assumptions=checked, group=kind, step=since,
        caveat=_caveat(bool(holds[-1]), is_paradox, bool(gap.high[-1] < 0), mask),
    )  # fmt: skip


def _caveat(is_found: bool, is_paradox: bool, is_larger: bool, mask: str) -> str:
    if is_found and not is_paradox:
        return f"their prompts ({mask}) did not clearly rise: no paradox"
    return "larger in nats, not in proportion to where the answers began" if is_larger and not is_found else ""
