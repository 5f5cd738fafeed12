"""Numbers other people printed: drawn beside a user's run and marked as published, never a pass or a fail.

Source: arXiv 2507.10532, tables 2 and 4 (partial prompts, in percent), as fractions here. `fraction` is the share of
the question shown.
"""

from __future__ import annotations

import pandas as pd

SOURCE = "arXiv 2507.10532"
FRACTIONS = (0.8, 0.6, 0.4)
BENCHMARKS = ("MATH-500", "AMC", "AIME24", "AIME25", "Minerva", "LiveMathBench")

# ROUGE-L / exact match at 80, 60 and 40 % of the question.
COMPLETION: dict[str, tuple[str, ...]] = {
    "Qwen2.5-Math-7B": (
        "81.25/65.80 78.06/54.60 69.01/39.20", "77.38/55.42 70.25/42.17 75.17/36.14",
        "74.04/56.67 55.31/20.00 57.72/16.67", "54.71/16.67 34.88/0 27.43/0",
        "36.08/2.94 31.22/.37 29.35/0", "42.76/5 32.78/0 29.97/0",
    ),
    "Qwen2.5-7B": (
        "66.42/40.20 60.98/21.20 50.36/8.20", "73.24/49.40 64.42/33.73 63.79/28.92",
        "59.80/30 48.69/13.33 44.65/10", "54.61/10 37.59/0 30.30/0",
        "35.24/2.94 32.35/.37 27.89/0", "41.15/4 32.74/0 27.95/0",
    ),
    "Llama3.1-8B": (
        "48.33/17.80 40.55/3.80 32.07/.60", "44.54/4.82 30.62/0 27.10/0",
        "50.50/13.33 30.80/0 26.08/0", "47.04/10 33.49/0 25.20/0",
        "36.24/2.21 29.52/0 27.11/0", "35.55/5 31.93/0 26.88/0",
    ),
    "Qwen3-8B-Base": ("72.43/48.0 66.15/32.0 56.61/18.6",),
    "Qwen3-8B": ("53.66/22.0 44.91/5.8 36.30/.6",),
}  # fmt: skip

# MATH-500 answer accuracy at 100, 80, 60 and 40 % of the question.
ANSWERS: dict[tuple[str, str], str] = {
    ("Qwen2.5-Math-7B", "no template"): "72.20 63.80 53.60 41.20",
    ("Qwen2.5-Math-7B", "template"): "50.60 29.20 20.20 10.00",
    ("Qwen2.5-7B", "no template"): "67.60 49.60 30.80 18.40",
    ("Qwen2.5-7B", "template"): "40.00 22.20 13.40 6.80",
    ("Llama3.1-8B", "no template"): "1.6 2.0 2.4 2.0",
}

# Names that benchmark files give their groups.
GROUPS = {"math": "MATH-500", "amc": "AMC", "aime": "AIME24", "aime24": "AIME24", "aime25": "AIME25",
          "minerva": "Minerva", "minerva_math": "Minerva", "livemathbench": "LiveMathBench"}  # fmt: skip


def partial_prompts() -> pd.DataFrame:
    """Rows `quantity, benchmark, model, fraction, value`, with `published` naming the source."""
    rows = []
    for model, cells in COMPLETION.items():
        for benchmark, cell in zip(BENCHMARKS, cells, strict=False):
            for fraction, pair in zip(FRACTIONS, cell.split(), strict=True):
                for quantity, value in zip(("rouge_l", "exact_match"), pair.split("/"), strict=True):
                    rows.append((quantity, benchmark, model, fraction, float(value) / 100))
    for (model, template), cell in ANSWERS.items():
        for fraction, value in zip((1.0, *FRACTIONS), cell.split(), strict=True):
            rows.append(("accuracy", "MATH-500", f"{model}, {template}", fraction, float(value) / 100))
    frame = pd.DataFrame(rows, columns=["quantity", "benchmark", "model", "fraction", "value"])
    return frame.assign(published=SOURCE)


# arXiv 2506.10947: gains on MATH-500 after RL with four rewards, and the share of responses with code before it.
SPURIOUS = "arXiv 2506.10947"
GAINS = {"ground truth": 29.1, "incorrect": 24.1, "random": 21.4, "format": 13.8}
CODE_SHARE = 65.0


def spurious_rewards() -> pd.DataFrame:
    """Rows `quantity, benchmark, model, value` of Qwen2.5-Math-7B: gain per reward, code share of the base."""
    rows = [("accuracy_change", f"Qwen2.5-Math-7B, {reward} reward", gain / 100) for reward, gain in GAINS.items()]
    rows.append(("code", "Qwen2.5-Math-7B, before RL", CODE_SHARE / 100))
    frame = pd.DataFrame(rows, columns=["quantity", "model", "value"])
    return frame.assign(benchmark="MATH-500", published=SPURIOUS)


def beside(groups: list[str], rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """The published rows of the benchmarks these groups are named after; none for other groups."""
    named = {GROUPS.get(g.lower(), g) for g in groups}
    rows = partial_prompts() if rows is None else rows
    return rows[rows["benchmark"].isin(named)]


def joined(own: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """A run's rows with those printed about the same benchmarks below them; `source` tells which is which."""
    rows = spurious_rewards()
    theirs = beside([str(g) for g in own["group"].unique()], rows[rows["quantity"] == quantity])
    theirs = theirs.assign(series=theirs["model"], source="published, " + theirs["published"])
    return pd.concat(
        [own.assign(source="this run"), theirs[["quantity", "series", "source", "value"]]], ignore_index=True
    )
