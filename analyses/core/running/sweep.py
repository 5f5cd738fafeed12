"""Sweep analyses over a series of checkpoints: one result each with the dim ``step``, resumable member by member.

Several analyses go over the series together: every checkpoint is read once, and all that is asked of it is computed
while it is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.core.analysis import get
from analyses.core.cost.estimates import DTYPE_BYTES
from analyses.core.cost.plan import sizes
from analyses.core.keys import digest
from analyses.core.progress import interruptible, progress
from analyses.core.result import Result
from analyses.core.running.call import Call, stored
from analyses.core.running.failures import Failures, Member
from analyses.core.running.inputs import Loading, ModelPool
from analyses.core.running.run import Request, prepare
from analyses.core.running.series import Pairs, join, members_of, record_of, series_of
from analyses.core.running.shards import computed, shards
from analyses.core.running.sharing import Sharing, budget_of, goes_first, is_there
from analyses.core.running.workers import Engine, Task, compute
from analyses.core.store import Store
from probe.checkpoints import Series
from probe.checkpoints.series import prefetch
from probe.checkpoints.tokenizers import OneTokenizer
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from probe import Checkpoint

__all__ = ["Sweep", "go_over", "join", "sweep"]


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
    **given: object,
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
    (one,) = go_over([Sweep(asked, series_of(checkpoints, asked.pool.loading), pairs)], engine or Engine())
    if one.error is not None:
        raise one.error
    return one.result()


@dataclass
class Sweep:
    """One analysis over a series.

    Attributes:
        asked: the analysis, what is given to it, the store and the models.
        series: the checkpoints.
        pairs: which of them are compared, for an analysis of two.
        error: what ended this sweep before its members were through; None where nothing did.
    """

    asked: Request
    series: Series
    pairs: Pairs = "first"
    error: ProbeError | None = None
    engine: Engine = field(default_factory=Engine)
    failures: Failures = field(default_factory=Failures)
    failed: dict[str, ProbeError] = field(default_factory=dict[str, ProbeError])  # by workers, by their call's key
    members: list[Member] = field(default_factory=list[Member])
    calls: list[Call] = field(default_factory=list[Call])
    done: dict[int, Result | None] = field(default_factory=dict[int, "Result | None"])
    key: str = ""
    found: Result | None = None

    @property
    def name(self) -> str:
        return self.asked.analysis.name

    def prepare(self) -> None:
        """Fingerprint all that is given, and look the result up.

        Raises:
            InputError: something is missing, unknown, or of another kind; or no checkpoint can be read.
        """
        self.members = members_of(self.asked.analysis, self.series, self.pairs)
        self._keep_readable()
        self.key = self._address(self.members, self.calls)
        store = self.asked.store
        if store is not None and store.has(self.name, self.key):
            self.found = store.get(self.name, self.key)  # made before, maybe from another folder with the same bytes

    def _keep_readable(self) -> None:
        """The members whose checkpoints can be told apart, and their calls; the others are kept as failures."""
        found: list[tuple[Member, Call]] = []
        one = OneTokenizer(trust_remote_code=self.asked.pool.loading.trust_remote_code)

        def prepared(models: Mapping[str, Checkpoint]) -> Call:
            call = prepare(self.request(models))
            for checkpoint in models.values():
                one.check(checkpoint)  # where members were finished before, no swap would find another tokenizer
            return call

        for member in self.members:
            call = self.failures.of(member, lambda m=member: prepared(m[1]))
            if call is not None:
                found.append((member, call))
        if not found and self.failures.first is not None:
            raise self.failures.first
        self.failures.made = 0
        self.members, self.calls = [m for m, _ in found], [c for _, c in found]

    def request(self, models: Mapping[str, Checkpoint]) -> Request:
        """What is asked of one member."""
        return replace(self.asked, given={**self.asked.given, **models})

    def compute(self, number: int) -> None:
        """One member, from the store where it is there; an error is kept where it is that checkpoint's own."""
        self.announce({"analysis": self.name, "done": number, "total": len(self.calls)})
        call, store, pool = self.calls[number], self.asked.store, self.asked.pool
        try:
            made = lambda: _member(call, store, pool, self.failed.get(call.key))  # noqa: E731
            self.done[number] = self.failures.of(self.members[number], made)
        except ProbeError as error:
            self.error = error
            self.announce(None)

    def announce(self, state: Mapping[str, object] | None) -> None:
        """Say in the store how far this is; None: it ended."""
        if self.asked.store is not None:
            self.asked.store.announce(self.key, state)

    def result(self) -> Result:
        """All members as one result, in the store where there is one.

        Raises:
            ProbeError: every checkpoint failed; the first one's error.
        """
        store = self.asked.store
        if self.found is not None:
            others = [w for w in self.found.warnings if w not in self.found.record.get("series_notes", [])]
            notes = self.series.notes
            return self.found.with_record(warnings=[*notes, *others], series_notes=list(notes))
        there = [n for n in range(len(self.calls)) if self.done.get(n) is not None]
        made = [r for n in there if (r := self.done[n]) is not None]
        if not made:
            raise self.failures.first or InputError(f"{self.name}: no checkpoint to sweep over")
        members, calls = [self.members[n] for n in there], [self.calls[n] for n in there]
        steps, key = [at for at, _ in members], self._address(members, calls)
        slots = [
            {n: dict(g.describe) for n, g in c.inputs.items() if g and n in m}
            for c, (_, m) in zip(calls, members, strict=True)
        ]
        record = record_of(key, self.asked.analysis, steps, made, slots, self.pairs, self.engine)
        record["warnings"] = [*self.series.notes, *self.failures.warnings, *record["warnings"]]
        record["series_notes"] = list(self.series.notes)
        if self.failures.rows:
            record["failed"] = self.failures.rows
        result = join(steps, made).with_record(**record)
        if store is None:
            return result
        store.put(result)
        return store.get(self.name, result.key)

    def _address(self, members: Sequence[Member], calls: Sequence[Call]) -> str:
        """Address of the swept result; one that lacks members has another than the whole one."""
        there = [(s, c.key) for (s, _), c in zip(members, calls, strict=True)]
        lacking = [sorted(row.items()) for row in self.failures.rows]
        return digest([self.name, "sweep", self.pairs, there, *([lacking] if lacking else [])])


