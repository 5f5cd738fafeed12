"""Which window of layers, if any, carries what one group of items gained: a rule that can say "none found".

Definition: from results of other analyses on the same items, curves per item and layer: nec = M(tuned) - M(tuned
    with the block reset, or patched from base), suf = M(base patched from tuned) - M(base), jsd = before_after
    divergence, force = split-half squared force, probe = AUC of the linear probe. A window's contrast is its mean
    minus the mean of all other layers. Each kind is studentised between the groups; its p is that of the maximum
    over windows, and of that beyond the second group's profile times one factor (a group that has more to lose is no
    place), then Holm over kinds (and widths). Anchor = the window where nec is largest,
    if its Holm p <= .05, at least 80 % of bootstrap draws put it within one layer, and another kind is significant
    within one layer. Adapter = a later window with significant jsd where nec is smaller (the paired interval
    excludes 0). A window counts only where the first group is larger inside it, not merely less small than
    elsewhere. Otherwise `ambiguous` or `none found`; both are legal answers.
Units: layers (from 0); p has none; the curves drawn are studentised differences.
Source: the two names are from arXiv 2601.11061, which picks its windows by eye; the rule is this toolkit's.
Does not show: that the layers store anything. It says where, relative to the other layers, an effect is
    concentrated; one that is spread evenly, or redundant across layers, gives none found. Operating points,
    simulated (benchmarks/operating_points.py: 28 layers, AR(1) noise of rho .7, effect d at layers 18-20 in units of
    the noise's innovation SD, width 3, alpha .05). Necessity alone is significant in .034 of 1000 runs without an
    effect and .034 with one that is equal at all layers; n = 64 per group: .544 at d = .6, .941 at d = .9; n = 25:
    .478 at d = .9 (in units of the marginal SD: .897, 1.000, .842). The whole rule (necessity, sufficiency,
    divergence) names an anchor in .000 of 200 runs without an effect, .230, .850 and .210 with; an adapter in .095,
    .655 and .075. So "none found" with few items or small effects is the expected answer, not evidence of absence.
Control: the same rule on a run that cannot have moved these items; groups with permuted labels; a planted block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve, shade
from analyses.core.result import Result
from analyses.core.stats import change_points, group_difference, widened
from analyses.states._anchor_evidence import (
    aligned,
    compared_groups,
    drawn_curves,
    item_frames,
    one_depth,
    strata_of_items,
)
from analyses.states._window_rule import (
    Curve,
    Family,
    Finding,
    ItemCurve,
    default_width,
    families,
    find_adapter,
    find_anchor,
)
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Prompts

KINDS = ("nec", "suf", "jsd", "force", "probe")


@analysis
def anchor_adapter(
    weight_reset: Annotated[Result, "weight_reset"] | None = None,
    cross_patching: Annotated[Result, "cross_patching"] | None = None,
    divergence: Annotated[Result, "divergence"] | None = None,
    trajectories: Annotated[Result, "trajectories"] | None = None,
    neural_ode: Annotated[Result, "neural_ode"] | None = None,
    linear_probe: Annotated[Result, "linear_probe"] | None = None,
    prompts: Prompts | None = None,
    *,
    groups: tuple[str, ...] = (),
    width: int | None = None,
    sensitivity: tuple[int, ...] = (),
    strata: tuple[str, ...] = (),
    site: str | None = None,
    answer_kind: str | None = None,
    permutations: int = 2000,
    draws: int = 2000,
    seed: int = 0,
) -> Result:
    """The anchor and adapter windows with interval and p, or that there are none.

    Rows: role, first_layer, last_layer, ci_low, ci_high (outermost layers of 95 % of the bootstrap), p (Holm),
    verdict, reason, share_within_1, candidates. Arrays: t, p_window, argmax_share [family, window], the group
    differences `effect` [family, layer] with intervals, and change points (descriptive).

    Args:
        groups: the first is expected larger.
        width: by default 3 of 24 blocks and more, 1 of fewer than 12, else 2.
        sensitivity: other widths whose p-values Holm also counts and whose argmax is reported.
        strata: needs prompts.
        site: site of cross_patching to read; default mlp_out, or the only one there is.
        draws: bootstrap draws.
    """
    given = {"weight_reset": weight_reset, "cross_patching": cross_patching, "divergence": divergence}
    given |= {"trajectories": trajectories, "neural_ode": neural_ode, "linear_probe": linear_probe}
    if not any(given.values()):
        raise InputError(f"anchor_adapter needs at least one result to read, of {', '.join(given)}")
    frames = item_frames(given, site, answer_kind)
    first, second = compared_groups(frames, groups)
    curves, items, is_first = aligned(frames, first, second)
    curves |= drawn_curves(given, {first, second})
    n_layers = one_depth(curves)
    chosen = width or default_width(n_layers)
    options: dict[str, Any] = {
        "strata": strata_of_items(prompts, items, strata),
        "permutations": permutations,
        "draws": draws,
        "seed": seed,
    }
    others = {w: families(curves, is_first, width=w, **options) for w in sensitivity if w != chosen}
    extra = [family.p for found in others.values() for family in found.values()]
    found = families(curves, is_first, width=chosen, extra_p=extra, **options)
    anchor = find_anchor(found, chosen)
    nec = curves["nec"].values if "nec" in curves else None
    adapter = find_adapter(found, nec, is_first, anchor, chosen, draws=draws, seed=seed)
    data = _arrays(found, curves, is_first, n_layers, draws, seed)
    data.attrs |= {"groups": [first, second], "width": chosen}
    warnings = [f"{kind} was not measured" for kind in KINDS if kind not in curves]
    warnings += [_about_width(w, other) for w, other in others.items()]
    claims = _claims([anchor, adapter], nec, is_first, n_layers - chosen + 1)
    return Result.of(_table([anchor, adapter], chosen), data, claims=claims, warnings=warnings)


def _table(findings: list[Finding], width: int) -> pd.DataFrame:
    columns = ["role", "first_layer", "last_layer", "ci_low", "ci_high", "p", "verdict", "reason", "share_within_1"]
    table = pd.DataFrame([{c: getattr(f, c) for c in columns} for f in findings])
    layers = ["first_layer", "last_layer", "ci_low", "ci_high"]
    table = table.astype(dict.fromkeys(layers, "Int64"))  # a layer that was not found is missing, not a number
    table["candidates"] = [", ".join(_span(w, width) for w in f.candidates) for f in findings]
    return table.assign(width=width)


def _span(first: float, width: int) -> str:
    return f"{int(first)}" if width == 1 else f"{int(first)}-{int(first) + width - 1}"


def _claims(findings: list[Finding], nec: np.ndarray | None, is_first: np.ndarray, windows: int) -> list[Claim]:
    """The two roles as claims; something significant that is not one window cannot be judged."""
    said: list[Claim] = []
    for found in findings:
        what = f"one window of layers is the {found.role}"
        if np.isnan(found.first_layer):
            unmeasured = "not measured" in found.reason
            if unmeasured:
                needs = "a result of weight_reset or cross_patching (necessity), and of divergence"
                said.append(Claim(found.role, UNJUDGED, what, why=found.reason, needs=needs))
            else:
                said.append(
                    Claim(found.role, NONE, f"a window that is the {found.role}", p=found.p, caveat=found.reason)
                )
            continue
        if found.verdict != found.role:
            needs = "more items, or another kind of evidence"
            said.append(Claim(found.role, UNJUDGED, what, why=found.reason, needs=needs, p=found.p))
            continue
        start, end = int(found.first_layer), int(found.last_layer)
        shown: Fields = {}
        if nec is not None and found.role == "anchor":
            e = group_difference(np.nanmean(nec[:, start : end + 1], axis=1), is_first)
            numbers = (float(e.value), float(e.ci_low), float(e.ci_high))
            value, low, high = widened(*numbers, n=int(e.n), looks=windows)
            shown = {"effect": value, "low": low, "high": high, "unit": "of the metric", "n": int(e.n)}
        place = f"layers {start}-{end}" if end > start else f"layer {start}"
        said.append(
            Claim(
                found.role, FOUND, f"{place} are the {found.role}" if end > start else f"{place} is the {found.role}",
                place=place, estimand="necessity there, first group minus second", p=found.p,
                family=f"{windows} windows, all kinds of evidence", control="the second group, whatever its scale",
                assumptions=(found.reason, f"95 % of the bootstrap in layers {int(found.ci_low)}-{int(found.ci_high)}"),
                caveat="where an effect is concentrated, not what is stored", **shown,
            )
        )  # fmt: skip
    return said


def _about_width(width: int, found: dict[str, Family]) -> str:
    best = {name: _span(family.best, width) for name, family in found.items()}
    return f"at width {width} the largest windows are {best}"


def _arrays(
    found: dict[str, Family], curves: dict[str, Curve], is_first: np.ndarray, n_layers: int, draws: int, seed: int
) -> xr.Dataset:

    names = list(found)
    n_windows = len(found[names[0]].t)
    data = xr.Dataset(coords={"family": names, "window": np.arange(n_windows), "layer": np.arange(n_layers)})
    data["t"] = (("family", "window"), np.stack([f.t for f in found.values()]), {"units": "", "long_name": "t"})
    adjusted = [[f.p_at(w) for w in range(n_windows)] for f in found.values()]
    data["p_window"] = (("family", "window"), np.asarray(adjusted))
    data["p_holm"] = ("family", np.asarray([f.p_holm for f in found.values()]))
    data["argmax_share"] = (("family", "window"), np.stack([f.share(n_windows) for f in found.values()]))
    parts: dict[str, list[np.ndarray]] = {s: [] for s in ("", "_ci_low", "_ci_high", "_n")}
    for each in curves.values():
        if isinstance(each, ItemCurve):
            e = group_difference(each.values, is_first, seed=seed, draws=draws)
            rows = (e.value, e.ci_low, e.ci_high, e.n)
        else:
            low, high = np.quantile(each.boot, [0.025, 0.975], axis=0)
            rows = (each.values, low, high, np.full(n_layers, int(min(is_first.sum(), (~is_first).sum()))))
        for suffix, row in zip(parts, rows, strict=True):
            parts[suffix].append(row)
    for suffix, rows in parts.items():
        data[f"effect{suffix}"] = (("family", "layer"), np.stack(rows))
    data["effect"].attrs = {"units": "of each kind", "long_name": "difference between the groups"}
    breaks = {name: list(change_points(row)) for name, row in zip(names, parts[""], strict=True)}
    return data.assign_attrs(change_points=[f"{name}: {b or 'none'}" for name, b in breaks.items()])


def figures(result: Result) -> dict[str, Figure]:
    """All kinds of evidence on one layer axis, with the windows that were found; and their differences."""
    width = int(result.data.attrs["width"])
    rows = result.data["t"].to_dataframe().reset_index().rename(columns={"t": "value"})
    rows = rows.assign(layer=rows["window"] + (width - 1) / 2, quantity="t", unit="studentised")
    title = f"Studentised difference {' - '.join(result.data.attrs['groups'])} by window of {width}"
    joint = curve(rows, x="layer", color="family", title=f"{title}: {result.verdict}", reference=0)
    for found in result.table.to_dict("records"):
        if found["verdict"] == found["role"]:
            shade(joint, found["first_layer"] - 0.5, found["last_layer"] + 0.5, str(found["role"]))
    effects = result.summary()
    each = curve(
        effects[effects["quantity"] == "effect"], x="layer", facet="family", title="Group differences", reference=0
    )
    return {"rule": joint, "effects": each}
