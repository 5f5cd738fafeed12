"""A call: an analysis with all that decides its numbers; computed in one piece, or found where it was made before."""

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

from analyses.core.analysis import Analysis
from analyses.core.keys import digest, source_hash
from analyses.core.result import Result, units_of
from analyses.core.running import seams
from analyses.core.running.inputs import Given, ModelPool
from analyses.core.stats.resampling import clusters
from analyses.core.store import SCHEMA, Store, StoreError
from probe import devices, shared
from probe.errors import ProbeError
from probe.tokens import tokenised

NOTE = "out of memory at batch_size"
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


def execute(call: Call, pool: ModelPool) -> Result:
    """Compute ``call`` in one piece and attach its provenance."""
    started, clock = datetime.now(UTC), time.perf_counter()
    arguments = {name: g.load() if g else None for name, g in call.inputs.items()}
    with tokenised() as seen, clusters(units_of(arguments)):
        result, halved = within_memory(call, arguments)
    prompts = arguments.get("prompts")
    met = seams.facts(seen, [item.key for item in prompts.items]) if prompts is not None else {}
    return result.with_record(
        **provenance(call, pool),
        **({"seam": met} if met else {}),
        warnings=[*call.notes, *_by_servers(arguments), *seams.said(met), *halved, *result.warnings],
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - clock, 3),
    )


def _by_servers(arguments: Mapping[str, Any]) -> list[str]:
    """Who wrote texts in a model's place, and how its checkpoint was told."""
    servers = [getattr(value, "server", None) for value in arguments.values()]
    return [server.told for server in servers if server is not None and server.told]


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


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def environment() -> dict[str, object]:
    """Versions, platform and thread count: what "same twice" is conditional on."""
    found: dict[str, object] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {**found, "threads": os.environ.get("OMP_NUM_THREADS") or os.cpu_count()}


def within_memory(call: Call, arguments: Mapping[str, object]) -> tuple[Result, list[str]]:
    """The analysis's own result, its batch halved for as long as memory runs out; what was halved, in words.

    The options asked for stay those of the record: a batch is no part of what is computed.

    Raises:
        ProbeError: out of memory with one item at a time, or in an analysis without batches.
    """
    options, notes = dict(call.options), list[str]()
    while True:
        try:
            return call.analysis.function(**arguments, **options), notes
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            told = " ".join(str(error).split())[:200]
        if (passes := shared.current()) is not None:
            passes.give_up()
        size = options.get("batch_size", 1)
        if size <= 1:
            raise ProbeError(
                f"{call.analysis.name}: out of memory with one item at a time ({told}). Use bfloat16 (--dtype), "
                "shorter items, a device map (--device auto), or --hold one where the analysis has it; "
                "`probe plan` says what is needed."
            )
        options["batch_size"] = size // 2
        notes = [f"{NOTE} {call.options['batch_size']}: computed with {size // 2}"]
        devices.let_go()
