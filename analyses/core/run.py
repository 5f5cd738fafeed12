"""Run one analysis, or sweep it over a series of checkpoints; store what comes out under its content key."""

from __future__ import annotations

import inspect
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import xarray as xr

from analyses.core.analysis import Analysis, Input, checked_options, get, progress, unknown
from analyses.core.inputs import Given, Loading, ModelPool, digest, resolve, source_hash
from analyses.core.result import Result
from analyses.core.store import SCHEMA, Store
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Checkpoint

PACKAGES = (
    "posttrain-probe",
    "torch",
    "transformers",
    "transformer-lens",
    "nnsight",
    "numpy",
    "scipy",
    "xarray",
)
Pairs = Literal["first", "adjacent", "all"]


@dataclass(frozen=True)
class Call:
    """An analysis with everything that decides its numbers; ``key`` is the hash of exactly that."""

    analysis: Analysis
    inputs: Mapping[str, Given | None]
    options: Mapping[str, Any]
    upstream: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Content address: code, inputs, upstream results and options."""
        code = source_hash(Path(inspect.getfile(self.analysis.function)))
        prints = {n: g.fingerprint if g else None for n, g in self.inputs.items()}
        return digest([self.analysis.name, code, prints, self.upstream, self.options])


def run(
    name: str,
    *,
    store: Store | None = None,
    loading: Loading | None = None,
    limit: int | None = None,
    pool: ModelPool | None = None,
    **given: Any,
) -> Result:
    """The result of one analysis, from the store where it is already there.

    Args:
        name: analysis, as in ``probe list``.
        store: where results live; None computes without saving.
        loading: backend, dtype and device of models given as paths.
        limit: use only the first items of the prompts.
        pool: models already loaded (a sweep passes its own).
        given: inputs and options by name, as in the analysis's signature.

    Raises:
        InputError: an unknown name, a missing input, a value of the wrong kind.
    """
    pool = pool or ModelPool(loading or Loading())
    call = prepare(get(name), given, store, pool, limit)
    stored = None if store is None else _stored(call, store)
    result = stored or execute(call, pool)
    if store is not None:
        store.put(result)
    return result


def prepare(of: Analysis, given: Mapping[str, Any], store: Store | None, pool: ModelPool, limit: int | None) -> Call:
    """``given`` sorted into inputs and options, fingerprinted, upstream results found or made."""
    names = {i.name for i in of.inputs}
    upstream_names = {i.name for u in of.inputs if u.upstream for i in get(u.upstream).inputs}
    options = {k: v for k, v in given.items() if k not in names | upstream_names}
    inputs: dict[str, Given | None] = {}
    notes: list[str] = []
    for wanted in of.inputs:
        value = given.get(wanted.name)
        if wanted.upstream is not None:
            inputs[wanted.name] = _upstream(of, wanted, given, store, pool, limit, notes)
        elif value is None and not wanted.optional:
            needed = ", ".join(i.name for i in of.inputs if not i.optional)
            raise InputError(f"{of.name} needs {wanted.name} ({wanted.kind}). Its inputs: {needed}.")
        else:
            inputs[wanted.name] = None if value is None else resolve(wanted, value, pool, limit)
    keys = {i.name: g.fingerprint for i in of.inputs if i.upstream and (g := inputs[i.name])}
    return Call(of, inputs, checked_options(of, options), keys, tuple(notes))


def execute(call: Call, pool: ModelPool) -> Result:
    """Compute ``call`` and attach its provenance."""
    started, clock = datetime.now(UTC), time.perf_counter()
    arguments = {name: g.load() if g else None for name, g in call.inputs.items()}
    result = call.analysis.function(**arguments, **call.options)
    return result.with_record(
        **_record(call, pool),
        warnings=[*call.notes, *result.warnings],
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - clock, 3),
    )


def _record(call: Call, pool: ModelPool) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "key": call.key,
        "analysis": call.analysis.name,
        "kind": "run",
        "inputs": {n: dict(g.describe) for n, g in call.inputs.items() if g},
        "upstream": dict(call.upstream),
        "options": _plain(call.options),
        "loading": pool.loading.identity(),
        "code": source_hash(Path(inspect.getfile(call.analysis.function))),
        "environment": environment(),
    }


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def environment() -> dict[str, Any]:
    """Versions, platform and thread count: what "same twice" is conditional on."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {**found, "threads": os.environ.get("OMP_NUM_THREADS") or os.cpu_count()}


def _upstream(
    of: Analysis,
    wanted: Input,
    given: Mapping[str, Any],
    store: Store | None,
    pool: ModelPool,
    limit: int | None,
    notes: list[str],
) -> Given | None:
    """The result an input annotated ``Annotated[Result, name]`` stands for: explicit, stored, or computed."""
    value, source = given.get(wanted.name), get(str(wanted.upstream))
    if isinstance(value, str):
        if store is None:
            raise InputError(f"{wanted.name}={value!r} is a key, but no store was given")
        value = store.get(*store.find(value))
    if isinstance(value, Result):
        _same_analysis(wanted, value)
        return _from_result(value)
    own = {i.name: given[i.name] for i in source.inputs if given.get(i.name) is not None}
    if any(i.name not in own and not i.optional for i in source.inputs):
        if not wanted.optional:
            raise InputError(_how_to_give(of, wanted, source))
        notes.append(f"without {wanted.name}: no {source.name} result was given")
        return None
    stored = _matching(prepare(source, own, store, pool, limit), store)
    if stored is None and wanted.optional:
        notes.append(f"without {wanted.name}: no stored {source.name} result has these inputs")
        return None
    return _from_result(stored or run(source.name, store=store, limit=limit, pool=pool, **own))


