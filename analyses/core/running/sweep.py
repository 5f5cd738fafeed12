"""Sweep one analysis over a series of checkpoints: one result with the dim ``step``, resumable member by member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import xarray as xr

from analyses.core.analysis import Analysis, get, unknown
from analyses.core.keys import digest
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.running.inputs import Loading, ModelPool
from analyses.core.running.run import Call, prepare, stored
from analyses.core.running.shards import computed, shards
from analyses.core.running.workers import Engine, Task, compute
from analyses.core.stopping import interruptible
from analyses.core.store import Store
from analyses.core.store.files import Stack, Stored, labelled
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Checkpoint

Pairs = Literal["first", "adjacent", "all"]


@interruptible()
def sweep(
    name: str,
    *,
    checkpoints: Sequence[Checkpoint | str] | str | Path,
    pairs: Pairs = "first",
    store: Store | None = None,
    loading: Loading | None = None,
    limit: int | None = None,
    engine: Engine | None = None,
    **given: Any,
) -> Result:
    """One result with the dim ``step``: the analysis at each checkpoint (or pair of them) of a series.

    Args:
        name: analysis, as in ``probe list``.
        checkpoints: a folder (see ``probe.discover``) or a list.
        pairs: for two-checkpoint analyses: every one against the ``first``, ``adjacent`` ones, or ``all``.
        store: where results live; members are kept there, so an interrupted sweep goes on where it stopped.
        loading: backend, dtype and device.
        limit: use only the first items of the prompts.
        engine: who computes the members: this process (default), or workers of a Ray cluster (needs a store).
        given: other inputs and options.

    Raises:
        InputError: two checkpoints of one step, or an analysis that takes no checkpoint.
        KeyboardInterrupt: Ctrl-C was pressed; it is heard between batches, a second press stops at once.
    """
    of, pool = get(name), ModelPool(loading or Loading())
    members = _members(of, _series(checkpoints), pairs)
    calls = [prepare(of, {**given, **models}, store, pool, limit) for _, models in members]
    key = digest([name, "sweep", pairs, [(s, c.key) for (s, _), c in zip(members, calls, strict=True)]])
    if store is not None and store.has(name, key):
        return store.get(name, key)
    engine = engine or Engine()
    if engine.name == "ray":
        _distribute(name, key, members, calls, given, store, pool, limit, engine)
    done: list[Result] = []
    try:
        for number, call in enumerate(progress(calls, f"{name} over {len(calls)} checkpoints")):
            if store is not None:
                store.announce(key, {"analysis": name, "done": number, "total": len(calls)})
            _read_ahead(members[number + 1 :][:1])
            done.append(_member(call, store, pool))
    finally:
        if store is not None:
            store.announce(key, None)
    result = join([s for s, _ in members], done).with_record(**_swept(key, calls, members, done, pairs, engine))
    if store is None:
        return result
    store.put(result)
    return store.get(name, key)


def _distribute(
    name: str,
    key: str,
    members: Sequence[tuple[dict[str, int], dict[str, Checkpoint]]],
    calls: Sequence[Call],
    given: Mapping[str, Any],
    store: Store | None,
    pool: ModelPool,
    limit: int | None,
    engine: Engine,
) -> None:
    """Have the members that are not there yet computed by workers; they are in the store afterwards."""
    if store is None:
        raise InputError("engine ray: workers hand their results over through a store; give one (--results DIR)")
    parts, wholes = list[Task](), list[Task]()
    for (_, models), call in zip(members, calls, strict=True):
        if stored(call, store) is not None:
            continue
        held = tuple(models.values())
        wholes.append(Task(name, {**given, **models}, limit, held))
        for part in (p for p in shards(call, pool) if stored(p, store) is None):
            prompts = part.inputs["prompts"]
            assert prompts is not None
            parts.append(Task(name, {**given, **models, "prompts": prompts.load()}, None, held))
    there = len(calls) - len(wholes)
    tell = lambda n: store.announce(key, {"analysis": name, "done": there + n, "total": len(calls)})  # noqa: E731
    if wholes:
        needed = len(wholes[0].checkpoints) * _weights(wholes[0].checkpoints[0], pool.loading)
        compute([parts, wholes], store, pool.loading, engine, needed, tell)


def _weights(checkpoint: Checkpoint, loading: Loading) -> float:
    """Bytes of a checkpoint's weights in memory; of its files where those do not say how many numbers they hold."""
    from analyses.core.cost.estimates import DTYPE_BYTES
    from analyses.core.cost.plan import sizes
    from probe.checkpoints.files import weight_files

    files = weight_files(checkpoint.folder)
    if (checkpoint.folder / "config.json").is_file() and all(f.suffix == ".safetensors" for f in files):
        return sizes(checkpoint)[0].weights * DTYPE_BYTES[loading.dtype]
    return float(sum(f.stat().st_size for f in files))


def _read_ahead(following: Sequence[tuple[dict[str, int], dict[str, Checkpoint]]]) -> None:
    """Start reading the next member's checkpoints while the current one computes."""
    from probe.checkpoints.series import prefetch

    for _, models in following:
        for checkpoint in models.values():
            prefetch(checkpoint)


def _member(call: Call, store: Store | None, pool: ModelPool) -> Result:
    found = None if store is None else stored(call, store)
    if found is not None:
        return found
    result = computed(call, store, pool)
    if store is None:
        return result
    store.shards.put(result)
    return store.shards.get(call.analysis.name, call.key)  # its rows stay in their file


def _series(checkpoints: Sequence[Checkpoint | str] | str | Path) -> list[Checkpoint]:
    from probe import discover

    series = list(discover(checkpoints))
    steps = [c.step for c in series]
    if None in steps or len(set(steps)) < len(steps):
        listed = ", ".join(f"{c.label}: {c.step}" for c in series)
        raise InputError(f"every checkpoint of a series needs a step of its own; got {listed}")
    return series


def _members(
    of: Analysis, series: list[Checkpoint], pairs: Pairs
) -> list[tuple[dict[str, int], dict[str, Checkpoint]]]:
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


def _swept(
    key: str,
    calls: Sequence[Call],
    members: Sequence[tuple[dict[str, int], Any]],
    done: Sequence[Result],
    pairs: str,
    engine: Engine,
) -> dict[str, Any]:
    first = done[0].record
    slots = {i.name for i in calls[0].analysis.inputs if i.kind == "Model"}
    placed = [(at, r) for (at, _), r in zip(members, done, strict=True)]
    shared_by_all = [w for w in done[0].warnings if len(done) > 1 and all(w in r.warnings for r in done)]
    own = [f"step {at['step']}: {w}" for at, r in placed for w in r.warnings if w not in shared_by_all]
    warnings = list(dict.fromkeys([*(f"every step: {w}" for w in shared_by_all), *own]))
    shared = {n: d for n, d in first["inputs"].items() if n not in slots}
    series = [
        {
            **at,
            "key": r.key,
            "verdict": r.verdict,
            "claims": r.record.get("claims", []),
            **{n: d for n, d in r.record["inputs"].items() if n in slots},
        }
        for at, r in placed
    ]
    return {
        **{k: first[k] for k in ("schema", "analysis", "upstream", "options", "loading", "code", "environment")},
        "key": key,
        "kind": "sweep",
        "pairs": pairs,
        "engine": asdict(engine) if engine.name == "ray" else {"name": engine.name},
        "inputs": shared,
        "members": series,
        "warnings": warnings,
        "started": min(r.record["started"] for r in done),
        "seconds": round(sum(r.record["seconds"] for r in done), 3),
    }
