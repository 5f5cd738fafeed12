"""Where the difference between two prompts is carried: clean activations put into the corrupt run, and back.

Definition: one checkpoint, two prompts of equal length with the same answer. denoise: the corrupt run with the clean
    value at one site and position (or all prompt positions); noise: the clean run with the corrupt value.
    effect = M(patched) - M(run patched into); recovery = effect / (M(run patched from) - M(run patched into)),
    undefined (NaN) where the two prompts are within 1e-3.
Units: M is the mean teacher-forced log-probability of the answer's tokens, nats per token; recovery is a share.
Source: arXiv 2202.05262 (causal tracing), 2309.16042 and 2404.15255 (practice: denoising asks what suffices,
    noising what is needed).
Does not show: more than this pair of prompts: what differs between them is all that can be located. Backup parts
    hide necessity, and a site that suffices need not be used.
Control: the unpatched runs of every item; positions before the first token that differs (exactly 0); a corrupt
    prompt that should not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes, replays, together
from analyses.patching._clean_and_corrupt import paired_batches

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Edit, Model, Prompts, Site, TokenBatch
    from probe.replay import Clean

HELD_BYTES = 2**29


def _work(case: Case) -> Work:
    """Both prompts as they are; a run replayed for every site of every block, at every position if so asked."""
    options = case.options
    times = (2 if options["variant"] == "both" else 1) * (case.prompt if options["positions"] == "each" else 1)
    rows = {"each": case.answer + case.prompt / 2, "last_prompt": case.answer}.get(options["positions"])
    heads = len(options["heads"]) or case.size.shape.n_heads
    each = sum(heads if kind in ("z", "q", "k", "v") else 1 for kind in options["sites"])
    replayed = replays(case, options["layers"] or range(case.n_layers), times * each, rows=rows)
    return together(passes(case, "answer", times=2 * (2 if options["variant"] == "both" else 1)), replayed)


@analysis(work=_work)
def activation_patching(
    model: Model,
    prompts: Prompts,
    *,
    sites: tuple[str, ...] = ("resid_pre", "attn_out", "mlp_out"),
    layers: tuple[int, ...] = (),
    heads: tuple[int, ...] = (),
    positions: Literal["each", "all_prompt", "last_prompt"] = "each",
    variant: Literal["denoise", "noise", "both"] = "denoise",
    corrupt: Literal["column", "rotate"] = "column",
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Effect and recovery of every site (and prompt position) patched between a clean and a corrupt prompt.

    Rows: item, group, answer_kind, site, layer, head, pos (within the item; missing unless positions=each),
    positions, variant, metric_clean, metric_corrupt, metric_patched, effect, recovery.

    Args:
        positions: each prompt token by itself, all of them at once, or the last.
        variant: clean values into the corrupt run (denoise), corrupt ones into the clean run (noise), or both.
        batch_size: of passes that are not patched.
    """

    plan: dict[str, object] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    pairs, warnings = paired_batches(model, prompts, corrupt, **plan)
    places = reading.chosen_sites(model, sites, layers, heads)
    variants = ("denoise", "noise") if variant == "both" else (variant,)
    frames = [
        _effects(model, clean, other, places, positions, which)
        for clean, other in progress(pairs, "activation patching", total=len(pairs))
        for which in variants
    ]
    table = pd.concat(frames, ignore_index=True)
    keys = ["variant", "site", "layer", "head", "pos", "item", "answer_kind"]
    table = table.sort_values(keys, kind="stable", ignore_index=True)
    return Result.of(table, _aggregate(table, seed), warnings=warnings)


