"""What the shell completes: keys of stored results and names of their runs."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

import analyses


def keys(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of stored results, for the shell; each with what it is of."""
    from apps.catalog import listing

    found = listing(analyses.Store.at(ctx.params.get("results"))).entries
    return [CompletionItem(e.key, help=f"{e.analysis} {e.label}") for e in found if e.key.startswith(incomplete)]


def run_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the runs that results are about, for the shell."""
    from apps.catalog import listing

    found = {e.run_name for e in listing(analyses.Store.at(ctx.params.get("results"))).entries if e.run_name}
    return [CompletionItem(name) for name in sorted(found) if name.startswith(incomplete)]
