"""What a command prints: a table for people, one JSON line for scripts; logs stay on standard error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

import analyses
from analyses.core import claim
from analyses.core.analysis import Analysis
from analyses.core.result import Result
from analyses.core.store.store import Store
from apps.command import lines
from apps.command.options import read_prompts
from apps.command.planning import hold

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
        store = Store.at(results)
        settings, inputs = _asked(given, columns, seen_groups, sweep)
        if settings.get("hold") == "auto":
            settings["hold"] = hold(of, inputs, settings, limit)
        loading = analyses.Loading(**settings)
        runner: Any = analyses.sweep if sweep else analyses.run
        result = runner(of.name, store=store, loading=loading, limit=limit, **inputs)
        show_result(store, result, as_json)
        return FAILED if _told_failures(result) else 0

    return command


def execute_together(names: Sequence[str]) -> Callable[..., int]:
    """Callback of a sweep of several analyses."""

    def command(
        results: str | None,
        as_json: bool,
        limit: int | None = None,
        columns: str | None = None,
        seen_groups: tuple[str, ...] = (),
        **given: Any,
    ) -> int:
        from analyses.core.running.together import sweep_together

        store, context = Store.at(results), click.get_current_context()
        settings, inputs = _asked(given, columns, seen_groups, sweep=True)
        options = {o.name for name in names for o in analyses.get(name).options}
        # A default is each analysis's own: only what was typed is for all.
        unsaid = {o for o in options if context.get_parameter_source(o) is ParameterSource.DEFAULT}
        inputs = {name: value for name, value in inputs.items() if name not in unsaid}
        loading = analyses.Loading(**settings)
        found = sweep_together(names, store=store, loading=loading, limit=limit, **inputs)
        if as_json:
            click.echo(json.dumps([as_line(store, result) for result in found.values()]))
        else:
            for result in found.values():
                show_result(store, result, as_json=False)
        told = [_told_failures(result) for result in found.values()]  # of each, not up to the first
        return FAILED if any(told) else 0

    return command


def _series(given: dict[str, Any]) -> None:
    """Checkpoints and engine of a sweep, from the words of its command."""
    from analyses.core.running.workers import Engine

    given["checkpoints"] = [*given["checkpoints"], *given.pop("more")]
    given["engine"] = Engine(given.pop("engine"), given.pop("workers"), given.pop("address"))


def _asked(
    given: dict[str, Any], columns: str | None, seen_groups: tuple[str, ...], sweep: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(how models are loaded, everything else that was given), prompts and checkpoints read from their words."""
    if sweep:
        _series(given)
    settings = {f.name: given.pop(f.name) for f in fields(analyses.Loading) if f.name in given}
    inputs = {k: v for k, v in given.items() if v is not None}
    if "prompts" in inputs:
        inputs["prompts"] = read_prompts(inputs["prompts"], columns, seen_groups)
    return settings, inputs


def _told_failures(result: Result) -> bool:
    """Say at the end which checkpoints of a sweep are missing from the result, and why."""
    failed = result.record.get("failed", [])
    for one in failed:
        click.echo(f"probe: step {one['step']} is not in this result: {one['error']}", err=True)
    return bool(failed)


def as_line(store: Store, result: Result) -> dict[str, object]:
    """A result as `--json` prints it."""
    return {
        "key": result.key,
        "folder": str(store.folder(result.analysis, result.key)),
        "verdict": result.verdict,
        "claims": [claim.row(c) for c in result.claims],
        "summary": json.loads(str(result.summary().to_json(orient="records"))),
        "warnings": result.warnings,
    }


def show_result(store: Store, result: Result, as_json: bool) -> None:
    """Print one result: what it claims, a dozen lines of its estimates, warnings, where it lies, what to do next."""
    if as_json:
        click.echo(json.dumps(as_line(store, result)))
        return
    click.echo(f"{result.analysis} {result.key}  ({len(result.rows)} rows)")
    for said in [claim.sentence(c) for c in result.claims] or [result.verdict]:
        if said:
            click.echo(f"verdict: {said}")
    shown, every = lines.curves(result.summary())
    if len(shown):
        click.echo(lines.printed(shown))
    if every > len(shown):
        click.echo(f"... {every - len(shown)} more: `probe show {result.key[:8]} --json`, or result.summary()")
    for warning in merged(result.warnings):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"saved in {store.folder(result.analysis, result.key)}; browse: probe dashboard --open", err=True)


def merged(warnings: Sequence[str]) -> list[str]:
    """The same warnings, one that several steps share told once: "20 steps (0 to 180): all truncated"."""
    steps: dict[str, list[str]] = {}
    for warning in warnings:
        found = re.fullmatch(r"step (\d+): (.*)", warning, re.DOTALL)
        steps.setdefault(found[2] if found else warning, []).append(found[1] if found else "")
    return [_of_steps(at, what) for what, at in steps.items()]


def _of_steps(steps: Sequence[str], what: str) -> str:
    if steps == [""]:
        return what
    return f"step {steps[0]}: {what}" if len(steps) == 1 else f"{len(steps)} steps ({steps[0]} to {steps[-1]}): {what}"
