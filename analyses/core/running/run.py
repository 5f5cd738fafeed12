"""Run one analysis: inputs fingerprinted, upstream results found, what comes out stored under its content key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from analyses.core.analysis import Analysis, Input, checked_options, get
from analyses.core.keys import digest
from analyses.core.progress import interruptible
from analyses.core.result import Result
from analyses.core.running.call import Call, stored
from analyses.core.running.inputs import Given, Loading, ModelPool, resolve
from analyses.core.running.shards import computed
from analyses.core.store import Store
from analyses.core.store.naming import named
from probe.errors import InputError

KEYLIKE = re.compile(r"([a-z_]+/)?[0-9a-f]{6,16}")


@dataclass(frozen=True)
class Request:
    """What is asked for, and where it may come from.

    Attributes:
        analysis: what is to be computed.
        given: inputs and options by name, as somebody gave them: a path or the object, a key or the result.
        store: where results are looked up and kept; None: nowhere.
        pool: the models, loaded once for all that is asked.
        limit: only so many of the first items of prompts; None: all.
    """

    analysis: Analysis
    given: Mapping[str, Any]
    store: Store | None
    pool: ModelPool
    limit: int | None = None


@interruptible()
def run(
    name: str,
    *,
    store: Store | None = None,
    loading: Loading | None = None,
    limit: int | None = None,
    pool: ModelPool | None = None,
    **given: object,
) -> Result:
    """The result of one analysis, from the store where it is already there.

    Args:
        name: analysis, as in ``probe list``.
        store: where results live; None computes without saving.
        loading: backend, dtype and device of models given as paths.
        limit: use only the first items of the prompts.
        pool: models already loaded (a sweep passes its own).
        given: inputs and options by name, as in the analysis's signature; of an analysis that reads results also
            `run`, the name of the run they are about.

    Raises:
        InputError: an unknown name, a missing input, a value of the wrong kind.
        KeyboardInterrupt: Ctrl-C was pressed; it is heard between batches, a second press stops at once.
    """
    return answered(Request(get(name), given, store, pool or ModelPool(loading or Loading()), limit))


def answered(request: Request) -> Result:
    """The result asked for, found or computed; with a store it lies there afterwards."""
    call, store = prepare(request), request.store
    found = None if store is None else stored(call, store)
    result = found or computed(call, store, request.pool)
    if store is not None:
        store.put(result)
    return result


def prepare(request: Request) -> Call:
    """What is given sorted into inputs and options, fingerprinted, upstream results found or made.

    Raises:
        InputError: a missing input, one of another kind, an unknown option.
    """
    of, given = request.analysis, request.given
    names = {i.name for i in of.inputs}
    upstream_names = {i.name for u in of.inputs if u.upstream for i in get(u.upstream).inputs}
    about = {"run"} if upstream_names else set[str]()  # the run that earlier results are looked up by
    options = {k: v for k, v in given.items() if k not in names | upstream_names | about}
    found = {wanted.name: _found(request, wanted) for wanted in of.inputs}
    inputs = {name: None if isinstance(g, str) else g for name, g in found.items()}
    notes = tuple(why for why in found.values() if isinstance(why, str))
    if any(i.optional and i.kind == "Table" and inputs[i.name] for i in of.inputs):
        notes = ()  # the person's own table stands in for the results
    keys = {i.name: g.fingerprint for i in of.inputs if i.upstream and (g := inputs[i.name])}
    return Call(of, inputs, checked_options(of, options), keys, notes)


def _found(request: Request, wanted: Input) -> Given | str | None:
    """One input, None where it was left out; in words, why there is no result where one might have been."""
    if wanted.upstream is not None:
        return _upstream(request, wanted)
    value = request.given.get(wanted.name)
    if value is not None:
        return resolve(wanted, value, request.pool, request.limit)
    if not wanted.optional:
        needed = ", ".join(i.name for i in request.analysis.inputs if not i.optional)
        raise InputError(f"{request.analysis.name} needs {wanted.name} ({wanted.kind}). Its inputs: {needed}.")
    return None


def _upstream(request: Request, wanted: Input) -> Given | str:
    """The result an input annotated ``Annotated[Result, name]`` stands for: explicit, stored or computed."""
    source = get(str(wanted.upstream))
    value = request.given.get(wanted.name) or _about_run(request, wanted)
    if isinstance(value, str):
        if request.store is None:
            raise InputError(f"{wanted.name}={value!r} is a key, but no store was given")
        value = request.store.get(*_address(request.store, source.name, value))
    if isinstance(value, Result):
        _same_analysis(wanted, value)
        return _from_result(value)
    own = {i.name: request.given[i.name] for i in source.inputs if request.given.get(i.name) is not None}
    if any(i.name not in own and not i.optional for i in source.inputs):
        if not wanted.optional:
            raise InputError(_how_to_give(request.analysis, wanted, source))
        return f"without {wanted.name}: no {source.name} result was given"
    its = replace(request, analysis=source, given=own)
    there = _matching(its)
    if there is None and wanted.optional:
        return f"without {wanted.name}: no stored {source.name} result has these inputs"
    return _from_result(there or answered(its))


def _address(store: Store, analysis: str, value: str) -> tuple[str, str]:
    """The result that a text names: by its key or enough of its beginning, else by its run."""
    try:
        return store.find(value)
    except InputError:
        if KEYLIKE.fullmatch(value):
            raise
        return store.named(analysis, value)


def _about_run(request: Request, wanted: Input) -> Result | None:
    """The stored result about the run that was named; None where none was, or an optional one is not there."""
    run, store = request.given.get("run"), request.store
    if run is None:
        return None
    if store is None:
        raise InputError(f"run={run!r} names stored results, but no store was given")
    analysis = str(wanted.upstream)
    if wanted.optional and not named(store.records(), analysis, str(run)):
        return None
    return store.get(*store.named(analysis, str(run)))


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


def _matching(request: Request) -> Result | None:
    """The stored result with these inputs: the one with default options, else the only one there is."""
    store, call = request.store, prepare(request)
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
