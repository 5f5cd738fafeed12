"""Run one analysis: inputs fingerprinted, upstream results found, what comes out stored under its content key."""

from __future__ import annotations

import inspect
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from analyses.core.analysis import Analysis, Input, checked_options, get
from analyses.core.keys import digest, source_hash
from analyses.core.result import Result
from analyses.core.running import seams
from analyses.core.running.inputs import Given, Loading, ModelPool, resolve
from analyses.core.running.shards import computed, within_memory
from analyses.core.stats.resampling import clusters
from analyses.core.stopping import interruptible
from analyses.core.store import SCHEMA, Store, StoreError
from probe.errors import InputError
from probe.tokens import tokenised

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


@interruptible()
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
        KeyboardInterrupt: Ctrl-C was pressed; it is heard between batches, a second press stops at once.
    """
    pool = pool or ModelPool(loading or Loading())
    call = prepare(get(name), given, store, pool, limit)
    found = None if store is None else stored(call, store)
    result = found or computed(call, store, pool)
    if store is not None:
        store.put(result)
    return result


def stored(call: Call, store: Store) -> Result | None:
    """The result of ``call`` where it was finished before, as a result, a sweep's member or a shard.

    A damaged member or shard is thrown away and computed again; a damaged result is for its owner to see.
    """
    address = call.analysis.name, call.key
    if store.has(*address):
        return store.get(*address)
    if not store.shards.has(*address):
        return None
    try:
        return store.shards.get(*address)
    except StoreError:
        store.shards.drop(*address)
        return None


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
    if any(i.optional and i.kind == "Table" and inputs[i.name] for i in of.inputs):
        notes.clear()  # the person's own table stands in for the results
    keys = {i.name: g.fingerprint for i in of.inputs if i.upstream and (g := inputs[i.name])}
    return Call(of, inputs, checked_options(of, options), keys, tuple(notes))


def _units(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What each item is resampled with: its cluster or problem, from prompts and from tables of earlier results."""
    found: dict[str, str] = {}
    for given in arguments.values():
        if isinstance(getattr(given, "items", None), tuple):
            found |= {i.id: i.unit for i in given.items if i.unit != i.id}
        elif isinstance(given, Result) and {"item", "cluster"} <= set(given.table):
            told = given.table[["item", "cluster"]].dropna().drop_duplicates("item")
            found |= dict(zip(told["item"].astype(str), told["cluster"].astype(str), strict=True))
    return found


def execute(call: Call, pool: ModelPool) -> Result:
    """Compute ``call`` in one piece and attach its provenance."""

    started, clock = datetime.now(UTC), time.perf_counter()
    arguments = {name: g.load() if g else None for name, g in call.inputs.items()}
    with tokenised() as seen, clusters(_units(arguments)):
        result, halved = within_memory(call, arguments)
    prompts = arguments.get("prompts")
    met = seams.facts(seen, [item.key for item in prompts.items]) if prompts is not None else {}
    return result.with_record(
        **provenance(call, pool),
        **({"seam": met} if met else {}),
        warnings=[*call.notes, *seams.said(met), *halved, *result.warnings],
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - clock, 3),
    )


def provenance(call: Call, pool: ModelPool) -> dict[str, Any]:
    """What a record says of ``call`` before it is computed."""
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
    address = result.key or digest(str(id(result)))
    if part := result.record.get("part"):
        return Given(digest([address, part]), {**described, "part": part}, lambda: result)
    return Given(address, described, lambda: result)


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
