"""The localisation rule: a window of layers is named only if evidence of several kinds agrees, else nothing is.

Curves are per item and layer, or, where a statistic has no per-item form, the curve with its permutation and
bootstrap draws. The contrast of a window is its mean minus the mean of all other layers, so a difference that is
the same at every layer counts for nothing. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from analyses.core.stats import group_difference
from analyses.core.stats.max_t import group_max_t
from analyses.core.stats.resampling import Array, Labels, divide, resample_counts, two_sample_t
from analyses.core.stats.significance import holm
from probe.errors import InputError

LEVEL = 0.05
SURE = 0.8  # share of bootstrap argmax within one layer that an anchor needs
FEWEST_WINDOWS = 6


@dataclass(frozen=True)
class ItemCurve:
    """Values [item, layer] of one kind of evidence; larger in the first group is what is looked for."""

    values: Array


@dataclass(frozen=True)
class DrawnCurve:
    """A curve [layer] that is one statistic of both groups, with draws under the null and of the bootstrap."""

    values: Array
    null: Array
    boot: Array


Curve: TypeAlias = ItemCurve | DrawnCurve


@dataclass(frozen=True)
class Family:
    """What one kind of evidence says about every window.

    Attributes:
        t: studentised group difference of the contrast [window].
        difference: group difference inside each window, without its surroundings [window].
        p_window: permutation p corrected over windows, before Holm [window].
        p: of the largest statistic, before Holm.
        p_holm: the same after Holm over families.
        argmax: index of the largest window in each bootstrap draw [draw]; -1 where none could be computed.
    """

    t: Array
    difference: Array
    p_window: Array
    p: float
    p_holm: float
    argmax: Array

    @property
    def best(self) -> int:
        """First layer of the window with the largest statistic."""
        return int(np.nanargmax(self.t)) if not np.isnan(self.t).all() else 0

    def p_at(self, window: int) -> float:
        """p of one window, corrected over windows and by this family's Holm factor."""
        factor = self.p_holm / self.p if self.p > 0 else 1.0
        return float(min(1.0, self.p_window[window] * factor))

    def is_raised(self, window: int) -> bool:
        """True if the window stands out significantly and the first group is larger there.

        Without the second clause a window would count where the difference is merely least negative.
        """
        return self.p_at(window) <= LEVEL and bool(self.t[window] > 0) and bool(self.difference[window] > 0)

    def share(self, n_windows: int) -> Array:
        """Share of bootstrap draws in which each window is the largest [window]."""
        return np.bincount(self.argmax[self.argmax >= 0], minlength=n_windows) / len(self.argmax)


@dataclass(frozen=True)
class Finding:
    """One role (anchor or adapter): a window of layers, or none.

    Attributes:
        role: anchor or adapter.
        verdict: the role's name if it was found, else `ambiguous` or `none found`.
        first_layer, last_layer: of the window; NaN where none was found.
        ci_low, ci_high: outermost layers of the windows that hold 95 % of the bootstrap argmax.
        p: corrected over windows and families.
        share_within_1: share of bootstrap draws whose largest window is within one layer.
        candidates: windows (first layers) that hold at least 5 % of the draws, where it is ambiguous.
        reason: why, in words.
    """

    role: str
    verdict: str
    reason: str
    first_layer: float = np.nan
    last_layer: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    p: float = np.nan
    share_within_1: float = np.nan
    candidates: tuple[int, ...] = field(default=())


def default_width(n_layers: int) -> int:
    """3 for 24 blocks and more, 1 for fewer than 12, else 2."""
    return 3 if n_layers >= 24 else 1 if n_layers < 12 else 2


def window_contrasts(values: Array, width: int) -> Array:
    """Mean inside minus mean outside each window of `width` layers: [..., layer] -> [..., window]."""
    n_layers = values.shape[-1]
    if not 1 <= width < n_layers:
        raise InputError(f"width {width} does not fit {n_layers} layers: expected 1 to {n_layers - 1}")
    ends = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, -1)], -1)
    inside = ends[..., width:] - ends[..., :-width]
    return inside / width - (ends[..., -1:] - inside) / (n_layers - width)


