"""Which window of layers, if any, carries what one group of items gained: a rule that can say "none found".

Definition: from results of other analyses on the same items, curves per item and layer: nec = M(tuned) -
    M(tuned with the block reset, or patched from base), suf = M(base patched from tuned) - M(base), jsd =
    before_after divergence, force = split-half squared force, probe = out-of-fold score. A window's contrast is its
    mean minus the mean of all other layers. Each kind is studentised between the groups, its p is the maximum
    statistic over windows under permuted labels, then Holm over kinds (and widths). Anchor = the window where nec
    is largest, if its Holm p <= .05, at least 80 % of bootstrap draws put it within one layer, and another kind is
    significant within one layer. Adapter = a later window with significant jsd where nec is smaller (the paired
    interval excludes 0). A window counts only where the first group is larger inside it, not merely less small
    than elsewhere. Otherwise `ambiguous` or `none found`; both are legal answers.
Units: layers (from 0); p has none; the curves drawn are studentised differences.
Source: the two names are from arXiv 2601.11061, which picks its windows by eye; the rule is this toolkit's.
Does not show: that the layers store anything. It says where, relative to the other layers, an effect is
    concentrated; one that is spread evenly, or redundant across layers, gives none found. Its operating points
    (simulated, benchmarks/operating_points.py; AR(1) noise across 28 layers, effects in units of its innovation):
    see `OPERATING_POINTS`.
Control: the same rule on a run that cannot have moved these items; groups with permuted labels; a planted block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.localisation import (
    Curve,
    DrawnCurve,
    Family,
    Finding,
    ItemCurve,
    default_width,
    families,
    find_adapter,
    find_anchor,
)
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
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
        groups: first (expected larger) and second group; default: the only two there are, by name.
        width: layers per window; default 3 for 24 blocks and more, 1 for fewer than 12, else 2.
        sensitivity: other widths whose p-values Holm also counts and whose argmax is reported.
        strata: columns of the prompt file within whose values labels are permuted (needs prompts).
        site: site of cross_patching to read; default mlp_out, or the only one there is.
        answer_kind: kind of answer to read where the results hold several.
        permutations: label permutations.
        draws: bootstrap draws.
        seed: of both.
    """
    given = {"weight_reset": weight_reset, "cross_patching": cross_patching, "divergence": divergence}
    given |= {"trajectories": trajectories, "neural_ode": neural_ode, "linear_probe": linear_probe}
    if not any(given.values()):
        raise InputError(f"anchor_adapter needs at least one result to read, of {', '.join(given)}")
    frames = _item_frames(given, site, answer_kind)
    first, second = _groups(frames, groups)
    curves, items, is_first = _aligned(frames, first, second)
    curves |= _drawn(given, {first, second})
    n_layers = _one_depth(curves)
    chosen = width or default_width(n_layers)
    options = {"strata": _strata(prompts, items, strata), "permutations": permutations, "draws": draws, "seed": seed}
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
    return Result.of(_table([anchor, adapter], chosen), data, verdict=_sentence(anchor, adapter), warnings=warnings)


# ---------------------------------------------------------------- curves from results


def _item_frames(given: dict[str, Result | None], site: str | None, answer_kind: str | None) -> dict[str, pd.DataFrame]:
    """Kind of evidence -> rows (item, group, layer, value), one value per item and layer."""
    frames: dict[str, pd.DataFrame] = {}
    if given["cross_patching"] is not None:
        table = _one_kind(given["cross_patching"].table, answer_kind, "cross_patching")
        frames |= _from_patching(table, site)
    if given["weight_reset"] is not None:  # necessity by reset comes before necessity by patching
        frames["nec"] = _from_reset(_one_kind(given["weight_reset"].table, answer_kind, "weight_reset"))
    if given["divergence"] is not None:
        table = _one_kind(given["divergence"].table, answer_kind, "divergence")
        table = table[table["variant"] == "before_after"]
        if table.empty:
            raise InputError("divergence holds no before_after rows: run it with variant=before_after")
        frames["jsd"] = table.rename(columns={"jsd_nats": "value"})
    if given["linear_probe"] is not None:
        table = given["linear_probe"].table
        frames["probe"] = table[table["state"] > 0].assign(layer=lambda t: t["state"] - 1, value=lambda t: t["score"])
    keys = ["item", "group", "layer"]
    return {name: f.groupby(keys, as_index=False)["value"].mean() for name, f in frames.items()}


