"""The README's tables, written from results.json between two markers, so that text and numbers cannot part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.perplexity_paradox.lab import PREDICTED

FOLDER = Path(__file__).parent
START, END = "<!-- results -->", "<!-- end of results -->"


def write_readme(found: dict[str, Any]) -> None:
    """Put the tables of ``found`` (seed -> runs) into README.md."""
    path = FOLDER / "README.md"
    before, _, rest = path.read_text().partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{tables(found)}\n{END}{after}")


def tables(found: dict[str, Any]) -> str:
    """One row per run and seed: the verdict against its prediction, the changes with intervals, the parts."""
    lines = [
        "| seed | run | predicted | verdict (leaked) | held | answer | prompt | prompt, leaked - unseen "
        "| answer, leaked - unseen | mode token | rest |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, of in sorted(found.items()):
        for name in (n for n in PREDICTED if n in of["runs"]):
            row = of["runs"][name]
            predicted = PREDICTED[name] or "(none)"
            held = {True: "yes", False: "**no**", None: ""}[of["held"].get(name)]
            step = f", from step {row['since']}" if row["since"] is not None else ""
            parts = [row["contribution"][m] for m in ("answer:first", "answer:rest")]
            shown = [row["answer"], row["prompt"], row["prompt_contrast"], row["answer_contrast"], *parts]
            cells = " | ".join(interval(x) for x in shown)
            lines.append(f"| {seed} | {name} | {predicted} | {row['verdict']['leaked']}{step} | {held} | {cells} |")
    checked = [f"seed {s}: {max(of['from_truth'].values()):.4f}" for s, of in sorted(found.items()) if of["from_truth"]]
    lines += [
        "",
        f"Largest difference from the lab's own scripts (format run, nats): {', '.join(checked) or 'not compared'}.",
    ]
    return "\n".join(lines)


def interval(x: list[float] | None) -> str:
    """value [low, high], or a dash for what was not measured."""
    return "-" if x is None else f"{x[0]:+.3f} [{x[1]:+.3f}, {x[2]:+.3f}]"
