"""Analyses of a model that is being trained: the same analyses on the model in memory, a step at a time.

What `analyses.live` makes is given to `probe.training.ProbeCallback`. After each measurement the store holds one
result over the steps measured so far, as a sweep would leave it, which the dashboard shows while training goes on. Its
members say `in memory`: the weights are not hashed (that would read all of them at each step), they are identified by
the run's folder, the step, and when the run began; a sweep over the saved checkpoints is another result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.core.analysis import checked_options, get, unknown
from analyses.core.keys import digest
from analyses.core.result import Result
from analyses.core.running.call import Call, execute
from analyses.core.running.inputs import Given, Loading, ModelPool, resolve
from analyses.core.running.series import join, record_of
from analyses.core.running.usual import USUAL, usual
from analyses.core.running.workers import Engine
from analyses.core.store import Store
from analyses.core.store.files import replaced
from probe import Checkpoint, Prompts
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Model

MOST = 16  # numbers of one analysis that go into a trainer's log
GENERATING = ("evaluate", "calibration", "robustness", "partial_prompt", "merge")


class Live:
    """Chosen analyses of one model in memory; called with the model, its step and the folder of its run."""

    def __init__(self, names: Sequence[str], prompts: Prompts, store: Store, options: Mapping[str, object]) -> None:
        self.names, self.prompts, self.store, self.options = tuple(names), prompts, store, options
        self.began = ""
        self.members: dict[str, list[tuple[int, str]]] = {name: [] for name in names}
        self.published: dict[str, str] = {}
        self._pool = ModelPool(Loading())

    def begin(self, step: int, run: Path) -> None:
        """Start a series: an empty one, or, where a run resumes at a step, what was measured up to there."""
        self.began = datetime.now(UTC).isoformat(timespec="seconds")
        kept = self._index(run)
        if step > 0 and kept.is_file():
            found = json.loads(kept.read_text())
            self.began, self.published = found["began"], found["published"]
            for name in (n for n in self.names if n in found["members"]):
                self.members[name] = [(s, key) for s, key in found["members"][name] if s <= step]

    def __call__(self, model: Model, step: int, run: Path) -> dict[str, float]:
        """Numbers for the trainer's log, by name; the results are in the store."""
        numbers = dict[str, float]()
        for name in self.names:
            result = execute(self._call(name, model, step, run), self._pool)
            self.store.shards.put(result)
            there = [(s, k) for s, k in self.members[name] if s != step and self.store.shards.has(name, k)]
            self.members[name] = [*there, (step, result.key)]  # somebody may have tidied the store since
            self._publish(name, run)
            numbers |= scalars(name, result)
        state = {"began": self.began, "published": self.published, "members": self.members}
        replaced(self._index(run), json.dumps(state))
        return numbers

    def _index(self, run: Path) -> Path:
        return self.store.root / ".live" / f"{digest(str(run.resolve()))}.json"

    def _call(self, name: str, model: Model, step: int, run: Path) -> Call:
        of = get(name)
        place = Checkpoint(str(run / f"checkpoint-{step}"), step=step)
        fingerprint = digest(["in memory", str(run.resolve()), self.began, step, str(model.dtype)])
        described = {"path": place.path, "step": step, "weights": "in memory"}
        (slot,) = [i.name for i in of.inputs if i.kind == "Model"]
        prompts = next(i for i in of.inputs if i.kind == "Prompts")
        inputs = {slot: Given(fingerprint, described, lambda: model)}
        inputs |= {prompts.name: resolve(prompts, self.prompts, self._pool, None)}
        given = {name: value for name, value in self.options.items() if name in {o.name for o in of.options}}
        rest = {i.name: None for i in of.inputs if i.name not in inputs}
        return Call(of, {**inputs, **rest}, checked_options(of, given), {})

    def _publish(self, name: str, run: Path) -> None:
        """All steps so far as one result; the one of fewer steps goes."""
        there = sorted(self.members[name])
        done = [self.store.shards.get(name, key) for _, key in there]
        steps = [{"step": step} for step, _ in there]
        key = digest([name, "live", str(run.resolve()), there])
        (slot,) = [i.name for i in get(name).inputs if i.kind == "Model"]
        models = [{slot: r.record["inputs"][slot]} for r in done]
        record = record_of(key, get(name), steps, done, models, "first", Engine())
        self.store.put(join(steps, done).with_record(**record, live=str(run)))
        before = self.published.get(name)
        self.published[name] = key
        if before not in (None, key):
            self.store.drop(name, str(before))


def live(
    names: Sequence[str] = ("perplexity",),
    *,
    prompts: Prompts | str | Path,
    store: Store | None = None,
    limit: int | None = None,
    generate: bool = False,
    **options: object,
) -> Live:
    """What `probe.training.ProbeCallback` measures: analyses of one checkpoint, on items, while it trains.

    Args:
        names: analyses that take one model and prompts.
        prompts: the items; a few dozen are enough for a curve, and each measurement pays for all of them.
        store: where results go; by default `$PROBE_RESULTS`, or `./results`.
        limit: use only the first items.
        generate: whether analyses that sample responses are wanted, which take many times longer.
        options: options for every analysis that has them.

    Raises:
        InputError: an analysis that needs other inputs, one that generates and was not asked to, an unknown option.
    """
    for name in names:
        _check(name, generate)
    known = {o.name for name in names for o in get(name).options}
    for option in set(options) - known:
        raise InputError(unknown(f"option of {', '.join(names)}", option, known))
    items = Prompts.read(prompts) if isinstance(prompts, str | Path) else prompts
    return Live(names, items if limit is None else items.limit(limit), store or Store.at(), options)


def _check(name: str, generate: bool) -> None:
    of = get(name)
    needed = sorted(i.kind for i in of.inputs if not i.optional or i.kind in ("Model", "Prompts"))
    if needed != ["Model", "Prompts"]:
        taken = ", ".join(i.name for i in of.inputs)
        raise InputError(f"{name} takes {taken}; what is measured live takes one model and prompts")
    if name in GENERATING and not generate:
        raise InputError(f"{name} generates responses, which takes long while a model trains; say generate=True")


def scalars(name: str, result: Result) -> dict[str, float]:
    """The estimates of a result as numbers of a log: `probe/perplexity/ppl/leaked`, at most `MOST` of them.

    Of a dim with a usual value (perplexity of the answer, pooled over tokens) only that one is logged, of layers the
    last. What was not measured is left out.
    """
    rows = usual(result.summary())
    if "layer" in rows:
        rows = rows[rows["layer"].isna() | (rows["layer"] == rows["layer"].max())]
    taken = ("quantity", "unit", "value", "ci_low", "ci_high", "n", *USUAL)
    dims = [c for c in rows if c not in taken and rows[c].nunique(dropna=False) > 1]
    found = dict[str, float]()
    for row in rows.to_dict("records"):
        parts = [str(row["quantity"]), *(str(row[d]) for d in dims if pd.notna(row[d]))]
        if np.isfinite(row["value"]) and len(found) < MOST:
            found["/".join(["probe", name, *parts])] = float(row["value"])
    return found