def _same_analysis(wanted: Input, value: Result) -> None:
    if value.analysis and value.analysis != wanted.upstream:
        raise InputError(f"{wanted.name} must be a result of {wanted.upstream}; {value.key} is one of {value.analysis}")


def _from_result(result: Result) -> Given:
    described = {"analysis": result.analysis, "key": result.key}
    return Given(result.key or digest(str(id(result))), described, lambda: result)


def _how_to_give(of: Analysis, wanted: Input, source: Analysis) -> str:
    inputs = " ".join(f"--{i.name} ..." for i in source.inputs)
    flag = wanted.name.replace("_", "-")
    return (
        f"{of.name} needs a result of {source.name}: give --{flag} KEY (see `probe show --analysis {source.name}`), "
        f"or the inputs it is computed from ({inputs})."
    )


def _matching(call: Call, store: Store | None) -> Result | None:
    """The stored result with these inputs: the one with default options, else the only one there is."""
    if store is None:
        return None
    name = call.analysis.name
    if store.has(name, call.key):
        return store.get(name, call.key)
    prints = {n: g.describe.get("fingerprint") for n, g in call.inputs.items() if g}
    hits = [
        r
        for r in store.records(name)
        if r["kind"] == "run" and {n: d.get("fingerprint") for n, d in r["inputs"].items()} == prints
    ]
    if len(hits) > 1:
        listed = "; ".join(f"{r['key']} {r['options']}" for r in hits)
        raise InputError(f"several stored {name} results have these inputs, name one by its key: {listed}")
    return store.get(name, hits[0]["key"]) if hits else None


def sweep(
    name: str,
    *,
    checkpoints: Sequence[Checkpoint | str] | str | Path,
    pairs: Pairs = "first",
    store: Store | None = None,
    loading: Loading | None = None,
    limit: int | None = None,
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
        given: other inputs and options.

    Raises:
        InputError: two checkpoints of one step, or an analysis that takes no checkpoint.
    """
    of, pool = get(name), ModelPool(loading or Loading())
    members = _members(of, _series(checkpoints), pairs)
    calls = [prepare(of, {**given, **models}, store, pool, limit) for _, models in members]
    key = digest([name, "sweep", pairs, [(s, c.key) for (s, _), c in zip(members, calls, strict=True)]])
    if store is not None and store.has(name, key):
        return store.get(name, key)
    done: list[Result] = []
    try:
        for number, call in enumerate(progress(calls, f"{name} over {len(calls)} checkpoints")):
            if store is not None:
                store.announce(key, {"analysis": name, "done": number, "total": len(calls)})
            done.append(_member(call, store, pool))
    finally:
        if store is not None:
            store.announce(key, None)
    result = join([s for s, _ in members], done).with_record(**_swept(key, calls, members, done, pairs))
    if store is not None:
        store.put(result)
    return result


def _member(call: Call, store: Store | None, pool: ModelPool) -> Result:
    if store is None:
        return execute(call, pool)
    stored = _stored(call, store)
    if stored is not None:
        return stored
    result = execute(call, pool)
    store.shards.put(result)
    return result


def _stored(call: Call, store: Store) -> Result | None:
    for place in (store, store.shards):
        if place.has(call.analysis.name, call.key):
            return place.get(call.analysis.name, call.key)
    return None


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
    tables = [m.table.assign(**at) for at, m in placed]
    data = [m.data.drop_attrs(deep=False).expand_dims({d: [s] for d, s in at.items()}) for at, m in placed]
    if list(steps[0]) == ["step"]:
        joined = xr.concat(data, "step", data_vars="all", join="outer", combine_attrs="override")
    else:
        joined = xr.merge(data, join="outer", compat="no_conflicts", combine_attrs="override")
    order = [*steps[0], *[c for c in tables[0].columns if c not in steps[0]]]
    return Result(joined, pd.concat(tables, ignore_index=True)[order], {})


def _swept(
    key: str,
    calls: Sequence[Call],
    members: Sequence[tuple[dict[str, int], Any]],
    done: Sequence[Result],
    pairs: str,
) -> dict[str, Any]:
    first = done[0].record
    slots = {i.name for i in calls[0].analysis.inputs if i.kind == "Model"}
    placed = [(at, r) for (at, _), r in zip(members, done, strict=True)]
    warnings = list(dict.fromkeys(f"step {at['step']}: {w}" for at, r in placed for w in r.warnings))
    shared = {n: d for n, d in first["inputs"].items() if n not in slots}
    series = [
        {
            **at,
            "key": r.key,
            "verdict": r.verdict,
            **{n: d for n, d in r.record["inputs"].items() if n in slots},
        }
        for at, r in placed
    ]
    return {
        **{k: first[k] for k in ("schema", "analysis", "upstream", "options", "loading", "code", "environment")},
        "key": key,
        "kind": "sweep",
        "pairs": pairs,
        "inputs": shared,
        "members": series,
        "warnings": warnings,
        "started": min(r.record["started"] for r in done),
        "seconds": round(sum(r.record["seconds"] for r in done), 3),
    }
