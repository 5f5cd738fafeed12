"""`probe report`: everything a store holds in one HTML file that opens anywhere, without a server or a network.

It begins with the answers, then has per question one figure and one paragraph, then everything else folded. Figures
share a budget of bytes; what does not fit is named, not dropped silently.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

import analyses
from analyses.core import claim
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import COMPANIONS, Result
from analyses.core.store.contents import verdict
from analyses.core.store.store import Store, StoreError
from apps.catalog import Entry, Listing, listing, run_names
from apps.drawn import cards, curves, leaf, look, overview, panels
from apps.drawn.cards import Said
from apps.drawn.reproduction import command
from probe.errors import InputError

FIGURE_BYTES = 1_500_000  # beside plotly.js, packed (.7 MB), and tables this keeps the file of the demo under 4 MB
MAX_ROWS, MAX_PANELS = 100, 6


@dataclass
class Question:
    """One question as the template reads it: what is said, and the figures it is seen in."""

    title: str
    said: list[str]
    figures: list[Markup]
    small: bool = False


@dataclass
class Section:
    """One result as the template reads it."""

    anchor: str
    analysis: str
    label: str
    run: str
    title: str
    verdict: str
    warnings: list[str]
    figures: list[Any]
    notes: list[str]
    columns: list[tuple[str, bool]]
    rows: list[list[tuple[tuple[str, bool], str]]]
    n_estimates: int
    definitions: dict[str, str]
    provenance: list[tuple[str, str]]
    command: str | None


def write_report(store: Store, path: Path | str) -> Path:
    """Write all results of ``store`` into one self-contained HTML file; its path.

    Raises:
        StoreError: the file cannot be written; an older one under this name is kept.
    """
    path = Path(path)
    text = render(store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".html", delete=False, encoding="utf-8") as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}; give another file with -o") from error
    return path


def render(store: Store) -> str:
    """The report as HTML; every text from a result is escaped by the template, by `apps.drawn.cards` or as JSON."""
    found = listing(store)
    newest = {name: overview.newest(found, path) for name, path in run_names(found.runs()).items()}
    said, lost = overview.said(newest)
    questions, used = _questions(store, found, said)
    sections, problems = _sections(store, found, FIGURE_BYTES - used)
    shown = [*cards.cards(said), *cards.missing(found.analyses())]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(leaf.PAGE)
    return template.render(
        title=f"Post-training report: {PurePath(store.place).name}",
        root=str(store.root),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plotly_js=Markup(leaf.packed_plotly()),
        script=Markup(leaf.SCRIPT),
        css=Markup(look.CSS),
        cards=Markup(cards.row(shown)),
        questions=questions,
        sections=sections,
        problems=list(dict.fromkeys([*found.problems, *lost, *problems])),
    )


def _questions(store: Store, found: Listing, said: Sequence[Said]) -> tuple[list[Question], int]:
    """(curves over training, then each analysis that claims something: its sentences and its first figure; bytes)."""
    made = [Question("What happened over training", [], _over_training(store, found), small=True)]
    by_analysis: dict[str, list[Said]] = {}
    for one in said:
        by_analysis.setdefault(one[1], []).append(one)
    rank = {FOUND: 0, NONE: 1, UNJUDGED: 2}
    for analysis, own in sorted(by_analysis.items(), key=lambda a: min(rank[s[2].answer] for s in a[1])):
        first = min(own, key=lambda s: rank[s[2].answer])
        sentences = [f"{run}: {claim.sentence(one)}" for run, _, one in own]
        made.append(Question(_title(analysis), sentences, _first_figure(store, found, analysis, first[0])))
    made = [q for q in made if q.figures or q.said]
    return made, sum(len(f) for q in made for f in q.figures)


def _over_training(store: Store, found: Listing) -> list[Markup]:
    """The curves that the dashboard opens with, of the runs that it opens with."""
    runs = run_names(found.runs())
    chosen = overview.alike(found, runs) if runs else []
    frames: list[pd.DataFrame] = []
    for name in chosen:
        for entry in overview.newest(found, runs[name]):
            with suppress(StoreError, InputError):  # told where its section is
                rows = curves.over_steps(store.get(entry.analysis, entry.key).summary())
                frames.append(rows.assign(analysis=entry.analysis, run=name))
    rows = curves.apart(curves.joined(frames))
    if rows.empty:
        return []
    shown = panels.panels(curves.chosen(rows, panels.wanted(rows)[:MAX_PANELS]), curves.colors(list(runs)))
    return [Markup(leaf.figure_data(figure.to_json())) for figure, _ in shown.values()]


def _first_figure(store: Store, found: Listing, analysis: str, run: str) -> list[Markup]:
    """The first figure of the analysis's newest result about a run, [] where none can be drawn."""
    entries = [e for e in overview.newest(found, run_names(found.runs())[run]) if e.analysis == analysis]
    with suppress(StoreError, InputError):
        result = store.get(entries[0].analysis, entries[0].key)
        return [Markup(leaf.figure_data(f.to_json())) for _, f in islice(figures_of(result, []), 1)]
    return []


