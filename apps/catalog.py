"""What results a store holds, by their records alone; `analyses.core.store.contents` reads the numbers.

Results are content-addressed and never change, so whatever is read once under a key may be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from typing import Any

from analyses.core.homes import defaults as options_of
from analyses.core.homes import homes
from analyses.core.store.files import is_here
from analyses.core.store.naming import checkpoints_of, run_names, run_of, sources_of
from analyses.core.store.store import SCHEMA, Store, StoreError
from probe.checkpoints.names import step_of

AGAIN = "delete its folder and run again"
HIDDEN_OPTIONS = ("batch_size", "seed")
MAX_OPTION = 16  # characters of a value; longer ones (a regular expression) tell nobody anything in a list


@dataclass(frozen=True, eq=False)
class Entry:
    """One stored result as listings name it; ``source`` is the result it was made from, if any."""

    root: Path
    record: Mapping[str, Any]
    source: Entry | None = None
    run_name: str = ""

    @property
    def analysis(self) -> str:
        return str(self.record["analysis"])

    @property
    def key(self) -> str:
        return str(self.record["key"])

    @property
    def readable(self) -> bool:
        """False where a newer version wrote it."""
        return int(self.record.get("schema", 0)) <= SCHEMA

    @property
    def is_sweep(self) -> bool:
        return bool(self.record.get("members"))

    @cached_property
    def checkpoints(self) -> list[dict[str, Any]]:
        """Descriptions of the checkpoints the numbers are about: path, step."""
        return checkpoints_of(self.record) or (self.source.checkpoints if self.source else [])

    @cached_property
    def steps(self) -> list[int]:
        """Steps of a sweep, in order; [] for a single run."""
        own = list(dict.fromkeys(int(m["step"]) for m in self.record.get("members") or [] if "step" in m))
        return own or (self.source.steps if self.source else [])

    @cached_property
    def run(self) -> str:
        """Path of the folder its checkpoints lie in: what was trained; "" where no model and no log of a run was read.

        Of rollouts alone: the folder their log lies in, which the trainer wrote beside its checkpoints.
        """
        return run_of(self.record) or (self.source.run if self.source else "")

    @cached_property
    def data_name(self) -> str:
        """Name of the prompts, rollouts or table read, without its folder."""
        own = ", ".join(PurePath(source).stem for source in sources_of(self.record))
        return own or (self.source.data_name if self.source else "")

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options that are not the analysis's defaults."""
        given = {k: v for k, v in self.record.get("options", {}).items() if k not in HIDDEN_OPTIONS}
        if self.analysis not in homes():
            return given
        defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in options_of(self.analysis).items()}
        return {k: v for k, v in given.items() if k not in defaults or defaults[k] != v}

    @cached_property
    def label(self) -> str:
        """Name for people: run, data, steps, what was set differently, beginning of the key."""
        parts = [
            self.run_name or PurePath(self.run).name,
            self.data_name,
            self.amount,
            self.span,
            *(f"{k}={v}" if len(str(v)) <= MAX_OPTION else f"own {k}" for k, v in self.options.items()),
        ]
        return " · ".join([p for p in parts if p] + [self.key[:6]])

    @property
    def amount(self) -> str:
        """How many items were read, in words."""
        counts = [d["n"] for d in self.record.get("inputs", {}).values() if isinstance(d, dict) and d.get("n")]
        return f"{counts[0]} items" if counts else ""

    @property
    def span(self) -> str:
        """Steps covered, in words."""
        if len(self.steps) > 1:
            return f"steps {self.steps[0]}–{self.steps[-1]}"
        inputs = self.record.get("inputs", {})
        pair = [_step_of(inputs[s]) for s in ("base", "tuned") if isinstance(inputs.get(s), dict)]
        if len(pair) == 2 and all(pair):
            return f"step {pair[0]} → {pair[1]}"
        step = _step_of(self.checkpoints[0]) if self.checkpoints else ""
        return f"step {step}" if step else ""


