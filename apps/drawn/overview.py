"""What a store says at first sight: the newest result of each analysis, its claims, the runs to look at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from analyses.core.store.contents import claims
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing
from apps.drawn.cards import Said

STAGED = "over_memorization"
MAX_RUNS = 4  # shown where nothing was chosen
FIELDS = ("inputs", "options", "loading", "environment")  # of a record: what may tell runs apart


def newest(found: Listing, run: str) -> list[Entry]:
    """The newest result of each analysis about a run."""
    return list({e.analysis: e for e in found.entries if e.run == run}.values())


def said(entries: Mapping[str, Iterable[Entry]]) -> tuple[list[Said], list[str]]:
    """(every claim of the results, by the name of their run; what could not be read)."""
    found: list[Said] = []
    problems: list[str] = []
    for run, own in entries.items():
        for entry in own:
            try:
                found += [(run, entry.analysis, one) for one in claims(entry.root, entry.analysis, entry.key)]
            except StoreError as error:
                problems.append(str(error))
    return found, problems


def alike(found: Listing, runs: Mapping[str, str]) -> list[str]:
    """Runs measured on the same data, which can be read against each other: most verdicts first, then most runs.

    Args:
        found: the store.
        runs: name -> path of the runs there are.
    """
    by_data: dict[str, list[str]] = {}
    for name, path in runs.items():
        entries = newest(found, path)
        if any(e.is_sweep for e in entries):
            data = next((e.data_name for e in entries if e.analysis == "perplexity"), "") or entries[0].data_name
            by_data.setdefault(data, []).append(name)
    staged = {e.run for e in found.of(STAGED)}
    best = max(by_data.values(), key=lambda names: (sum(runs[n] in staged for n in names), len(names)), default=[*runs])
    return best[:MAX_RUNS]


def fields(entries: Mapping[str, Sequence[Entry]]) -> dict[str, dict[str, str]]:
    """Fields of the records that put runs into groups -> (run -> its value).

    A field groups where it has several values, one of them in several runs. A run whose results differ in a field has
    no value of it.

    Args:
        entries: run -> the results about it.
    """
    told: dict[str, dict[str, str]] = {}
    for run, own in entries.items():
        values: dict[str, set[str]] = {}
        for name, value in (pair for entry in own for pair in _flat(entry)):
            values.setdefault(name, set()).add(value)
        for name, found in values.items():
            if len(found) == 1:
                told.setdefault(name, {})[run] = next(iter(found))
    counts = {name: Counter(of.values()) for name, of in told.items()}
    return {name: of for name, of in sorted(told.items()) if 1 < len(counts[name]) < len(of)}


def _flat(entry: Entry) -> Iterator[tuple[str, str]]:
    """Fields of a result's record with their values as texts; of the checkpoint, what stage it is of."""
    for part in FIELDS:
        for name, value in dict(entry.record.get(part, {})).items():
            if isinstance(value, Mapping):
                yield from ((f"{name} {k}", str(v)) for k, v in value.items() if k in ("source", "stage", "n"))
            else:
                yield name.replace("_", " "), str(value)