def _one_kind(table: pd.DataFrame, answer_kind: str | None, name: str) -> pd.DataFrame:
    if "step" in table and table["step"].nunique() > 1:
        raise InputError(f"{name} is a sweep over steps {sorted(table['step'].unique())}: give the result of one pair")
    if "answer_kind" not in table:
        return table
    kinds = sorted(table["answer_kind"].unique())
    if answer_kind is None and len(kinds) > 1:
        raise InputError(f"{name} holds answer kinds {kinds}, which are never pooled: name one with answer_kind")
    return table[table["answer_kind"] == (answer_kind or kinds[0])]


def _from_reset(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["variant"] == "reset"]
    if rows.empty or rows["layers"].astype(str).str.contains(",").any():
        raise InputError("weight_reset must hold variant reset with width 1: the rule builds its windows itself")
    tuned = table[table["variant"] == "tuned"].set_index("item")["metric"]
    value = rows["item"].map(tuned) - rows["metric"]
    return rows.assign(layer=rows["window"].astype(int), value=value)


def _from_patching(table: pd.DataFrame, site: str | None) -> dict[str, pd.DataFrame]:
    if "head" in table:
        table = table[table["head"].isna() | (table["head"] < 0)]
    sites = sorted(table["site"].unique())
    chosen = site or ("mlp_out" if "mlp_out" in sites else sites[0])
    if chosen not in sites or (site is None and chosen != "mlp_out" and len(sites) > 1):
        raise InputError(f"cross_patching holds sites {sites}; name one of them with site (given: {site})")
    table = table[table["site"] == chosen]
    if "positions" in table and table["positions"].nunique() > 1:
        table = table[table["positions"] == "all_prompt"]
    into_base = table["direction"] == "tuned_to_base"
    found = {
        "nec": table[~into_base].assign(value=lambda t: t["metric_tuned"] - t["metric_patched"]),
        "suf": table[into_base].assign(value=lambda t: t["metric_patched"] - t["metric_base"]),
    }
    return {name: rows for name, rows in found.items() if len(rows)}


def _groups(frames: dict[str, pd.DataFrame], groups: tuple[str, ...]) -> tuple[str, str]:
    """The two groups, in the given order or by name."""
    if not frames:
        raise InputError("no result with rows per item was given: weight_reset, cross_patching, divergence or probe")
    there = sorted(set.intersection(*(set(f["group"]) for f in frames.values())))
    names = groups or tuple(there)
    if len(names) != 2 or not set(names) <= set(there):
        raise InputError(f"groups {list(names)}: exactly two of {there} are needed, the one expected larger first")
    return names[0], names[1]


def _aligned(
    frames: dict[str, pd.DataFrame], first: str, second: str
) -> tuple[dict[str, Curve], np.ndarray, np.ndarray]:
    """The same items in the same order for every kind; items that a kind lacks are left out of all."""
    grids = {
        name: f[f["group"].isin([first, second])].pivot(index=["item", "group"], columns="layer", values="value")
        for name, f in frames.items()
    }
    common = sorted(set.intersection(*(set(g.dropna().index) for g in grids.values())))
    if not common:
        raise InputError(f"the results given share no items of groups {first!r} and {second!r}")
    curves: dict[str, Curve] = {n: ItemCurve(g.loc[common].to_numpy(float)) for n, g in grids.items()}
    items = np.asarray([item for item, _ in common], dtype=object)
    return curves, items, np.asarray([group == first for _, group in common])


def _drawn(given: dict[str, Result | None], groups: set[str]) -> dict[str, Curve]:
    """The force curve: of the states if there is one, else of the fitted field."""
    result = given["trajectories"] or given["neural_ode"]
    if result is None:
        return {}
    if set(result.data.attrs.get("groups", ())) != groups:
        raise InputError(
            f"{result.analysis or 'trajectories'} compares {result.data.attrs.get('groups')}, not {groups}"
        )
    parts = [result.data[name].to_numpy() for name in ("force_squared", "force_squared_null", "force_squared_boot")]
    if np.isnan(parts[0]).any():  # a fitted field says nothing where its R2 is not above 0
        return {}
    return {"force": DrawnCurve(*parts)}


def _one_depth(curves: dict[str, Curve]) -> int:
    depths = {name: curve.values.shape[-1] for name, curve in curves.items()}
    if len(set(depths.values())) > 1:
        raise InputError(f"results of models of different depth: {depths}; all must be of one pair of checkpoints")
    return next(iter(depths.values()))


def _strata(prompts: Prompts | None, items: np.ndarray, names: tuple[str, ...]) -> np.ndarray | None:
    if not names:
        return None
    if prompts is None:
        raise InputError(f"strata {list(names)} are columns of the prompt file: give prompts")
    of = {item.id: item for item in prompts.items}
    missing = [i for i in items if i not in of or any(n not in of[i].meta for n in names)]
    if missing:
        raise InputError(f"strata {list(names)}: not known for item(s) {missing[:3]}")
    return np.asarray(["|".join(str(of[i].meta[n]) for n in names) for i in items], dtype=object)


