"""What a store says at first sight: the newest result of each analysis, its claims, the runs to look at first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from analyses.core.store.contents import claims
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing
from apps.drawn.cards import Said

STAGED = "over_memorization"
MAX_RUNS = 4  # shown where nothing was chosen


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
