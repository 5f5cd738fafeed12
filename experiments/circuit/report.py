"""The README's table, written from results.json so that no number in it is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WAYS, ALPHA = ("tuned_to_base", "base_to_tuned"), 0.05
START, END = "<!-- results -->", "<!-- end of results -->"


def table(found: dict[str, Any]) -> str:
    """One row per seed, run and choice of positions."""
    lines = [
        "| seed | run | positions | first site that differs | largest effect in the first group, tuned into base | "
        "clearest difference of the groups, tuned into base | base into tuned |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, runs in sorted(found.items()):
        for name, pair in sorted(runs.items()):
            for positions in ("all", "all_prompt"):
                cell = pair[positions]
                site, layer, value = largest(cell["effects"])
                into_base, into_tuned = (difference(cell["differences"][way]) for way in WAYS)
                lines.append(
                    f"| {seed} | {name} | {positions} | {cell['first_difference']} | {site}.{layer} ({value:+.3f}) | "
                    f"{into_base} | {into_tuned} |"
                )
    return "\n".join(lines)


def difference(found: dict[str, Any]) -> str:
    """Place, size and p of the clearest group difference, "none found", or "not tested"."""
    if not found:
        return "not tested"
    if found["p"] > ALPHA:
        return f"none found (p {found['p']:.3g})"
    return f"{found['at']} ({found['value']:+.3g}, p {found['p']:.3g})"


def largest(effects: dict[str, list[float]]) -> tuple[str, int, float]:
    """Site, layer and value of the largest mean effect."""
    cells = [(site, layer, value) for site, values in effects.items() for layer, value in enumerate(values)]
    return max(cells, key=lambda c: abs(c[2]))


def write_readme(found: dict[str, Any]) -> None:
    """Replace what is between the marks."""
    path = FOLDER / "README.md"
    before, _, rest = path.read_text().partition(START)
    path.write_text(f"{before}{START}\n{table(found)}\n{END}{rest.partition(END)[2]}")
