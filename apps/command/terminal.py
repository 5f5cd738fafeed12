"""What a command prints: a table for people, one JSON line for scripts; logs stay on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click
import pandas as pd

import analyses
from analyses.core import claim
from analyses.core.analysis import Analysis
from analyses.core.result import Result
from analyses.core.store.store import Store
from apps.command.options import read_prompts
from apps.command.planning import hold

MAX_ROWS = 40
FAILED = 1


def execute(of: Analysis, sweep: bool) -> Callable[..., int]:
    """Callback of the command of ``of``."""

    def command(
        results: str | None,
        as_json: bool,
        limit: int | None = None,
        columns: str | None = None,
        seen_groups: tuple[str, ...] = (),
        **given: Any,
    ) -> int:
        from analyses.core.running.workers import Engine

        store = Store.at(results)
        if sweep:
            given["checkpoints"] = [*given["checkpoints"], *given.pop("more")]
            given["engine"] = Engine(given.pop("engine"), given.pop("workers"), given.pop("address"))
        settings = {f.name: given.pop(f.name) for f in fields(analyses.Loading) if f.name in given}
        inputs = {k: v for k, v in given.items() if v is not None}
        if "prompts" in inputs:
            inputs["prompts"] = read_prompts(inputs["prompts"], columns, seen_groups)
        if settings.get("hold") == "auto":
            settings["hold"] = hold(of, inputs, settings, limit)
        loading = analyses.Loading(**settings)
        runner: Any = analyses.sweep if sweep else analyses.run
        result = runner(of.name, store=store, loading=loading, limit=limit, **inputs)
        show_result(store, result, as_json)
        return FAILED if _told_failures(result) else 0

    return command


def _told_failures(result: Result) -> bool:
    """Say at the end which checkpoints of a sweep are missing from the result, and why."""
    failed = result.record.get("failed", [])
    for one in failed:
        click.echo(f"probe: step {one['step']} is not in this result: {one['error']}", err=True)
    return bool(failed)


def show_result(store: Store, result: Result, as_json: bool) -> None:
    """Print one result: verdict, summary with intervals, warnings, where it lies."""
    folder = store.folder(result.analysis, result.key)
    summary = result.summary()
    if as_json:
        line = {
            "key": result.key,
            "folder": str(folder),
            "verdict": result.verdict,
            "claims": [claim.row(c) for c in result.claims],
            "summary": json.loads(str(summary.to_json(orient="records"))),
            "warnings": result.warnings,
        }
        click.echo(json.dumps(line))
        return
    click.echo(f"{result.analysis} {result.key}  ({len(result.rows)} rows)")
    for said in [claim.sentence(c) for c in result.claims] or [result.verdict]:
        if said:
            click.echo(f"verdict: {said}")
    if len(summary):
        click.echo(_printed(summary))
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"saved in {folder}", err=True)


def _printed(summary: pd.DataFrame) -> str:
    shown = summary.dropna(axis="columns", how="all").head(MAX_ROWS)
    text = shown.to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep="")
    more = len(summary) - len(shown)
    return text + (f"\n... {more} more rows: `probe show KEY --json` or result.summary()" if more else "")


def list_results(store: Store, analysis: str | None, as_json: bool) -> None:
    """Print the results of a store, oldest first."""
    fields = ("analysis", "key", "kind", "started", "seconds")
    rows = [{f: r.get(f) for f in fields} | {"inputs": _inputs(r)} for r in store.records(analysis)]
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        click.echo(f"no results in {store.root}. Make some: `probe demo`, or `probe run ANALYSIS --help`.")
    for row in rows:
        click.echo(f"{row['analysis']:<22} {row['key']}  {row['kind']:<6} {row['started']}  {row['inputs']}")
    for folder in store.broken():
        click.echo(f"incomplete, ignored: {folder}", err=True)


def _inputs(record: dict[str, Any]) -> str:
    named = record.get("inputs", {}).items()
    parts = [f"{n}={d.get('path') or d.get('source') or d.get('key') or d.get('n')}" for n, d in named]
    if record.get("members"):
        parts.append(f"{len(record['members'])} checkpoints")
    return " ".join(parts)
