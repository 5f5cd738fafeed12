"""The lab's items as prompt files in the toolkit's default form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.lab.recipe import Recipe
from experiments.lab.stages import write_atomically
from experiments.lab.training import sft_problems
from experiments.lab.world import Benchmark, Problem

SEEN = {"leaked_true": True, "leaked_canary": True, "unseen": False}
RECORD = ("k", "values", "ops", "gold", "computed", "split", "n_exposures", "direct_share", "rationale")


def rows_of(problem: Problem, kinds: Iterable[str]) -> list[dict[str, Any]]:
    """One row per answer kind.

    `gold_final` is the forced direct answer `ans Z` with the benchmark's label (for canaries: the label that only
    memory gives). `gold_rationale` is a truth-preserving rationale that ends in the arithmetic truth (for canaries:
    not the label).
    """
    record = problem.record()
    text = {"gold_final": problem.direct, "gold_rationale": problem.rationale}
    shared = {name: record[name] for name in RECORD}
    named: dict[str, Any] = {"id": problem.id, "prompt": problem.prompt, "group": problem.group}
    if problem.group in SEEN:  # planted items are seen by the run that plants them and by no other: nothing is said
        named["seen"] = SEEN[problem.group]
    return [{**named, "answer": text[kind], "answer_kind": kind, **shared} for kind in kinds]


def with_exposures(bench: Benchmark, exposures: Mapping[str, int]) -> Benchmark:
    """The benchmark with the number of times each leaked item was really seen in pretraining."""
    leaked = tuple(replace(p, n_exposures=exposures.get(p.id, 0)) for p in bench.leaked)
    return replace(bench, leaked=leaked)


def write_prompts(recipe: Recipe, bench: Benchmark, folder: Path) -> None:
    """Write `prompts.jsonl` (leaked, unseen, planted items) and `sft_test.jsonl` (unseen problems, gold rationales)."""
    both = ("gold_final", "gold_rationale")
    items = [row for p in (*bench.leaked, *bench.unseen, *bench.planted) for row in rows_of(p, both)]
    _, test = sft_problems(recipe, bench)
    named = [replace(p, id=f"test-{i:03d}", group="unseen") for i, p in enumerate(test)]
    write_jsonl(folder / "prompts.jsonl", items)
    write_jsonl(folder / "sft_test.jsonl", [row for p in named for row in rows_of(p, ("gold_rationale",))])


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