# ---------------------------------------------------------------- output


def _table(findings: list[Finding], width: int) -> pd.DataFrame:
    columns = ["role", "first_layer", "last_layer", "ci_low", "ci_high", "p", "verdict", "reason", "share_within_1"]
    table = pd.DataFrame([{c: getattr(f, c) for c in columns} for f in findings])
    layers = ["first_layer", "last_layer", "ci_low", "ci_high"]
    table = table.astype(dict.fromkeys(layers, "Int64"))  # a layer that was not found is missing, not a number
    table["candidates"] = [", ".join(_span(w, width) for w in f.candidates) for f in findings]
    return table.assign(width=width)


def _span(first: float, width: int) -> str:
    return f"{int(first)}" if width == 1 else f"{int(first)}-{int(first) + width - 1}"


def _sentence(anchor: Finding, adapter: Finding) -> str:
    """One sentence a reader can quote."""
    return "; ".join(_clause(f) for f in (anchor, adapter)) + "."


def _clause(found: Finding) -> str:
    if found.verdict == "none found":
        return f"{found.role}: none found ({found.reason})"
    width = int(found.last_layer - found.first_layer) + 1
    where = f"layer{'s' if width > 1 else ''} {_span(found.first_layer, width)}"
    interval = f"95 % bootstrap {int(found.ci_low)}-{int(found.ci_high)}, p {found.p:.3f}"
    tone = "" if found.verdict == found.role else "ambiguous, best "
    return f"{found.role}: {tone}{where} ({interval}; {found.reason})"


def _about_width(width: int, found: dict[str, Family]) -> str:
    best = {name: _span(family.best, width) for name, family in found.items()}
    return f"at width {width} the largest windows are {best}"


def _arrays(
    found: dict[str, Family], curves: dict[str, Curve], is_first: np.ndarray, n_layers: int, draws: int, seed: int
) -> xr.Dataset:
    from analyses.core.stats import change_points, group_difference

    names = list(found)
    n_windows = len(found[names[0]].t)
    data = xr.Dataset(coords={"family": names, "window": np.arange(n_windows), "layer": np.arange(n_layers)})
    data["t"] = (("family", "window"), np.stack([f.t for f in found.values()]), {"units": "", "long_name": "t"})
    adjusted = [[f.p_at(w) for w in range(n_windows)] for f in found.values()]
    data["p_window"] = (("family", "window"), np.asarray(adjusted))
    data["p_holm"] = ("family", np.asarray([f.p_holm for f in found.values()]))
    data["argmax_share"] = (("family", "window"), np.stack([f.share(n_windows) for f in found.values()]))
    parts: dict[str, list[np.ndarray]] = {s: [] for s in ("", "_ci_low", "_ci_high", "_n")}
    for curve in curves.values():
        if isinstance(curve, ItemCurve):
            e = group_difference(curve.values, is_first, seed=seed, draws=draws)
            rows = (e.value, e.ci_low, e.ci_high, e.n)
        else:
            low, high = np.quantile(curve.boot, [0.025, 0.975], axis=0)
            rows = (curve.values, low, high, np.full(n_layers, int(min(is_first.sum(), (~is_first).sum()))))
        for suffix, row in zip(parts, rows, strict=True):
            parts[suffix].append(row)
    for suffix, rows in parts.items():
        data[f"effect{suffix}"] = (("family", "layer"), np.stack(rows))
    data["effect"].attrs = {"units": "of each kind", "long_name": "difference between the groups"}
    breaks = {name: list(change_points(row)) for name, row in zip(names, parts[""], strict=True)}
    return data.assign_attrs(change_points=[f"{name}: {b or 'none'}" for name, b in breaks.items()])


def figures(result: Result) -> dict[str, Any]:
    """All kinds of evidence on one layer axis, with the windows that were found; and their differences."""
    from analyses.core.figures import curve, shade

    width = int(result.data.attrs["width"])
    rows = result.data["t"].to_dataframe().reset_index().rename(columns={"t": "value"})
    rows = rows.assign(layer=rows["window"] + (width - 1) / 2, quantity="t", unit="studentised")
    title = f"Studentised difference {' - '.join(result.data.attrs['groups'])} by window of {width}"
    joint = curve(rows, x="layer", color="family", title=f"{title}: {result.verdict}", reference=0)
    for found in result.table.itertuples():
        if found.verdict == found.role:
            shade(joint, found.first_layer - 0.5, found.last_layer + 0.5, str(found.role))
    effects = result.summary()
    each = curve(
        effects[effects["quantity"] == "effect"], x="layer", facet="family", title="Group differences", reference=0
    )
    return {"rule": joint, "effects": each}
