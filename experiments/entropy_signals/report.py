"""README's tables out of results.json: signal x needs x agreement with the exact change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analyses import get
from probe.readers.schema import NEEDS

FOLDER = Path(__file__).parent
MARKS = ("<!-- results -->", "<!-- end of results -->")

SIGNALS: dict[str, tuple[str, str, str]] = {
    "gradient_nats": (
        "`<grad H, delta>`",
        "two adjacent checkpoints, or one and its optimizer state; states",
        "entropy_step",
    ),
    "first_order_nats": ("`-cov_logit`", "two checkpoints, full logits; states", "entropy_change, entropy_covariance"),
    "tabular": (
        "`-r A (S - B)`",
        "one checkpoint, full logits; sampled tokens, centred advantages",
        "entropy_attribution",
    ),
    "omega": ("`-Omega (STEER)`", "log-probs and entropies; sampled tokens, advantages", "entropy_attribution"),
    "pooled": ("`-pooled covariance`", "log-probs; sampled tokens, advantages", "entropy_covariance"),
}
ANALYSES = (*NEEDS, "entropy_reward_law")
TOKENS = {"token_step": "tabular", "omega": "omega", "omega2": "", "s_only": "", "surprisal_gap": ""}


def write_readme(found: Mapping[str, Any]) -> None:
    """Replace what stands between the marks of the README."""
    path = FOLDER / "README.md"
    head, rest = path.read_text().split(MARKS[0])
    path.write_text(f"{head}{MARKS[0]}\n{tables(found)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def runs(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(seed, run, numbers), in order."""
    for seed, names in sorted(found.items()):
        for name, numbers in sorted(names.items()):
            yield seed, name, numbers


def tables(found: Mapping[str, Any]) -> str:
    """Summary by signal, every run, what fixed states miss, and what each analysis needs."""
    return "\n".join([*_summary(found), "", *_every(found), "", *_visits(found), "", *_needs()])


def _summary(found: Mapping[str, Any]) -> list[str]:
    count, seeds = sum(1 for _ in runs(found)), len(found)
    lines = [
        f"Over {count} runs of {seeds} seeds. r: Pearson's correlation over a window's updates with the measured "
        "change of mean entropy at the states of the whole rollout batch, median over runs [least, most]; predicts: "
        "runs whose interval over items lies above .5; same sign: median share of updates; per token: median over runs "
        "of Spearman's rho with the exact change at the token's own state (first update of each batch).",
        "",
        "| signal | needs | analysis | r, whole batch | r, responses used | predicts | same sign | per token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    token_of = {v: k for k, v in TOKENS.items() if v}
    for signal, (name, needs, where) in SIGNALS.items():
        used = f"{signal}_used" if f"{signal}_used" in next(runs(found))[2]["updates"] else signal
        rs = [[n["updates"][s]["r"] for _, _, n in runs(found)] for s in (signal, used)]
        same = np.nanmedian([n["updates"][signal]["same_sign"] for _, _, n in runs(found)])
        token = _tokens(found, token_of[signal]) if signal in token_of else "-"
        cells = [f"{np.nanmedian(r):.2f} [{np.nanmin(r):.2f}, {np.nanmax(r):.2f}]" for r in rs]
        above = sum(n["updates"][signal]["over_items"][0] > 0.5 for _, _, n in runs(found))
        row = (name, needs, where, *cells, f"{above} of {count}", f"{same:.2f}", token)
        lines.append(f"| {' | '.join(row)} |")
    others = ", ".join(f"{s} {_tokens(found, s)}" for s, v in TOKENS.items() if not v)
    return [*lines, "", f"Other token-level signals, per token: {others}."]


def _tokens(found: Mapping[str, Any], signal: str) -> str:
    values = [float(np.nanmedian(n["tokens"][signal])) for _, _, n in runs(found)]
    return f"{np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def _every(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "Every run: r over updates, signals from the whole batch [95 % over items; 95 % over updates].",
        "",
        "| seed | run | updates | gradient | slope | pooled | tabular | omega |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, name, numbers in runs(found):
        of = numbers["updates"]
        cells = [_cell(of[s]) for s in ("gradient_nats", "pooled", "tabular", "omega")]
        cells.insert(1, f"{of['gradient_slope']:.2f}")
        lines.append(f"| {seed} | {name} | {of['pooled']['n']} | {' | '.join(cells)} |")
    return lines


def _cell(of: Mapping[str, Any]) -> str:
    (a, b), (c, d) = of["over_items"], of["over_updates"]
    return f"{of['r']:.2f} [{a:.2f}, {b:.2f}; {c:.2f}, {d:.2f}]"


def _needs() -> list[str]:
    """What each entropy analysis takes, read off the registry and the schema."""
    lines = [
        "What each analysis needs. Columns are of the rollout log; ids of a text log are made where the round trip "
        "through the tokenizer is exact.",
        "",
        "| analysis | checkpoints | log | columns |",
        "|---|---|---|---|",
    ]
    for name in ANALYSES:
        kinds = [i.kind for i in get(name).inputs]
        models = "every update of a series" if "Checkpoints" in kinds else str(kinds.count("Model") or "none")
        log = "scalars by step" if "RunLog" in kinds else "rollouts"
        lines.append(f"| {name} | {models} | {log} | {', '.join(NEEDS.get(name, ('entropy, reward',)))} |")
    return lines


def _visits(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "A response's summed entropy over one rollout batch's updates, nats per response: the change at fixed states "
        "(first order) and the change from reaching other states, which fixed states miss; medians over the window's "
        "batches, and in how many of them the two have opposite signs.",
        "",
        "| seed | run | at fixed states | from other states | opposite signs |",
        "|---|---|---|---|---|",
    ]
    for seed, name, numbers in runs(found):
        local = np.array([v["sequence_local_nats"] for v in numbers["visits"]])
        other = np.array([v["sequence_visitation_nats"] for v in numbers["visits"]])
        if len(local):
            opposite = int((np.sign(local) != np.sign(other)).sum())
            lines.append(
                f"| {seed} | {name} | {np.median(local):+.3f} | {np.median(other):+.3f} | {opposite} of {len(local)} |"
            )
    return lines
