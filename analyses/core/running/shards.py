"""Parts of a run that are kept as they finish: shards of items.

The plan is fixed: an analysis whose rows each belong to one item is cut every `SHARD_ITEMS` items, whoever computes.
A shard is a run over part of the prompts with an address of its own in the store, so what is finished is never
computed again, and a longer prompt file starts with the shards of a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.running import seams
from analyses.core.running.call import NOTE, Call, execute, provenance, stored
from analyses.core.running.inputs import ModelPool, resolve
from analyses.core.store import Store

SHARD_ITEMS = 256


def shards(call: Call, pool: ModelPool) -> list[Call]:
    """The parts of `call`, in order; [] where it is not to be cut.

    Checkpoints that take turns (`hold` one) would be read once a shard, so there the run is one piece; so is one
    without a model, which reads what somebody else computed.
    """
    given = call.inputs.get("prompts")
    computes = any(i.kind == "Model" and call.inputs[i.name] for i in call.analysis.inputs)
    if call.analysis.by_item is None or given is None or not computes or pool.loading.hold == "one":
        return []
    if given.describe["n"] <= SHARD_ITEMS:
        return []
    (wanted,) = [i for i in call.analysis.inputs if i.name == "prompts"]
    prompts = given.load()
    if call.analysis.check is not None:
        call.analysis.check(prompts, call.options)  # of all of them, before the first shard is computed
    parts = [
        replace(prompts, items=prompts.items[n : n + SHARD_ITEMS]) for n in range(0, len(prompts.items), SHARD_ITEMS)
    ]
    return [replace(call, inputs={**call.inputs, "prompts": resolve(wanted, p, pool, None)}) for p in parts]


def computed(call: Call, store: Store | None, pool: ModelPool) -> Result:
    """The result of `call`; with a store, its shards are taken from there and kept there.

    Args:
        call: what is asked for.
        store: where results are kept, None for nowhere.
        pool: models that are loaded.
    """
    parts = shards(call, pool) if store is not None else []
    if store is None or not parts:
        return execute(call, pool)
    done = [shard(part, store, pool) for part in progress(parts, f"{call.analysis.name}: shards of items")]
    return joined(call, done, pool)


def shard(part: Call, store: Store, pool: ModelPool) -> Result:
    """One part, computed unless the store has it.

    Args:
        part: the call of some of the items.
        store: where results are kept, None for nowhere.
        pool: models that are loaded.
    """
    found = stored(part, store)
    if found is None:
        found = execute(part, pool)
        store.shards.put(found)
    return found


def joined(call: Call, parts: Sequence[Result], pool: ModelPool) -> Result:
    """The result of `call` from those of its shards: rows one after the other, estimates made from all of them.

    Args:
        call: what is asked for.
        parts: results of all shards, in order.
        pool: models that are loaded.
    """
    assert call.analysis.by_item is not None
    whole = call.analysis.by_item(pd.concat([p.table for p in parts], ignore_index=True), call.options)
    # What one shard alone says is about its items; the whole says it of all of them.
    told = dict.fromkeys(w for r in parts for w in r.warnings)
    partly = {w for r in parts for w in seams.said(r.record.get("seam", {}))}
    shared = [w for w in told if w.startswith(NOTE) or (w not in partly and all(w in r.warnings for r in parts))]
    met = seams.together(
        (r.record.get("seam", {}) for r in parts), sum(p.record["inputs"]["prompts"]["n"] for p in parts)
    )
    return whole.with_record(
        **provenance(call, pool),
        **({"seam": met} if met else {}),
        warnings=list(dict.fromkeys([*seams.said(met), *shared, *whole.warnings])),
        started=min(p.record["started"] for p in parts),
        seconds=round(sum(p.record["seconds"] for p in parts), 3),
        shards=[p.key for p in parts],
    )