def go_over(sweeps: Sequence[Sweep], engine: Engine, memory: float | None = None) -> list[Sweep]:
    """Compute all sweeps together, checkpoint by checkpoint; each keeps the error that ended it.

    Checkpoints come in the order of their series. While one is in memory all sweeps do what they have to do with it,
    so with pairs `first` or `adjacent` each is read once; and they share its forward passes (`running.sharing`),
    keeping at most `memory` bytes of what was read (None: a part of what is free).
    """
    for one in sweeps:
        one.engine = engine
        try:
            one.prepare()
        except ProbeError as error:
            one.error = error
    open_ones = [s for s in sweeps if s.error is None and s.found is None]
    visits = sorted(_visits(open_ones), key=lambda v: (v[0], not goes_first(v[1].calls[v[2]])))
    places = sorted({place for place, *_ in visits})
    total = f"of {len(places)} checkpoints"

    def said(visit: tuple[int, Sweep, int]) -> str:
        return f"{places.index(visit[0]) + 1} {total}, {visit[1].name}"

    with ExitStack() as ended:
        for one in open_ones:
            ended.callback(one.announce, None)
        if engine.name == "ray":
            _distribute(open_ones, engine)
        together = _shared(visits, memory)
        for number, (_, one, member) in enumerate(progress(visits, total, said=said)):
            if one.error is None:
                _read_ahead(visits, number)
                with together.of(number):
                    one.compute(member)
    return list(sweeps)


