"""A series of checkpoints as an analysis meets it: its members, and their results as one with the dim ``step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import xarray as xr

from analyses.core.analysis import Analysis, unknown
from analyses.core.claim import Json, as_json
from analyses.core.reading.comparable import IDENTICAL
from analyses.core.result import Result
from analyses.core.running.failures import Member
from analyses.core.running.inputs import Loading
from analyses.core.running.workers import Engine
from analyses.core.store.files import Stack, Stored, labelled
from probe.checkpoints import Series, discover
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Checkpoint

Pairs = Literal["first", "adjacent", "all"]


def series_of(checkpoints: Sequence[Checkpoint | str] | str | Path, loading: Loading) -> Series:
    """The series, in which every checkpoint has a step of its own.

    Raises:
        InputError: steps that are missing or there twice.
    """
    found = checkpoints
    if not isinstance(found, Series):
        found = discover(found, base=loading.base_model, config=loading.config_folder)
    if len(found) == 1 and found[0].step is None:
        note = f"the step of {found[0].label} is not known; it is shown as step 0"
        return Series([replace(found[0], step=0)], [*found.notes, note])
    steps = [c.step for c in found]
    stages = sorted({c.stage or "" for c in found})
    if len(set(steps)) < len(steps) and len(stages) > 1:
        raise InputError(
            f"several stages side by side ({', '.join(s or 'none' for s in stages)}) count steps of their own: sweep "
            f"each by itself, e.g. --checkpoints {Path(found[0].adapter or found[0].path).parent}; or number them "
            "through with STEP=FOLDER"
        )
    if None in steps or len(set(steps)) < len(steps):
        listed = ", ".join(f"{c.label}: {c.step}" for c in found)
        raise InputError(
            f"every checkpoint of a series needs a step of its own; got {listed}. Say which: --checkpoints 0=FOLDER "
            "--checkpoints 100=FOLDER (--base FOLDER is step 0)"
        )
    return found


def members_of(of: Analysis, series: list[Checkpoint], pairs: Pairs) -> list[Member]:
    """(steps, models) of each member."""
    if of.arity == "result":
        raise InputError(f"{of.name} takes results: sweep what it reads, then `probe run {of.name}` on that")
    if of.arity == "checkpoint":
        (slot,) = [i.name for i in of.inputs if i.kind == "Model"]
        return [({"step": int(c.step or 0)}, {slot: c}) for c in series]
    if len(series) < 2:
        raise InputError(f"{of.name} compares two checkpoints; the series has {len(series)}")
    chosen = {
        "first": [(series[0], c) for c in series],
        "adjacent": list(pairwise(series)),
        "all": list(combinations(series, 2)),
    }
    if pairs not in chosen:
        raise InputError(unknown("way to pair checkpoints", pairs, chosen))
    with_source = pairs == "all"
    return [
        (
            {"step": int(tuned.step or 0)} | ({"source_step": int(base.step or 0)} if with_source else {}),
            {"base": base, "tuned": tuned},
        )
        for base, tuned in chosen[pairs]
    ]


def join(steps: Sequence[Mapping[str, int]], members: Sequence[Result]) -> Result:
    """Members with their steps as columns and dims; cells no member has are NaN ("not measured")."""
    placed = list(zip(steps, members, strict=True))
    data = [m.data.drop_attrs(deep=False).expand_dims({d: [s] for d, s in at.items()}) for at, m in placed]
    if list(steps[0]) == ["step"]:
        joined = xr.concat(data, "step", data_vars="all", join="outer", combine_attrs="override")
    else:
        joined = xr.merge(data, join="outer", compat="no_conflicts", combine_attrs="override")
    parts = [(at, m.rows) for at, m in placed if isinstance(m.rows, Stored)]
    rows = (
        Stack(tuple(parts))
        if len(parts) == len(placed)
        else pd.concat([labelled(m.table, at) for at, m in placed], ignore_index=True)
    )
    return Result(joined, rows, {})


def last_claims(placed: Sequence[tuple[Mapping[str, int], Result]]) -> list[dict[str, Json]]:
    """What a sweep says: the claims of its last checkpoint, against the first where pairs are compared.

    Which one speaks is settled before anything is measured, so that its intervals and p hold without a correction for
    the other steps; what each of those says stands beside it, in the members.
    """
    at, last = max(placed, key=lambda one: (one[0]["step"], -one[0].get("step_base", 0)))
    told = f"read at step {at['step']}, the last of {len({steps['step'] for steps, _ in placed})}"
    return [as_json(replace(claim, assumptions=(*claim.assumptions, told))) for claim in last.claims]


def record_of(
    key: str,
    of: Analysis,
    steps: Sequence[Mapping[str, int]],
    done: Sequence[Result],
    models: Sequence[Mapping[str, object]],
    pairs: str,
    engine: Engine,
) -> dict[str, Any]:
    """The record of a swept result: what its members share, and what is each one's own.

    Args:
        key: address of the result.
        of: the analysis.
        steps: of each member.
        done: the members.
        models: descriptions of each member's checkpoints; where equal weights were computed before under another path,
            the member's own record has that one.
        pairs: which checkpoints were compared.
        engine: who computed them.
    """
    first = done[0].record
    slots = {i.name for i in of.inputs if i.kind == "Model"}
    placed = list(zip(steps, done, strict=True))
    shared_by_all = [w for w in done[0].warnings if len(done) > 1 and all(w in r.warnings for r in done)]
    # The first checkpoint beside itself differs in nothing, which nobody has to be told.
    itself = [bool(m.get("base")) and m.get("base") == m.get("tuned") for m in models]
    own = [
        f"step {at['step']}: {w}"
        for (at, r), same in zip(placed, itself, strict=True)
        for w in r.warnings
        if w not in shared_by_all and not (same and w == IDENTICAL)
    ]
    warnings = list(dict.fromkeys([*(f"every step: {w}" for w in shared_by_all), *own]))
    shared = {n: d for n, d in first["inputs"].items() if n not in slots}
    series = [
        {
            **at,
            "key": r.key,
            "verdict": r.verdict,
            "claims": r.record.get("claims", []),
            **described,
        }
        for (at, r), described in zip(placed, models, strict=True)
    ]
    return {
        **{k: first[k] for k in ("schema", "analysis", "upstream", "options", "loading", "code", "environment")},
        "key": key,
        "kind": "sweep",
        "pairs": pairs,
        "engine": asdict(engine) if engine.name == "ray" else {"name": engine.name},
        "inputs": shared,
        "members": series,
        "claims": last_claims(placed),
        "warnings": warnings,
        "started": min(r.record["started"] for r in done),
        "seconds": round(sum(r.record["seconds"] for r in done), 3),
    }