def families(
    curves: Mapping[str, Curve],
    is_first: Array,
    *,
    width: int,
    strata: Labels | None = None,
    permutations: int = 2000,
    draws: int = 2000,
    seed: int = 0,
    extra_p: Sequence[float] = (),
) -> dict[str, Family]:
    """Every kind of evidence over all windows: one resample of items for all, Holm over kinds.

    Args:
        curves: kind of evidence -> curve.
        is_first: items of the first group, in the order of the curves' rows.
        width: layers per window.
        strata: within which labels are permuted.
        permutations: draws under the null.
        draws: bootstrap draws.
        seed: of both.
        extra_p: p-values of other widths, which Holm has to count too.
    """
    n_windows = next(iter(curves.values())).values.shape[-1] - width + 1
    if n_windows < FEWEST_WINDOWS:
        raise InputError(f"{n_windows} windows of width {width}: at least {FEWEST_WINDOWS} are needed to localise")
    counts = resample_counts(len(is_first), draws, seed, is_first)
    found: dict[str, Family] = {}
    for name, curve in curves.items():
        if isinstance(curve, ItemCurve):
            found[name] = _by_items(curve, is_first, width, strata, permutations, counts, seed)
        else:
            found[name] = _by_draws(curve, width)
    adjusted = holm([*(f.p for f in found.values()), *extra_p])
    return {name: replace(f, p_holm=float(q)) for (name, f), q in zip(found.items(), adjusted, strict=False)}


def _by_items(
    curve: ItemCurve,
    is_first: Array,
    width: int,
    strata: Labels | None,
    permutations: int,
    counts: Array,
    seed: int,
) -> Family:
    values = window_contrasts(np.asarray(curve.values, float), width)
    test = group_max_t(values, is_first, strata=strata, seed=seed, draws=permutations, alternative="greater")
    first = np.asarray(is_first, float)
    argmax = _argmax(two_sample_t(values, counts * first, counts * (1 - first)))
    gap = np.nanmean(curve.values[first > 0], axis=0) - np.nanmean(curve.values[first == 0], axis=0)
    p_window = test.p_cell
    if not is_all_in_one(curve.values, width):
        p_window = np.maximum(p_window, beyond_scale(values, is_first, counts))
    return Family(test.t, _inside(gap, width), p_window, float(p_window[test.argmax]), np.nan, argmax)


def is_all_in_one(values: Array, width: int) -> bool:
    """Whether all layers that do anything for any item fit one window: scale and place are then one thing."""
    moved = np.flatnonzero(np.nan_to_num(np.abs(values)).max(0) > 0)
    return moved.size > 0 and int(np.ptp(moved)) < width


def beyond_scale(values: Array, is_first: Array, counts: Array) -> Array:
    """p per window of the first group's contrast being no more than the second's times one factor, over all windows.

    Answers that have more to lose lose more at every layer, in the same proportions: a difference of the groups' scale
    is no place. The factor is the slope of the first group's profile over windows on the second's, freed of what noise
    takes off it, at least 1, and 1 where the second group has no profile (none larger than 95 % of what drawing its
    items again adds); it is estimated anew in every draw.
    """
    known = ~np.isnan(values)
    filled, first = np.where(known, values, 0.0), np.asarray(is_first, bool)
    weights = np.concatenate([np.ones((1, len(values))), counts])
    one, other = (divide((weights * side) @ filled, (weights * side) @ known) for side in (first, ~first))
    noise = np.nanvar(values[~first], axis=0, ddof=1) / np.maximum(known[~first].sum(0), 1)
    size = (other**2).sum(1)
    has_profile = size[0] > np.quantile(((other[1:] - other[:1]) ** 2).sum(1), 1 - LEVEL)
    freed = np.maximum(size - noise.sum() * np.where(np.arange(len(size)) > 0, 2, 1), 0.1 * size)
    factor = np.maximum((one * other).sum(1) / freed, 1.0) if has_profile else np.ones(len(size))
    difference = one - factor[:, None] * other
    spread = difference[1:].std(0)
    t = np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)
    null = (t[1:] - t[:1]).max(1)
    return (1.0 + (null[:, None] >= t[:1]).sum(0)) / (1.0 + len(null))


def _by_draws(curve: DrawnCurve, width: int) -> Family:
    observed, null, boot = (window_contrasts(x, width) for x in (curve.values, curve.null, curve.boot))
    spread = boot.std(0)
    t, null_t, boot_t = (np.divide(x, spread, out=np.zeros_like(x), where=spread > 0) for x in (observed, null, boot))
    p_window = (1.0 + (null_t.max(1)[:, None] >= t).sum(0)) / (1.0 + len(null_t))
    return Family(t, _inside(curve.values, width), p_window, float(p_window[t.argmax()]), np.nan, _argmax(boot_t))


def _inside(curve: Array, width: int) -> Array:
    """Mean of a curve inside each window."""
    return np.convolve(curve, np.full(width, 1 / width), mode="valid")


