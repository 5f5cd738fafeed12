"""Makes the files in `papers/` from the short lab: `python docs/paper_files.py [NAME ...]`, all of them by default.

Commands of the table in `papers.py` read them: responses and curves of the lab's runs, problems with their numbers
marked or said in other words, traces with a calculator's results in them, and answers after a part of the question.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import analyses
from apps.command.demo import ANSWER
from experiments.lab.tokenizer import build
from experiments.lab.world import NAMES, VERBS, Problem, draw
from probe import Prompts

FOLDER = Path(__file__).parent / "papers"
LAB = Path("runs/lab-short/seed-0")
GRPO = LAB / "grpo-format"
GRADED: dict[str, Any] = {"grade": "exact", "pattern": ANSWER, "max_new_tokens": 44, "batch_size": 64}
HOW: dict[str, Any] = {**GRADED, "samples": 8, "temperature": 1.0}
OTHER_WORDS = {"buys": "gets", "finds": "wins", "gets": "buys", "wins": "finds",
               "loses": "sells", "eats": "gives", "sells": "loses", "gives": "eats"}  # fmt: skip


def problems() -> Prompts:
    """Problems of the lab that were seen, and that were not."""
    return Prompts.read(LAB / "prompts.jsonl").where(answer_kind="gold_final", group=["leaked_true", "unseen"])


def sampled(checkpoint: Path, prompts: Prompts, *extra: str, **how: Any) -> pd.DataFrame:
    """Sampled responses of one checkpoint; gold answers as numbers."""
    table = analyses.run("evaluate", model=checkpoint, prompts=prompts, **{**HOW, **how}).table
    rows = table[table["decoding"] == "sampled"][["item", "group", "sample", "text", "gold", *extra]]
    return rows.assign(gold=rows["gold"].str.removeprefix("ans "))


def written(rows: pd.DataFrame | list[dict[str, Any]], name: str) -> None:
    file = FOLDER / name
    file.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_json(file, orient="records", lines=True)


def answers() -> None:
    """Responses of three checkpoints of a run."""
    for step in (0, 24, 48):
        written(sampled(GRPO / f"checkpoint-{step}", problems().subset(24)), f"answers/step-{step}.jsonl")


def temperatures() -> None:
    """Responses of one checkpoint at five temperatures."""
    heats = (0.25, 0.5, 1.0, 1.5, 2.0)
    hot = (sampled(GRPO / "checkpoint-24", problems().subset(24), temperature=t).assign(temperature=t) for t in heats)
    rows = pd.concat(hot, ignore_index=True)
    written(rows.assign(sample=np.arange(len(rows))), "temperatures.jsonl")


def wordings() -> None:
    """Responses to problems as they are, and about somebody of another name."""
    made = [_worded(problems().subset(12), name, word) for name, word in (("original", r"\g<0>"), ("renamed", "Eve"))]
    written(pd.concat(made).drop(columns="wording"), "wordings.jsonl")


def rewordings() -> None:
    """Responses to problems about six people, with what was asked."""
    made = [_worded(problems().where(group="unseen").subset(12), n.lower(), n, samples=4) for n in NAMES[:6]]
    written(pd.concat(made), "rewordings.jsonl")


def _worded(prompts: Prompts, variant: str, name: str, **how: Any) -> pd.DataFrame:
    items = tuple(replace(i, prompt=re.sub(r"^\w+", name, i.prompt)) for i in prompts.items)
    rows = sampled(GRPO / "checkpoint-24", replace(prompts, items=items), **how)
    return rows.assign(variant=variant, wording=rows["item"].map({i.id: i.prompt for i in items}))


def evidence() -> None:
    """Problems with the places of their numbers."""
    made = [
        {"id": i.id, "prompt": i.prompt, "answer": i.answer, "group": i.group,
         "evidence": [list(found.span()) for found in re.finditer(r"\d+", i.prompt)]}
        for i in problems().subset(24).items
    ]  # fmt: skip
    (FOLDER / "evidence.jsonl").write_text("\n".join(map(json.dumps, made)) + "\n", encoding="utf-8")


def curves() -> None:
    """Accuracy and perplexity of a run of fine-tuning."""
    test = LAB / "sft_test.jsonl"
    scored = analyses.sweep("perplexity", checkpoints=LAB / "sft-high", prompts=test, batch_size=32)
    marked = analyses.sweep("evaluate", checkpoints=LAB / "sft-high", prompts=test, **GRADED)
    table = analyses.run("over_memorization", perplexity=scored, evaluate=marked, unparsed="wrong").table
    table[["step", "accuracy", "perplexity"]].round(4).to_csv(FOLDER / "curves.csv", index=False)


def parallel() -> None:
    """Problems told twice: as the lab tells them, and with other words for what is done; two groups by their result."""
    rng = random.Random("parallel")
    made: list[dict[str, Any]] = []
    for n in range(48):
        problem = draw(rng, 3, f"p{n:02d}")
        others = " ".join(OTHER_WORDS.get(w, w) for w in problem.prompt.split())
        for variant, prompt in (("first", problem.prompt), ("second", others)):
            made.append({"id": problem.id, "variant": variant, "prompt": prompt, "answer": problem.direct,
                         "group": "large" if problem.computed > 12 else "small"})  # fmt: skip
    assert set(OTHER_WORDS) == {v for family in VERBS.values() for v in family}
    written(made, "parallel.jsonl")


def dialogues() -> None:
    """What is answered after two, three and all four sentences of a problem."""
    whole = problems().where(group="unseen").subset(16)
    made: list[pd.DataFrame] = []
    for turn in (1, 2, 3):
        cut = [" . ".join([*i.prompt.split(" . ")[: turn + 1], "how many ?"]) for i in whole.items]
        told = replace(whole, items=tuple(replace(i, prompt=p) for i, p in zip(whole.items, cut, strict=True)))
        made.append(sampled(GRPO / "checkpoint-24", told).assign(turn=turn))
    rows = pd.concat(made, ignore_index=True)
    written(rows.assign(sample=rows.groupby("item").cumcount()), "dialogues.jsonl")


def traces() -> None:
    """Rationales in which a calculator gives each result; in half of them it once gives a wrong one."""
    rng, words = random.Random("traces"), build()
    made: list[dict[str, Any]] = []
    for step, n in ((1, 24), (2, 24)):
        for number in range(n):
            problem = draw(rng, 3, f"t{number:02d}")
            right = number % 2 == 0
            parts = list(_calculated(problem, None if right else rng.randrange(3), rng))
            ids = [words(text, add_special_tokens=False)["input_ids"] for _, text in parts]
            asked = words(problem.prompt)["input_ids"]
            starts = np.cumsum([0, *map(len, ids)])[:-1].tolist()
            kinds = [kind for kind, _ in parts]
            made.append({
                "step": step, "prompt_id": f"{step}-{problem.id}", "prompt_token_ids": asked,
                "response_token_ids": [i for own in ids for i in own], "segment_starts": starts, "segment_type": kinds,
                "response_mask": [k != "tool" for k, own in zip(kinds, ids, strict=True) for _ in own],
                "reward": float(right), "advantage": 1.0 if right else -1.0,
            })  # fmt: skip
    pd.DataFrame(made).to_parquet(FOLDER / "traces.parquet", index=False)


def _calculated(problem: Problem, wrong: int | None, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Parts of a trace: the calls, the calculator's results, the answer (the last result)."""
    total = problem.values[0]
    for n, (op, value) in enumerate(zip(problem.ops, problem.values[1:], strict=True)):
        yield "call", f"{'think' if n == 0 else ';'} next {total} {op} {value} ="
        total = max(0, total + value if op == "+" else total - value)
        total = rng.choice([x for x in range(31) if x != total]) if n == wrong else total
        yield "tool", str(min(total, 40))
        total = min(total, 40)
    yield "answer", f"; ans {total}"


FILES = (answers, temperatures, wordings, rewordings, evidence, curves, parallel, dialogues, traces)

if __name__ == "__main__":
    for made in FILES:
        if not sys.argv[1:] or made.__name__ in sys.argv[1:]:
            made()
