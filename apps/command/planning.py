"""A plan in words: what will be read, computed, held and written, and how many checkpoints to hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

import probe
from analyses.core.analysis import get
from analyses.core.cost.budget import Cut, fitted, seconds_of
from analyses.core.cost.plan import Plan, plan, weights_fit
from analyses.core.cost.rates import Rates
from apps.command.options import read_prompts

if TYPE_CHECKING:
    from analyses.core.analysis import Analysis
    from probe import Checkpoint

ADVICE = {
    "both": "both checkpoints in memory (--hold both)",
    "one": "one checkpoint at a time, the base's states spilled to disk (--hold one)",
    "neither": "it does not fit: bfloat16, a smaller batch, a device map, or a larger machine",
}


def execute(of: Analysis) -> Callable[..., None]:
    """Callback of `probe plan` of ``of``."""

    def command(
        as_json: bool,
        device_memory: float | None,
        budget: str | None = None,
        columns: str | None = None,
        seen_groups: tuple[str, ...] = (),
        **given: Any,
    ) -> None:
        series = _series(of, given)
        options = {o.name: given[o.name] for o in of.options if given[o.name] is not None}
        prompts = given.get("prompts") and read_prompts(given["prompts"], columns, seen_groups)
        settings = {name: given[name] for name in ("dtype", "device", "limit", "pairs") if name in given}
        memory = None if device_memory is None else device_memory * 2**30
        made = plan(of.name, checkpoints=series, prompts=prompts, memory=memory, **settings, **options)
        if budget is None:
            click.echo(plan_text(made, as_json=as_json))
            return

        def part(items: int | None, layers: tuple[int, ...] | None) -> Plan:
            words: dict[str, Any] = {**settings, **({"limit": items} if items else {})}
            chosen: dict[str, Any] = {**options, **({"layers": _layers(of, layers)} if layers else {})}
            return plan(
                of.name, checkpoints=series, prompts=prompts, memory=memory, rates=made.rates, **words, **chosen
            )

        click.echo(cut_text(fitted(of, seconds_of(budget), part), budget, as_json=as_json))

    return command


def _layers(of: Analysis, layers: tuple[int, ...]) -> tuple[int | str, ...]:
    """Layers as the analysis takes them: numbers, or texts where other words are possible."""
    return tuple(map(str, layers)) if of.option("layers").annotation == tuple[str, ...] else layers


def cut_text(cut: Cut, budget: str, *, as_json: bool = False) -> str:
    """The plan of what fits, how to ask for it, and what is left out."""
    told = plan_text(cut.plan, as_json=as_json)
    if as_json:
        facts = {"budget": budget, "options": cut.options, "left_out": cut.left_out}
        return json.dumps({**json.loads(told), **facts})
    if not cut.left_out:
        return f"{told}\nbudget   {budget}: all of it fits"
    return f"{told}\nbudget   {budget}: {cut.options}\nleft out {'; '.join(cut.left_out)}"


def _series(of: Analysis, given: Mapping[str, Any]) -> list[Checkpoint]:
    """The checkpoints a plan is about, named as in a sweep or as in a run.

    With a series `--base` is what training started from, as in a sweep; without one it is the pair's first.
    """
    models = [i.name for i in of.inputs if i.kind == "Model"]
    named = [name for name in models if given[name]]
    sources = [*given.get("checkpoints", ()), *given.get("more", ())]
    start = {"base": given.get("base_model"), "config": given.get("config_folder")}
    if sources and not set(named) - {"base"}:
        return list(probe.discover(sources, **{**start, "base": start["base"] or given.get("base")}))
    if sources or named != models:
        each = " ".join(f"--{name} PATH" for name in models)
        raise click.UsageError(f"plan {of.name}: give either --checkpoints SOURCE or {each}")
    return [probe.Checkpoint.of(given[name], **start) for name in models]


def plan_text(made: Plan, *, as_json: bool = False) -> str:
    """The plan for people, or one line of JSON."""
    one, seconds = made.cost, made.seconds
    facts = {
        "analysis": made.analysis,
        "members": made.members,
        "items": made.n_items,
        "tokens_per_item": made.tokens,
        "flops": one.flops * made.members,
        "seconds": seconds,
        "peak_bytes": {"both": made.peak("both"), "one": None if one.spill_bytes is None else made.peak("one")},
        "spill_bytes": one.spill_bytes,
        "store_bytes": None if one.store_bytes is None else one.store_bytes * made.members,
        "memory": made.memory,
        "choice": made.choice,
        "is_lower_bound": get(made.analysis).work is None,
    }
    if as_json:
        return json.dumps(facts)
    rates = made.rates
    at_least = "at least " if facts["is_lower_bound"] else ""
    alone = "" if one.models < 2 else f"; one at a time {_one_at_a_time(made)}"
    rows = "not counted for this analysis"
    if one.rows is not None and one.store_bytes is not None:
        rows = f"{_size(one.store_bytes * made.members)} in {one.rows * made.members:,.0f} rows"
    return "\n".join(
        [
            f"{made.analysis}: {made.members} x {one.models} checkpoint(s), {made.n_items} items of "
            f"{made.tokens:.1f} tokens",
            f"rates    {rates.flops / 1e9:,.1f} GFLOP/s, {rates.read / 1e9:.2f} GB/s read, "
            f"{rates.memory / 1e9:.1f} GB/s memory (measured here)",
            f"read     {_size(seconds['read'] * rates.read)}: {seconds['read']:,.1f} s",
            f"compute  {at_least}{one.flops * made.members / 1e9:,.3g} GFLOP: {seconds['compute']:,.1f} s",
            f"generate {at_least}{seconds['generate']:,.1f} s of reading weights token by token",
            f"memory   {_size(made.peak('both'))} at once{alone}; {_size(made.memory)} may be used",
            f"store    {rows}",
            f"choice   {ADVICE[made.choice] if one.models > 1 or made.choice == 'neither' else 'it fits'}",
        ]
    )


def hold(of: Analysis, inputs: Mapping[str, Any], settings: Mapping[str, Any], limit: int | None) -> str:
    """`both` where both checkpoints of a pair fit into memory, else `one` (which is said)."""
    named = {"base": settings.get("base_model"), "config": settings.get("config_folder")}
    if "checkpoints" in inputs:
        series = list(probe.discover(inputs["checkpoints"], **named))
    else:
        series = [probe.Checkpoint.of(inputs[i.name], **named) for i in of.inputs if i.kind == "Model"]
    device = settings["device"]
    if len(series) < 2 or device in ("auto", "stream") or device.startswith("{") or weights_fit(series, device):
        return "both"
    options = {o.name: inputs[o.name] for o in of.options if o.name in inputs}
    case = {"prompts": inputs.get("prompts"), "dtype": settings["dtype"], "device": device, "limit": limit}
    made = plan(of.name, checkpoints=series, rates=Rates(1.0, 1.0, 1.0), **case, **options)
    if made.choice != "one":
        return "both"
    needed, free = _size(made.peak("both")), _size(made.memory)
    click.echo(f"one checkpoint at a time (--hold one): both need {needed}, {free} may be used", err=True)
    return "one"


def _one_at_a_time(made: Plan) -> str:
    spilled = made.cost.spill_bytes
    if spilled is None:
        return "is not possible: this analysis needs both"
    return f"{_size(made.peak('one'))} and {_size(spilled)} of disk"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