def _effects(
    model: Model, clean: TokenBatch, corrupt: TokenBatch, sites: Sequence[Site], positions: str, variant: str
) -> pd.DataFrame:

    metric = probe.replay.answer_logprob(clean)
    runs = {"clean": probe.replay.Clean(model, clean), "corrupt": probe.replay.Clean(model, corrupt)}
    values = {name: probe.replay.clean_metric(run, metric).numpy().astype(float) for name, run in runs.items()}
    source, target = ("clean", "corrupt") if variant == "denoise" else ("corrupt", "clean")
    names = {
        "item": [i.id for i in clean.items],
        "group": [i.group for i in clean.items],
        "answer_kind": [i.answer_kind for i in clean.items],
        "metric_clean": values["clean"],
        "metric_corrupt": values["corrupt"],
    }
    frames: list[pd.DataFrame] = []
    for group in _held(runs[source], sites, positions):
        for (site, pos, _), found in zip(
            group, probe.replay.replay(runs[target], [edit for *_, edit in group], metric).numpy(), strict=True
        ):
            at = {"site": site.kind, "layer": site.layer, "head": site.head, "pos": pos}
            rows = pd.DataFrame({**names, **at, "metric_patched": found.astype(float)})
            frames.append(rows.astype(dict.fromkeys(("layer", "head", "pos"), "Int64"))[_has(clean, pos)])
    table = pd.concat(frames, ignore_index=True).assign(variant=variant, positions=positions)
    into = table[f"metric_{target}"].to_numpy()
    table["effect"] = table["metric_patched"].to_numpy() - into
    table["recovery"] = reading.share(table["effect"].to_numpy(), table[f"metric_{source}"].to_numpy() - into)
    columns = ["item", "group", "answer_kind", "site", "layer", "head", "pos", "positions", "variant"]
    return table[[*columns, "metric_clean", "metric_corrupt", "metric_patched", "effect", "recovery"]]


def _has(batch: TokenBatch, pos: int | None) -> np.ndarray:
    """Which items have this position in their prompt."""

    return np.array([pos is None or pos < len(columns) for columns in reading.prompt_columns(batch)])


def _held(source: Clean, sites: Sequence[Site], positions: Any) -> Iterator[list[tuple[Site, int | None, Edit]]]:
    """(site, position, patch) in groups whose values fit in memory; patches of one site share its value."""

    columns = reading.prompt_columns(source.batch)
    group: list[tuple[Site, int | None, Edit]] = []
    held = 0
    for site in sites:
        value = source.value(site)
        if positions != "each":
            group.append((site, None, probe.patch(site, value, positions)))
        else:
            for pos in range(max(map(len, columns))):
                mask = source.batch.mask & False
                for row, own in enumerate(columns):
                    mask[row, own[pos : pos + 1]] = True
                group.append((site, pos, probe.patch(site, value, mask)))
        held += value.nbytes
        if held > HELD_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Mean effect and recovery (ratio of sums) per cell and group; heads apart from whole sites."""

    table = table.assign(
        layer=table["layer"].fillna(-1).astype(int),
        gap=np.where(table["variant"] == "denoise", 1, -1) * (table["metric_clean"] - table["metric_corrupt"]),
    )
    parts: list[xr.Dataset] = []
    for prefix, rows in (("", table[table["head"].isna()]), ("head_", table[table["head"].notna()])):
        if rows.empty:
            continue
        extra = [d for d in ("head", "pos") if rows[d].notna().any()]
        rows = rows.astype(dict.fromkeys(extra, int))
        by = ["variant", "site", "layer", *extra, "group", "answer_kind"]
        label: dict[str, Any] = {"units": "nats/token", "long_name": "change of the answer's log-probability"}
        parts.append(estimate(rows, "effect", by, seed=seed, name=f"{prefix}effect", **label))
        share: dict[str, Any] = {"units": "1", "long_name": "recovery"}
        parts.append(estimate(rows, "effect", by, per="gap", seed=seed, name=f"{prefix}recovery", **share))
    return xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")


def figures(result: Result) -> dict[str, Figure]:
    """Layer by position (or by head) coloured by effect; curves over layers where positions are patched together."""

    rows = result.summary()
    drawn: dict[str, Any] = {}
    for name in ("effect", "head_effect", "recovery"):
        part = rows[rows["quantity"] == name]
        if part.empty:
            continue
        many = [d for d in ("step", "variant", "group", "answer_kind", "site") if d in part and part[d].nunique() > 1]
        title = f"{name.removeprefix('head_').capitalize()} of the patch: mean over items"
        across = "pos" if "pos" in part and part["pos"].notna().any() else "head" if name == "head_effect" else None
        if across is None:
            drawn[name] = curve(part, x="layer", color="group", facet=[d for d in many if d != "group"] or None,
                                title=f"{title}, 95 % interval", reference=0.0)  # fmt: skip
            continue
        facet = [*many, "head"] if name == "head_effect" and across == "pos" else many
        drawn[name] = heatmap(part, x=across, y="layer", facet=facet or None, title=title)
    return drawn