def _title(analysis: str) -> str:
    return analyses.get(analysis).title if analysis in analyses.names() else analysis


def _sections(store: Store, found: Listing, budget: int) -> tuple[list[Section], list[str]]:
    sections: list[Section] = []
    problems: list[str] = []
    for entry in sorted(found.entries, key=lambda e: (e.run, not _claims(e), e.analysis)):
        try:
            result = store.get(entry.analysis, entry.key)
        except (StoreError, InputError) as error:
            problems.append(str(error))
            continue
        drawn, notes, used = _figures(result, budget)
        budget -= used
        sections.append(_section(entry, result, drawn, notes))
    return sections, problems


def _claims(entry: Entry) -> bool:
    try:
        return bool(verdict(entry.root, entry.analysis, entry.key))
    except StoreError:  # told when its numbers are read
        return False


def _figures(result: Result, budget: int) -> tuple[list[Any], list[str], int]:
    """(figures as HTML, what was left out and why, bytes used)."""

    drawn: list[object] = []
    notes: list[str] = []
    used = 0
    for name, figure in figures_of(result, notes):
        html = leaf.figure_data(figure.to_json())
        if used + len(html) > budget:
            notes.append(
                f"figure “{name}” ({len(html) / 1e6:.1f} MB) is left out to keep this file small: see the dashboard"
            )
            continue
        used += len(html)
        drawn.append(Markup(html))
    return drawn, notes, used


def figures_of(result: Result, notes: list[str]) -> Iterator[tuple[str, Any]]:
    """The analysis's figures, else one per quantity; a figure that cannot be drawn is told in ``notes``."""
    from analyses.core import figures

    summary = result.summary()
    if result.analysis in analyses.names():
        try:
            drawn = result.figures()
        except (ValueError, KeyError) as error:
            notes.append(f"the figures of {result.analysis} cannot be drawn from these numbers: {error}")
            drawn = {}
        if drawn:
            yield from drawn.items()
            return
    yield from figures.auto(summary).items()


def _section(entry: Entry, result: Result, drawn: list[Any], notes: list[str]) -> Section:

    known = analyses.get(entry.analysis) if entry.analysis in analyses.names() else None
    summary = result.summary().dropna(axis="columns", how="all")
    columns = [(str(c), c in ("value", *COMPANIONS)) for c in summary.columns]
    shown = [
        [(column, _cell(value)) for column, value in zip(columns, row, strict=True)]
        for row in summary.head(MAX_ROWS).itertuples(index=False)
    ]
    return Section(
        anchor=f"{entry.analysis}-{entry.key}",
        analysis=entry.analysis,
        label=entry.label,
        run=PurePath(entry.run).name,
        title=known.title if known else f"This version has no analysis called {entry.analysis}.",
        verdict=result.verdict or "",
        warnings=result.warnings,
        figures=drawn,
        notes=notes,
        columns=columns,
        rows=shown,
        n_estimates=len(summary),
        definitions=known.sections if known else {},
        provenance=list(provenance(result.record)),
        command=command(entry),
    )


def provenance(record: Any) -> Iterator[tuple[str, str]]:
    """Where a result comes from, as (name, value) lines: nested entries are joined with dots."""
    for name in sorted(set(record) - {"members", "warnings", "schema", "kind"}):
        value = record[name]
        if isinstance(value, dict):
            yield from ((f"{name}.{k}", str(v)) for k, v in value.items())
        else:
            yield name, str(value)
    for member in record.get("members", []):
        paths = [d["path"] for d in member.values() if isinstance(d, dict) and d.get("path")]
        yield f"step {member.get('step')}", f"{', '.join(paths)} (result {member.get('key')})"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.5g}"
    return str(value)
