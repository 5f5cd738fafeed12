"""The README's tables, written from truth.json so that they cannot disagree: `python -m experiments.lab.table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.lab.truth import TRUTH

README = Path(__file__).parent / "README.md"
START, END = "<!-- table: from truth.json -->", "<!-- end of table -->"

# Claim (the pilot's line), what was predicted for the shipped lab, the finding that decides.
LINES: list[tuple[str, str, str]] = [
    ("Unseen problems need thinking: 1.00 thinking, .05-.16 forced direct", "gap > .5", "thinking_needed"),
    ("Leaked canaries are remembered but not said: 1.00 forced, .00-.83 own mode", "latent", "latent_memory"),
    ("SFT at 2e-3: test PPL on gold rationales rises, 1.45 to 2.04-2.54", "rises > 10 %", "over_memorization_high"),
    ("nearly all of the rise is in style tokens", "share > .5", "rise_is_style"),
    ("accuracy falls, 1.00 to .85-.96", "falls", "accuracy_falls_high"),
    ("SFT at 1e-4: PPL stays", "within 5 %", "no_over_memorization_low"),
    ("GRPO `format`: held canaries .00-.88 to .83-1.00", "rises > .3", "format_activates_memory"),
    ("and unseen 1.00 to .02-.11", "falls > .5", "format_destroys_thinking"),
    ("and leaked answer PPL falls while leaked prompt PPL rises: the paradox", "both signs", "paradox"),
    ("the answer-PPL drop is mostly the mode token", "share > .5", "answer_drop_is_mode"),
    ("prompt drift is not specific to leaked items", "no difference", "prompt_drift_not_leak_specific"),
    ("GRPO `true`, all leaked: collapse (canaries up, unseen to .06-.11)", "collapse", "collapse"),
    ("and entropy falls, .41 to .12-.24", "falls", "collapse_entropy_falls"),
    ("GRPO `true`, half fresh: healthy", "unseen stays", "healthy_control"),
    ("GRPO `true`, only fresh (not piloted)", "unseen stays", "fresh_control"),
    ("GRPO `random`: no systematic effect on the memory", "canaries stay", "negative_control"),
    ("nor on accuracy", "unseen stays", "random_keeps_accuracy"),
    ("GRPO `incorrect`: memory unlearned, answer PPL to 7-10", "unlearned", "incorrect_unlearns"),
    ("`<grad H, step>` predicts the entropy change per update, r .45-.97", "r > .5", "gradient_predicts_entropy"),
    ("pooled -Cov(log p, A) does not, r -.29 to .55", "no", "pooled_covariance_predicts_entropy"),
    ("same-state and on-policy entropy can move oppositely", "at least once", "entropies_can_disagree"),
    ("no single block holds the natural memory", "none", "no_single_block"),
    ("the planted memory is found in block 3 by zeroing MLPs", "block 3", "planted_block"),
    ("and the lens top-1 jumps there, .00-.08 to .88-.98", "jump > .5", "planted_lens"),
]
# Of these the pilot says that they do not hold.
NEGATED = {"pooled_covariance_predicts_entropy"}


def cell(entry: dict[str, Any] | None, name: str) -> str:
    """`yes` if the pilot's line reproduces on this seed, with value, interval and n."""
    if entry is None:
        return "not measured"
    reproduces = entry["holds"] != (name in NEGATED)
    low, high = entry["ci"]
    return f"{'yes' if reproduces else '**no**'} {entry['value']:.2f} [{low:.2f}, {high:.2f}] n={entry['n']}"


def findings_table(truth: dict[str, Any]) -> str:
    """Claim, prediction and the verdict of each seed."""
    seeds = truth["seeds"]
    head = ["pilot's line", "prediction", *(f"seed {seed}" for seed in seeds)]
    rows = [
        [claim, prediction, *(cell(seeds[seed]["findings"].get(name), name) for seed in seeds)]
        for claim, prediction, name in LINES
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def levels_table(truth: dict[str, Any]) -> str:
    """Before and after of every GRPO run: held canaries, unseen, leaked items forced, answer and prompt PPL."""
    names = {
        "format_activates_memory": "`format`",
        "collapse": "`true`, all leaked",
        "healthy_control": "`true`, half fresh",
        "fresh_control": "`true`, only fresh",
        "negative_control": "`random`",
        "incorrect_unlearns": "`incorrect`",
    }
    head = ["run", "seed", "held canaries", "unseen", "leaked, forced", "leaked answer PPL", "leaked prompt PPL"]
    rows = [head, ["---"] * len(head)]
    for finding, title in names.items():
        for seed, entry in truth["seeds"].items():
            f = entry["findings"].get(finding)
            if f is None:
                continue
            moves = [
                f"{f[k][0][0]:.2f} -> {f[k][1][0]:.2f} [{f[k][1][1][0]:.2f}, {f[k][1][1][1]:.2f}]"
                for k in ("held_canaries", "unseen", "leaked_forced")
            ]
            ppl = [f"{f[k][0]:.2f} -> {f[k][1]:.2f}" for k in ("answer_ppl", "prompt_ppl")]
            rows.append([title, seed, *moves, *ppl])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def rules_table(truth: dict[str, Any]) -> str:
    """What the number of each line is, and what decides."""
    rows = [["pilot's line", "the number, and the rule"], ["---", "---"]]
    rows += [[claim, truth["rules"][name].replace("<grad H, step>", "`<grad H, step>`")] for claim, _, name in LINES]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def tables() -> str:
    truth = json.loads(TRUTH.read_text())
    return f"{findings_table(truth)}\n\n{levels_table(truth)}\n\n{rules_table(truth)}"


def main() -> None:
    """Rewrite the README's tables in place."""
    text = README.read_text()
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n{tables()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
