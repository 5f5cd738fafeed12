"""The README's tables, written from results.json between two markers, so that text and numbers cannot part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
START, END = "<!-- results -->", "<!-- end of results -->"
GROUPS = ("planted", "leaked_true", "leaked_canary", "unseen")


def write_readme(found: dict[str, Any]) -> None:
    """Put the tables of ``found`` (seed -> experiments) into README.md."""
    path = FOLDER / "README.md"
    before, _, rest = path.read_text().partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{tables(found)}\n{END}{after}")


def tables(found: dict[str, Any]) -> str:
    """Predictions; the dose-response of the planted block; every layer; few neurons; responses; resets; audit."""
    seeds = sorted(found)
    parts = [
        "### Predictions",
        *predictions(found, seeds),
        "### All keys of the planted block: change of the answer's log-probability (nats per token)",
        *dose_rows(found, seeds),
        "### All keys of each layer, lowered: slope on planted items (in brackets: natural canaries, base model)",
        *layer_rows(found, seeds),
        "### Ten neurons of the planted block, lowered: slopes",
        *few_rows(found, seeds),
        "### The model's own responses: share that answers at once with the label",
        *response_rows(found, seeds),
        "### MLP of one layer put back to before planting, kept alone, or replaced by noise: change in nats per token",
        *reset_rows(found, seeds),
        "### Probe-gated audit",
        *[f"- seed {s}: {found[s]['audit']['verdict']}; steered without a gate, planted minus matched controls: "
          f"{interval(found[s]['audit']['matched_difference'])}" for s in seeds],
    ]  # fmt: skip
    return "\n".join(line if not line.startswith("###") else f"\n{line}\n" for line in parts)


def predictions(found: dict[str, Any], seeds: list[str]) -> list[str]:
    names = list(found[seeds[0]]["held"])
    rows = [[name, *("yes" if found[s]["held"][name] else "**no**" for s in seeds)] for name in names]
    return table(["prediction", *(f"seed {s}" for s in seeds)], rows)


def dose_rows(found: dict[str, Any], seeds: list[str]) -> list[str]:
    rows: list[list[str]] = []
    for seed in seeds:
        block = found[seed]["whole layers"]["block"]
        for alpha in block["planted"]:
            cells = [interval(block[group][alpha]["key_overlap"]) for group in GROUPS]
            rows.append([seed, alpha, *cells, interval(block["planted"][alpha]["random_direction"])])
    return table(["seed", "alpha", *GROUPS, "planted, random direction"], rows)


def layer_rows(found: dict[str, Any], seeds: list[str]) -> list[str]:
    rows: list[list[str]] = []
    for seed in seeds:
        planted, natural = found[seed]["whole layers"]["layers"], found[seed]["natural"]["layers"]
        slopes = {
            n: (planted[n]["below"]["slope"]["planted"], natural[n]["below"]["slope"]["leaked_canary"]) for n in planted
        }
        cells = [f"{interval(own)} ({other[0]:+.2f})" for own, other in slopes.values()]
        rows.append([seed, *cells])
    return table(["seed", *(f"layer {n}" for n in found[seeds[0]]["whole layers"]["layers"])], rows)


def few_rows(found: dict[str, Any], seeds: list[str]) -> list[str]:
    rows = [
        [seed, name, *(interval(few["below"]["slope"][g]) for g in GROUPS), f"{few['below']['placebo_p']:.3f}"]
        for seed in seeds
        for name, few in found[seed]["few neurons"].items()
    ]
    return table(["seed", "neurons", *GROUPS, "largest placebo p"], rows)


def response_rows(found: dict[str, Any], seeds: list[str]) -> list[str]:
    rows = [
        [seed, group, *(interval(x, signed=False) for x in found[seed]["responses"][group].values())]
        for seed in seeds
        for group in GROUPS
    ]
    return table(["seed", "items", *(f"alpha {a}" for a in found[seeds[0]]["responses"]["planted"])], rows)


def reset_rows(found: dict[str, Any], seeds: list[str]) -> list[str]:
    rows = [
        [seed, variant, group, *(f"{x[0]:+.2f}" for x in found[seed]["reset"][group][variant].values())]
        for seed in seeds
        for variant in ("reset", "keep_only", "randomise")
        for group in ("planted", "leaked_canary")
    ]
    return table(
        ["seed", "weights", "items", *(f"layer {n}" for n in found[seeds[0]]["reset"]["planted"]["reset"])], rows
    )


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def interval(x: list[float] | None, signed: bool = True) -> str:
    """value [low, high], or a dash for what was not measured."""
    if x is None:
        return "-"
    sign = "+" if signed else ""
    return f"{x[0]:{sign}.2f} [{x[1]:{sign}.2f}, {x[2]:{sign}.2f}]"
