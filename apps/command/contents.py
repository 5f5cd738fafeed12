"""What a store holds, in a terminal: results by run, what they take, and what is in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from analyses.core import claim
from analyses.core.store.contents import claims
from analyses.core.store.files import is_here
from analyses.core.store.store import Store, StoreError
from apps.catalog import MAX_OPTION, Entry, Listing, listing
from apps.command import lines
from probe.errors import InputError

WORDS = 60  # characters of a claim in a list
NO_RUN = "no run"
UNITS = (("day", 86_400), ("h", 3600), ("min", 60))


def show_all(store: Store, analysis: str | None, run: str | None, as_json: bool) -> None:
    """Print the results of a store by run, oldest first; what is damaged is named and changes nothing else."""
    found = listing(store)
    entries = [e for e in found.entries if analysis in (None, e.analysis) and run in (None, e.run_name)]
    if as_json:
        click.echo(json.dumps([_as_json(e) for e in entries]))
    elif not entries:
        click.echo(_nothing(store, found, run))
    names = sorted(dict.fromkeys(e.run_name for e in entries), key=lambda name: not name)  # what has none comes last
    for name in names if not as_json else ():
        click.echo(click.style(name or NO_RUN, bold=True))
        rows = [row(e) for e in entries if e.run_name == name]
        kept = [c for c in rows[0] if any(r[c] for r in rows)]
        click.echo(lines.aligned([kept, *([r[c] for c in kept] for r in rows)]) + "\n")
    for problem in found.problems:
        click.echo(f"left out: {problem}", err=True)


def _nothing(store: Store, found: Listing, run: str | None) -> str:
    if run is not None and found.entries:
        known = ", ".join(sorted({e.run_name for e in found.entries if e.run_name})) or "none"
        return f"no results about a run {run!r} in {store.root}; the runs are: {known}"
    return f"no results in {store.root}. Make some: `probe demo`, or `probe study RUN --prompts FILE`."


def row(entry: Entry) -> dict[str, str]:
    """One result as a line of the list."""
    return {
        "analysis": entry.analysis,
        "steps": entry.span.removeprefix("steps ").removeprefix("step "),
        "items": entry.amount.removesuffix(" items"),
        "options": ", ".join(_option(k, v) for k, v in entry.options.items()),
        "claim": _first_words(entry),
        "age": age(str(entry.record.get("started", ""))),
        "size": size(bytes_of(entry.root / entry.analysis / entry.key)),
        "key": entry.key[:8],
    }


def _option(name: str, value: object) -> str:
    return f"{name}={value}" if len(str(value)) <= MAX_OPTION else f"own {name}"


def _first_words(entry: Entry) -> str:
    try:
        said = [claim.sentence(c) for c in claims(entry.root, entry.analysis, entry.key)]
    except StoreError:
        return "damaged"
    more = f" (+{len(said) - 1})" if len(said) > 1 else ""
    return (said[0][:WORDS].rstrip() + ("…" if len(said[0]) > WORDS else "") + more) if said else ""


def _as_json(entry: Entry) -> dict[str, object]:
    kept = {name: entry.record.get(name) for name in ("analysis", "key", "kind", "started", "seconds")}
    about = {"run": entry.run_name, "steps": entry.steps, "options": entry.options, "prompts": entry.data_name}
    return kept | about | {"inputs": entry.record.get("inputs", {})}


def age(started: str) -> str:
    """How long ago that was: `3 min`, `2 h`, `5 days`; "" for a time that cannot be read."""
    try:
        then = datetime.fromisoformat(started)
    except ValueError:
        return ""
    seconds = (datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()
    for unit, length in UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
    return "now"


def size(count: int) -> str:
    """Bytes in words."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.3g} {unit}"
        value /= 1000
    return ""


def bytes_of(folder: Path) -> int:
    """What a folder of this machine takes; 0 at a URL, where asking takes long."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if is_here(folder) else 0


def remove(store: Store, keys: Sequence[str], run: str | None, *, sure: bool) -> None:
    """Remove results, after a question; with a run's name all that are about it.

    Raises:
        InputError: a key that names none or several, or nothing named at all.
    """
    addresses = [store.find(key) for key in keys]
    if run is not None:
        about = [(e.analysis, e.key) for e in listing(store).entries if e.run_name == run]
        if not about:
            raise InputError(_nothing(store, listing(store), run))
        addresses += about
    if not addresses:
        raise InputError("nothing to remove: give KEY (see `probe show`), or --run NAME")
    named = ", ".join(f"{name}/{key}" for name, key in addresses)
    if sure or click.confirm(f"Remove {named}?"):
        for address in addresses:
            store.drop(*address)
        click.echo(f"removed {len(addresses)}: {named}")


def collect(store: Store, *, dry_run: bool) -> None:
    """Remove what only a computation that was stopped would need: members of sweeps, shards of items, half results.

    Raises:
        InputError: a store at a URL, or one that somebody is writing into.
    """
    if not is_here(store.root):
        raise InputError(f"{store.root} is a URL: gc works on folders of this machine")
    if running := store.running():
        raise InputError(f"{running[0]['analysis']} is being computed into {store.root}; wait for it, or stop it")
    total = 0
    for what, folder in _litter(store):
        taken = bytes_of(folder)
        total += taken
        click.echo(f"{size(taken):>8}  {what}: {folder}")
        if not dry_run:
            shutil.rmtree(folder)
    click.echo(f"{size(total):>8}  {'would be freed' if dry_run else 'freed'}; results are untouched")


def _litter(store: Store) -> Iterator[tuple[str, Path]]:
    if store.shards.root.is_dir():
        yield "members and shards", store.shards.root
    yield from (("half-written", folder) for folder in store.broken())
    yield from (("half-written", f) for f in sorted(store.root.glob("*/.*-*")) if f.is_dir())
    if (store.root / ".running").is_dir():
        yield "notes of runs that ended", store.root / ".running"