def _visits(sweeps: Sequence[Sweep]) -> Iterator[tuple[int, Sweep, int]]:
    """(place of its last checkpoint in the series, the sweep, number of the member) of all that is to be computed."""
    for one in sweeps:
        places = {checkpoint: place for place, checkpoint in enumerate(one.series)}
        for number, (_, models) in enumerate(one.members):
            yield max(places[c] for c in models.values()), one, number


def _shared(visits: Sequence[tuple[int, Sweep, int]], memory: float | None) -> Sharing:
    """The passes of all that is to be computed in this process."""
    rows = [(s.calls[n], tuple(s.members[n][1].values()), is_there(s.calls[n], s.asked.store)) for _, s, n in visits]
    budget = memory if memory is not None or not visits else budget_of(visits[0][1].asked.pool.loading)
    return Sharing(rows, budget or 0.0)


def _distribute(sweeps: Sequence[Sweep], engine: Engine) -> None:
    """Have the members that are not there yet computed by workers; they are in the store afterwards, or failed."""
    parts, wholes = list[Task](), dict[Task, tuple[Sweep, str]]()
    for one in sweeps:
        own = _tasks(one)
        parts += own[0]
        wholes |= {task: (one, key) for task, key in own[1].items()}
    if not wholes:
        return
    store, loading = sweeps[0].asked.store, sweeps[0].asked.pool.loading
    assert store is not None  # or `_tasks` had refused
    total = sum(len(s.calls) for s in sweeps)
    name, there = " ".join(dict.fromkeys(s.name for s in sweeps)), total - len(wholes)
    tell = lambda n: sweeps[0].announce({"analysis": name, "done": there + n, "total": total})  # noqa: E731
    needed = max(len(t.checkpoints) for t in wholes) * _weights(next(iter(wholes)).checkpoints[0], loading)
    for task, error in compute([parts, list(wholes)], store, loading, engine, needed, tell).items():
        if task in wholes:
            one, key = wholes[task]
            one.failed[key] = error


def _tasks(one: Sweep) -> tuple[list[Task], dict[Task, str]]:
    """Shards of items that are not in the store yet, and the members made of them with their calls' keys."""
    asked, parts, wholes = one.asked, list[Task](), dict[Task, str]()
    if asked.store is None:
        raise InputError("engine ray: workers hand their results over through a store; give one (--results DIR)")
    for (_, models), call in zip(one.members, one.calls, strict=True):
        if stored(call, asked.store) is not None:
            continue
        held, given = tuple(models.values()), one.request(models).given
        wholes[Task(one.name, given, asked.limit, held)] = call.key
        for part in (p for p in shards(call, asked.pool) if stored(p, asked.store) is None):
            prompts = part.inputs["prompts"]
            assert prompts is not None
            parts.append(Task(one.name, {**given, "prompts": prompts.load()}, None, held))
    return parts, wholes


def _weights(checkpoint: Checkpoint, loading: Loading) -> float:
    """Bytes of a checkpoint's weights in memory; of its files where those do not say how many numbers they hold."""

    files = checkpoint.weight_files
    if (checkpoint.folder / "config.json").is_file() and all(f.suffix == ".safetensors" for f in files):
        return sizes(checkpoint)[0].weights * DTYPE_BYTES[loading.dtype]
    return float(sum(f.stat().st_size for f in files))


def _read_ahead(visits: Sequence[tuple[int, Sweep, int]], number: int) -> None:
    """With the first visit to a checkpoint, start reading those that come after it."""
    here = visits[number][0]
    following = next((v for v in visits[number:] if v[0] != here), None)
    if following is None or (number and visits[number - 1][0] == here):
        return
    _, one, member = following
    for checkpoint in one.members[member][1].values():
        prefetch(checkpoint)


def _member(call: Call, store: Store | None, pool: ModelPool, failed: ProbeError | None) -> Result:
    """The member's result; what a worker found wrong with it (`failed`) is raised here."""
    found = None if store is None else stored(call, store)
    if found is not None:
        return found
    if failed is not None:
        raise failed
    result = computed(call, store, pool)
    if store is None:
        return result
    return store.shards.kept(result)
