"""`probe report`: everything a store holds in one HTML file that opens anywhere, without a server or a network.

plotly.js is embedded once. Figures share a budget of bytes; what does not fit is named, not dropped silently.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import analyses
from analyses.core.result import COMPANIONS, Result
from analyses.core.store.contents import verdict
from analyses.core.store.store import Store, StoreError
from apps.catalog import Entry, Listing, listing
from apps.drawn.reproduction import command
from probe.errors import InputError

FIGURE_BYTES = 2_800_000  # beside plotly.js (4.8 MB) this keeps the file under 8 MB
MAX_ROWS = 200
TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval';
 style-src 'unsafe-inline'; img-src data: blob:; font-src data:; connect-src 'none'">
<title>{{ title }}</title>
<style>
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;
 color:#1a1a1a;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{margin-top:2.6rem;border-top:1px solid #ddd;padding-top:1.2rem}
h3{margin:1.8rem 0 .3rem}
.quiet{color:#666;font-size:.88rem}.verdict{border-left:4px solid #0072B2;background:#eef5fa;padding:.5rem .8rem}
.none{border-color:#999;background:#f4f4f4}
.warning{border-left:4px solid #E69F00;background:#fdf6e6;padding:.4rem .8rem}
table{border-collapse:collapse;font-size:.85rem;margin:.6rem 0}
th,td{padding:.2rem .7rem;border-bottom:1px solid #e5e5e5;
 text-align:left;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto;max-height:26rem;overflow-y:auto}summary{cursor:pointer;color:#0072B2}
pre{background:#f6f6f6;padding:.6rem;overflow-x:auto;font-size:.82rem;white-space:pre-wrap}
@media print{.scroll{max-height:none}details{display:none}}
</style>
<script>{{ plotly_js }}</script></head><body>
<h1>{{ title }}</h1>
<p class="quiet">{{ sections|length }} results from {{ root }}, written {{ written }}.
Intervals are 95 %, resampled over items. An empty cell was not measured.</p>
{% for problem in problems %}<p class="warning">{{ problem }}</p>{% endfor %}
{% if not sections %}<p>No results here yet. Make some: <code>probe demo</code>, or
<code>probe sweep perplexity --checkpoints DIR --prompts FILE</code>.</p>{% else %}
<h3>Verdicts</h3><table><tr><th>run</th><th>analysis</th><th>verdict</th><th class="n">warnings</th></tr>
{% for s in sections %}<tr><td>{{ s.run }}</td><td><a href="#{{ s.anchor }}">{{ s.analysis }}</a></td><td>
{{ s.verdict or "makes no claim in words; see its numbers" }}</td>
<td class="n">{{ s.warnings|length or "" }}</td></tr>
{% endfor %}</table>{% endif %}
{% for s in sections %}
<h2 id="{{ s.anchor }}">{{ s.analysis }} <span class="quiet">{{ s.label }}</span></h2>
<p>{{ s.title }}</p>
<p class="verdict {{ '' if s.verdict else 'none' }}">
{{ s.verdict or "No verdict: this analysis reports numbers only." }}</p>
{% for w in s.warnings %}<p class="warning">{{ w }}</p>{% endfor %}
{% for figure in s.figures %}{{ figure }}{% endfor %}
{% for note in s.notes %}<p class="quiet">{{ note }}</p>{% endfor %}
{% if s.rows %}<details {{ 'open' if s.rows|length <= 12 else '' }}><summary>Estimates with intervals
({{ s.n_estimates }}{% if s.n_estimates > s.rows|length %}, first {{ s.rows|length }} shown{% endif %})</summary>
<div class="scroll"><table><tr>{% for c, n in s.columns %}<th class="{{ 'n' if n }}">{{ c }}</th>{% endfor %}</tr>
{% for row in s.rows %}<tr>{% for (c, n), cell in row %}<td class="{{ 'n' if n }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div></details>{% endif %}
<details><summary>What it is, what it does not show, where it comes from</summary>
{% for name, text in s.definitions.items() %}<p><b>{{ name }}.</b> {{ text }}</p>{% endfor %}
{% if s.command %}<pre>{{ s.command }}</pre>{% endif %}
<table>{% for name, value in s.provenance %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table>
</details>{% endfor %}</body></html>"""


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
    """The report as HTML; every text from a result is escaped by the template."""

    found = listing(store)
    sections, problems = _sections(store, found)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    return template.render(
        title=f"Post-training report: {PurePath(store.place).name}",
        root=str(store.root),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plotly_js=Markup(get_plotlyjs()),
        sections=sections,
        problems=[*found.problems, *problems],
    )


def _sections(store: Store, found: Listing) -> tuple[list[Section], list[str]]:
    sections: list[Section] = []
    problems: list[str] = []
    budget = FIGURE_BYTES
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
        html = figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False)
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