def _argmax(t: Array) -> Array:
    """Largest window of each draw; a draw in which all are equal (a curve of zeros) has none."""
    flat = np.isnan(t).all(1) | (np.nan_to_num(t, nan=-np.inf).max(1) == np.nan_to_num(t, nan=np.inf).min(1))
    return np.where(flat, -1, np.where(np.isnan(t), -np.inf, t).argmax(1))


def find_anchor(found: Mapping[str, Family], width: int) -> Finding:
    """The window whose reset or patch costs most, if it is significant, well placed and seen by another kind too."""
    if "nec" not in found:
        return Finding("anchor", "none found", "necessity was not measured, so no anchor can be named")
    nec = found["nec"]
    best, n_windows = nec.best, len(nec.t)
    if not nec.p_holm <= LEVEL:
        return Finding("anchor", "none found", f"necessity is not significant (Holm p {nec.p_holm:.3f})", p=nec.p_holm)
    share = nec.share(n_windows)
    near = float(share[max(0, best - 1) : best + 2].sum())
    if not nec.difference[best] > 0:
        reason = "necessity stands out most where it is not larger in the first group than in the second"
        return Finding("anchor", "none found", reason, p=nec.p_holm)
    placed: dict[str, Any] = _placed("anchor", nec.argmax, best, width) | dict[str, Any](
        p=nec.p_holm, share_within_1=near
    )
    support = [name for name, family in found.items() if name != "nec" and _seen_near(family, best)]
    if near < SURE:
        candidates = tuple(int(w) for w in np.flatnonzero(share >= 0.05))
        reason = f"only {near:.0%} of bootstrap draws put it within one layer (of {SURE:.0%} needed)"
        return Finding(verdict="ambiguous", reason=reason, candidates=candidates, **placed)
    if not support:
        others = [name for name in found if name != "nec"]
        reason = f"no other kind of evidence is significant there ({', '.join(others) or 'none was measured'})"
        return Finding(verdict="ambiguous", reason=reason, candidates=(best,), **placed)
    return Finding(verdict="anchor", reason=f"supported by {', '.join(support)}", **placed)


def _seen_near(family: Family, window: int) -> bool:
    near = range(max(0, window - 1), min(len(family.t), window + 2))
    return any(family.is_raised(w) for w in near)


def _placed(role: str, argmax: Array, best: int, width: int) -> dict[str, Any]:
    low, high = (
        np.quantile(argmax[argmax >= 0], [0.025, 0.975], method="nearest") if (argmax >= 0).any() else (best, best)
    )
    return {
        "role": role,
        "first_layer": best,
        "last_layer": best + width - 1,
        "ci_low": int(low),
        "ci_high": int(high) + width - 1,
    }


def find_adapter(
    found: Mapping[str, Family],
    nec: Array | None,
    is_first: Array,
    anchor: Finding,
    width: int,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Finding:
    """A later window where the divergence is significant and necessity is smaller than at the anchor."""
    if anchor.verdict != "anchor" or nec is None:
        return Finding("adapter", "none found", "no anchor was found, and an adapter is defined after one")
    if "jsd" not in found:
        return Finding("adapter", "none found", "the divergence was not measured")
    jsd, start = found["jsd"], int(anchor.last_layer) + 1
    later = [w for w in range(start, len(jsd.t)) if jsd.is_raised(w)]
    if not later:
        return Finding("adapter", "none found", f"no window after layer {start - 1} has a significant divergence")
    best = max(later, key=lambda w: float(jsd.t[w]))
    low, high = _necessity_gap(nec, is_first, int(anchor.first_layer), best, width, draws, seed)
    after = np.where(np.isin(jsd.argmax, range(start, len(jsd.t))), jsd.argmax, -1)
    placed: dict[str, Any] = _placed("adapter", after, best, width) | dict[str, Any](p=jsd.p_at(best))
    if low > 0:
        return Finding(verdict="adapter", reason=f"necessity is smaller by {low:.3g} to {high:.3g}", **placed)
    reason = f"necessity is not clearly smaller than at the anchor (interval of the difference {low:.3g} to {high:.3g})"
    return Finding(verdict="ambiguous", reason=reason, candidates=(best,), **placed)


def _necessity_gap(
    nec: Array, is_first: Array, anchor: int, other: int, width: int, draws: int, seed: int
) -> tuple[float, float]:
    """Paired interval of necessity(anchor) - necessity(other), each a difference of the groups' means."""

    inside = [nec[:, w : w + width].mean(1) for w in (anchor, other)]
    gap = group_difference(inside[0] - inside[1], is_first, seed=seed, draws=draws)
    return float(gap.ci_low), float(gap.ci_high)
