"""A plan in words: what will be read, computed, held and written, and how many checkpoints to hold."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

import probe
from analyses.core.analysis import get
from analyses.core.cost.plan import Plan
from apps.command.options import Values
from probe.errors import InputError

if TYPE_CHECKING:
    from analyses.core.analysis import Analysis

ADVICE = {
    "both": "both checkpoints in memory (--hold both)",
    "one": "one checkpoint at a time, the base's states spilled to disk (--hold one)",
    "neither": "it does not fit: bfloat16, a smaller batch, a device map, or a larger machine",
}


def option_values(name: str, given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts as option values of the analysis, typed like its defaults.

    Raises:
        InputError: no `=`, an unknown option, or a value of the wrong type.
    """
    of, found = get(name), {}
    for text in given:
        key, equals, value = text.partition("=")
        option = of.option(key.replace("-", "_"))
        if not equals:
            raise InputError(f"--set {text}: expected NAME=VALUE")
        try:
            found[option.name] = _typed(option.annotation, option.default, value)
        except ValueError as error:
            raise InputError(f"--set {text}: {error}") from error
    return found


def _typed(annotation: Any, default: Any, value: str) -> Any:
    if isinstance(default, tuple):
        element = typing.get_args(annotation)[0]
        return Values(element).convert(value, None, None)
    if isinstance(default, bool):
        return value.lower() in ("1", "true", "yes")
    return type(default)(value) if isinstance(default, int | float) else value


def plan_text(plan: Plan, *, as_json: bool = False) -> str:
    """The plan for people, or one line of JSON."""
    one, seconds = plan.cost, plan.seconds
    facts = {
        "analysis": plan.analysis,
        "members": plan.members,
        "items": plan.n_items,
        "tokens_per_item": plan.tokens,
        "flops": one.flops * plan.members,
        "seconds": seconds,
        "peak_bytes": {"both": plan.peak("both"), "one": None if one.spill_bytes is None else plan.peak("one")},
        "spill_bytes": one.spill_bytes,
        "store_bytes": None if one.store_bytes is None else one.store_bytes * plan.members,
        "memory": plan.memory,
        "choice": plan.choice,
        "is_lower_bound": get(plan.analysis).work is None,
    }
    if as_json:
        return json.dumps(facts)
    rates = plan.rates
    at_least = "at least " if facts["is_lower_bound"] else ""
    alone = "" if one.models < 2 else f"; one at a time {_one_at_a_time(plan)}"
    rows = "not counted for this analysis"
    if one.rows is not None and one.store_bytes is not None:
        rows = f"{_size(one.store_bytes * plan.members)} in {one.rows * plan.members:,.0f} rows"
    return "\n".join(
        [
            f"{plan.analysis}: {plan.members} x {one.models} checkpoint(s), {plan.n_items} items of "
            f"{plan.tokens:.1f} tokens",
            f"rates    {rates.flops / 1e9:,.1f} GFLOP/s, {rates.read / 1e9:.2f} GB/s read, "
            f"{rates.memory / 1e9:.1f} GB/s memory (measured here)",
            f"read     {_size(seconds['read'] * rates.read)}: {seconds['read']:,.1f} s",
            f"compute  {at_least}{one.flops * plan.members / 1e9:,.3g} GFLOP: {seconds['compute']:,.1f} s",
            f"generate {at_least}{seconds['generate']:,.1f} s of reading weights token by token",
            f"memory   {_size(plan.peak('both'))} at once{alone}; {_size(plan.memory)} may be used",
            f"store    {rows}",
            f"choice   {ADVICE[plan.choice] if one.models > 1 or plan.choice == 'neither' else 'it fits'}",
        ]
    )


def hold(of: Analysis, inputs: Mapping[str, Any], settings: Mapping[str, Any], limit: int | None) -> str:
    """`both` where both checkpoints of a pair fit into memory, else `one` (which is said)."""
    from analyses.core.cost.plan import Rates, plan, weights_fit

    named = {"base": settings.get("base_model"), "config": settings.get("config_folder")}
    if "checkpoints" in inputs:
        series = list(probe.discover(inputs["checkpoints"], **named))
    else:
        series = [probe.Checkpoint.of(inputs[i.name], **named) for i in of.inputs if i.kind == "Model"]
    device = settings["device"]
    if len(series) < 2 or device == "auto" or device.startswith("{") or weights_fit(series, device):
        return "both"
    options = {o.name: inputs[o.name] for o in of.options if o.name in inputs}
    case = {"prompts": inputs.get("prompts"), "dtype": settings["dtype"], "device": device, "limit": limit}
    made = plan(of.name, checkpoints=series, rates=Rates(1.0, 1.0, 1.0), **case, **options)
    if made.choice != "one":
        return "both"
    needed, free = _size(made.peak("both")), _size(made.memory)
    click.echo(f"one checkpoint at a time (--hold one): both need {needed}, {free} may be used", err=True)
    return "one"


def _one_at_a_time(plan: Plan) -> str:
    spilled = plan.cost.spill_bytes
    if spilled is None:
        return "is not possible: this analysis needs both"
    return f"{_size(plan.peak('one'))} and {_size(spilled)} of disk"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