def located(recorded: str | Path, root: Path) -> Path | None:
    """Where a recorded path lies: as written, else as seen from the results' folder or one above it; None if nowhere.

    Paths are recorded as they were given, often relative to the folder a command was started in.
    """
    above = (whole := root.resolve(), *whole.parents) if is_here(root) else ()
    places = (base / recorded for base in (Path(), *above))
    return next((p for p in places if p.exists()), None)


def not_found(recorded: str | Path) -> str:
    """What to do about a recorded path that is not there."""
    if Path(recorded).is_absolute():
        return f"{recorded} is not there: put it back, or mount the disk it was on"
    return f"{recorded} is not found from {Path.cwd()}: start the dashboard in the folder it is relative to"


def _step_of(checkpoint: Mapping[str, object]) -> str:
    """Step of a checkpoint as recorded, else as its folder is named; "" where neither says."""
    place = PurePath(str(checkpoint.get("adapter") or checkpoint.get("path", "")))
    named = next((step for name in reversed(place.parts) if (step := step_of(name)) is not None), "")
    return str(checkpoint.get("step") if checkpoint.get("step") is not None else named)


@dataclass(frozen=True)
class Listing:
    """All results of a store, newest last, with what could not be read."""

    store: Store
    state: tuple[tuple[str, int], ...]
    entries: tuple[Entry, ...]
    problems: tuple[str, ...]
    broken: tuple[Path, ...] = ()

    def is_current(self) -> bool:
        """False once results were added or removed, or a half-copied one became whole."""
        completed = any(self.store.has(p.parent.name, p.name) for p in self.broken)
        return self.state == self.store.state() and not completed

    def of(self, analysis: str) -> list[Entry]:
        """Results of one analysis, newest first."""
        return [e for e in reversed(self.entries) if e.analysis == analysis]

    def analyses(self) -> list[str]:
        return sorted({e.analysis for e in self.entries})

    def runs(self) -> list[str]:
        """Folders of training runs there are results about."""
        return sorted({e.run for e in self.entries if e.run})

    def find(self, key: str | None) -> Entry | None:
        return next((e for e in self.entries if e.key == key), None)


def listing(store: Store) -> Listing:
    """What lies in ``store``; a damaged or half-written result is a problem told, not an error."""
    found = _listing(store, store.state())
    if not found.is_current():
        _listing.cache_clear()
        found = _listing(store, store.state())
    return found


@lru_cache(maxsize=4)
def _listing(store: Store, now: tuple[tuple[str, int], ...]) -> Listing:
    broken = tuple(store.broken())
    entries: list[Entry] = []
    problems = [f"{p}: incomplete (a copy or a write was interrupted); {AGAIN}" for p in broken]
    for name, key in store.addresses():
        try:
            entries.append(_entry(store.root, name, key))
        except StoreError as error:
            problems.append(str(error))
    by_key = {e.key: e for e in entries}
    entries = [replace(e, source=by_key.get(_upstream_key(e))) for e in entries]
    names = {path: name for name, path in run_names(sorted({e.run for e in entries if e.run})).items()}
    entries = [replace(e, run_name=names.get(e.run, "")) for e in entries]
    newer = [e for e in entries if not e.readable]
    problems += [
        f"{e.analysis}/{e.key}: a newer version wrote it (schema {e.record['schema']}); upgrade" for e in newer
    ]
    kept = sorted((e for e in entries if e.readable), key=lambda e: (e.record.get("started", ""), e.key))
    return Listing(store, now, tuple(kept), tuple(problems), broken)


@lru_cache(maxsize=20_000)
def _entry(root: Path, name: str, key: str) -> Entry:
    return Entry(root, Store(root).record(name, key))


def _upstream_key(entry: Entry) -> str:
    return next(iter(entry.record.get("upstream", {}).values()), "")
