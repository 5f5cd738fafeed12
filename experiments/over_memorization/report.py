"""The README's tables, written from results.json between two markers, so that text and numbers cannot part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.over_memorization.lab import RUNS

FOLDER = Path(__file__).parent
START, END = "<!-- results -->", "<!-- end of results -->"
EFFECTS = ("accuracy", "distinct_2", "self_bleu", "modes", "pass_slope", "ece", "brier", "entropy_nats",
           "drop_irrelevant", "drop_numbers", "auroc_min_k_plus")  # fmt: skip


def write_readme(found: dict[str, Any]) -> None:
    """Put the tables of ``found`` (seed -> runs) into README.md."""
    path = FOLDER / "README.md"
    before, _, rest = path.read_text().partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{tables(found)}\n{END}{after}")


def tables(found: dict[str, Any]) -> str:
    """Stages of every run, then the side effects at matched accuracy."""
    lines = [
        "| seed | run | tolerance of accuracy | stages | onset (step) | PPL above its bound (step) | area "
        "| recommended (step) | ln PPL first, last | accuracy first, last |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, of in sorted(found.items()):
        for name in RUNS:
            row = of[name]
            cells = [f"{row['tolerance']:.3f}", spans(row["stages"]), steps(row["onset"]), steps(row["ppl_rise"])]
            cells += [interval(row["area"]), steps(row["recommended"])]
            cells += [", ".join(f"{x:.3f}" for x in row[q]) for q in ("log_ppl", "accuracy")]
            lines.append(f"| {seed} | {name} | " + " | ".join(cells) + " |")
    lines += ["", "Change of accuracy over the run, on problems of the training's length, on longer ones, and the gap:"]
    lines += ["", "| seed | run | inside | outside | outside - inside | style control |", "|---|---|---|---|---|---|"]
    for seed, of in sorted(found.items()):
        for name in RUNS:
            gap = of[name]["ood"]
            cells = [interval(gap[q]) for q in ("inside_change", "outside_change", "ood_gap")]
            cells.append(of[name]["style_reading"] or "-")
            lines.append(f"| {seed} | {name} | " + " | ".join(cells) + " |")
    lines += ["", "Side effects of single checkpoints, on problems of the training's length:", ""]
    lines += ["| seed | checkpoint | " + " | ".join(e.replace("_", " ") for e in EFFECTS) + " |"]
    lines += ["|---|---|" + "---|" * len(EFFECTS)]
    for seed, of in sorted(found.items()):
        for label, row in of["side_effects"].items():
            cells = " | ".join(interval(row[e]) for e in EFFECTS)
            lines.append(f"| {seed} | {label}: {row['run']} step {row['step']} | {cells} |")
    checked = [
        f"{n} {s}: {of[n]['from_truth']:.4f}"
        for s, of in sorted(found.items())
        for n in RUNS
        if of[n].get("from_truth") is not None
    ]
    lines += [
        "",
        f"Change of ln PPL, difference from the lab's own scripts (nats): {', '.join(checked) or 'not compared'}.",
    ]
    return "\n".join(lines)


def spans(stages: dict[str, str]) -> str:
    """Runs of equal stages: `good fit 0-36, over-fit 60-360`."""
    parts: list[list[str]] = []
    for step, stage in sorted(stages.items(), key=lambda at: float(at[0])):
        if parts and parts[-1][0] == stage:
            parts[-1][2] = step
        else:
            parts.append([stage, step, step])
    return ", ".join(f"{stage} {a}" if a == b else f"{stage} {a}-{b}" for stage, a, b in parts)


def interval(x: list[float | None] | None) -> str:
    """value [low, high]; a dash for what was not measured."""
    if x is None:
        return "-"
    bounds = "" if x[1] is None or x[2] is None else f" [{x[1]:.3f}, {x[2]:.3f}]"
    return f"{x[0]:.3f}{bounds}"


def steps(x: list[float | None] | None) -> str:
    """A step with its interval; `none` where no draw had one."""
    if x is None or x[0] is None:
        return "none"
    bounds = "" if x[1] is None or x[2] is None else f" [{x[1]:g}, {x[2]:g}]"
    return f"{x[0]:g}{bounds}"
