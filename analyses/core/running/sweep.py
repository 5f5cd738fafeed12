"""Sweep one analysis over a series of checkpoints: one result with the dim ``step``, resumable member by member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import xarray as xr

from analyses.core.analysis import Analysis, get, unknown
from analyses.core.cost.estimates import DTYPE_BYTES
from analyses.core.cost.plan import sizes
from analyses.core.keys import digest
from analyses.core.progress import interruptible, progress
from analyses.core.result import Result
from analyses.core.running.call import Call, stored
from analyses.core.running.failures import Failures, Member
from analyses.core.running.inputs import Loading, ModelPool
from analyses.core.running.run import Request, prepare
from analyses.core.running.shards import computed, shards
from analyses.core.running.workers import Engine, Task, compute
from analyses.core.store import Store
from analyses.core.store.files import Stack, Stored, labelled
from probe.checkpoints import Series, discover
from probe.checkpoints.series import prefetch
from probe.checkpoints.tokenizers import OneTokenizer
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Checkpoint
    from probe.checkpoints import Series

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
        checkpoints: a folder or a list (see ``probe.discover``, which also takes a base and a configuration).
        pairs: for two-checkpoint analyses: every one against the ``first``, ``adjacent`` ones, or ``all``.
        store: where results live; members are kept there, so an interrupted sweep goes on where it stopped.
        loading: backend, dtype and device.
        limit: use only the first items of the prompts.
        engine: who computes the members: this process (default), or workers of a Ray cluster (needs a store).
        given: other inputs and options.

    Raises:
        InputError: two checkpoints of one step, an analysis that takes no checkpoint, or no checkpoint that can be
            read. One that cannot is left out and told in the record (`failed`) and the warnings.
        KeyboardInterrupt: Ctrl-C was pressed; it is heard between batches, a second press stops at once.
    """
    asked = Request(get(name), given, store, ModelPool(loading or Loading()), limit)
    series, failures = _series(checkpoints, asked.pool.loading), Failures()
    members, calls = _prepared(asked, _members(asked.analysis, series, pairs), failures)
    key = _key(name, pairs, members, calls, failures)
    if store is not None and store.has(name, key):
        found = store.get(name, key)  # made before, maybe from another folder with the same bytes
        others = [w for w in found.warnings if w not in found.record.get("series_notes", [])]
        return found.with_record(warnings=[*series.notes, *others], series_notes=list(series.notes))
    engine = engine or Engine()
    if engine.name == "ray":
        _distribute(key, asked, members, calls, engine)
    done = _computed(key, asked, members, calls, failures)
    made = [r for r in done if r is not None]
    if not made:
        raise failures.first or InputError(f"{name}: no checkpoint to sweep over")
    members = [m for m, r in zip(members, done, strict=True) if r is not None]
    calls = [c for c, r in zip(calls, done, strict=True) if r is not None]
    record = _swept(_key(name, pairs, members, calls, failures), calls, members, made, pairs, engine)
    record["warnings"] = [*series.notes, *failures.warnings, *record["warnings"]]
    record["series_notes"] = list(series.notes)
    if failures.rows:
        record["failed"] = failures.rows
    result = join([s for s, _ in members], made).with_record(**record)
    if store is None:
        return result
    store.put(result)
    return store.get(name, result.key)


def _computed(
    key: str, asked: Request, members: Sequence[Member], calls: Sequence[Call], failures: Failures
) -> list[Result | None]:
    """The members one after the other, from the store where they are there, None where one failed; how far it is is
    told on the way."""
    name, store, done = asked.analysis.name, asked.store, list[Result | None]()
    try:
        for number, call in enumerate(progress(calls, f"{name} over {len(calls)} checkpoints")):
            if store is not None:
                store.announce(key, {"analysis": name, "done": number, "total": len(calls)})
            _read_ahead(members[number + 1 :][:1])
            done.append(failures.of(members[number], lambda call=call: _member(call, store, asked.pool)))
    finally:
        if store is not None:
            store.announce(key, None)
    return done


def _prepared(asked: Request, members: Sequence[Member], failures: Failures) -> tuple[list[Member], list[Call]]:
    """The members whose checkpoints can be told apart, and their calls; the others are kept as failures."""
    found: list[tuple[Member, Call]] = []
    one = OneTokenizer(trust_remote_code=asked.pool.loading.trust_remote_code)

    def prepared(models: Mapping[str, Checkpoint]) -> Call:
        call = prepare(_with(asked, models))
        for checkpoint in models.values():
            one.check(checkpoint)  # where members were finished before, no swap would find another tokenizer
        return call

    for member in members:
        call = failures.of(member, lambda m=member: prepared(m[1]))
        if call is not None:
            found.append((member, call))
    if not found and failures.first is not None:
        raise failures.first
    failures.made = 0
    return [m for m, _ in found], [c for _, c in found]


def _key(name: str, pairs: Pairs, members: Sequence[Member], calls: Sequence[Call], failures: Failures) -> str:
    """Address of the swept result; one that lacks members has another than the whole one."""
    there = [(s, c.key) for (s, _), c in zip(members, calls, strict=True)]
    lacking = [sorted(row.items()) for row in failures.rows]
    return digest([name, "sweep", pairs, there, *([lacking] if lacking else [])])


def _with(asked: Request, models: Mapping[str, Checkpoint]) -> Request:
    """What is asked of one member."""
    return replace(asked, given={**asked.given, **models})


def _distribute(key: str, asked: Request, members: Sequence[Member], calls: Sequence[Call], engine: Engine) -> None:
    """Have the members that are not there yet computed by workers; they are in the store afterwards."""
    name, store, pool = asked.analysis.name, asked.store, asked.pool
    if store is None:
        raise InputError("engine ray: workers hand their results over through a store; give one (--results DIR)")
    parts, wholes = list[Task](), list[Task]()
    for (_, models), call in zip(members, calls, strict=True):
        if stored(call, store) is not None:
            continue
        held = tuple(models.values())
        wholes.append(Task(name, _with(asked, models).given, asked.limit, held))
        for part in (p for p in shards(call, pool) if stored(p, store) is None):
            prompts = part.inputs["prompts"]
            assert prompts is not None
            parts.append(Task(name, {**_with(asked, models).given, "prompts": prompts.load()}, None, held))
    there = len(calls) - len(wholes)
    tell = lambda n: store.announce(key, {"analysis": name, "done": there + n, "total": len(calls)})  # noqa: E731
    if wholes:
        needed = len(wholes[0].checkpoints) * _weights(wholes[0].checkpoints[0], pool.loading)
        compute([parts, wholes], store, pool.loading, engine, needed, tell)


def _weights(checkpoint: Checkpoint, loading: Loading) -> float:
    """Bytes of a checkpoint's weights in memory; of its files where those do not say how many numbers they hold."""

    files = checkpoint.weight_files
    if (checkpoint.folder / "config.json").is_file() and all(f.suffix == ".safetensors" for f in files):
        return sizes(checkpoint)[0].weights * DTYPE_BYTES[loading.dtype]
    return float(sum(f.stat().st_size for f in files))


def _read_ahead(following: Sequence[Member]) -> None:
    """Start reading the next member's checkpoints while the current one computes."""

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


def _series(checkpoints: Sequence[Checkpoint | str] | str | Path, loading: Loading) -> Series:

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


def _members(of: Analysis, series: list[Checkpoint], pairs: Pairs) -> list[Member]:
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
    members: Sequence[Member],
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
