"""The published setting on one GPU: Qwen2.5-Math-7B and RLVR checkpoints on MATH-500, Minerva, AMC and AIME24.

Every number comes from an analysis of the toolkit; what this file adds is the pinned choice of prompts, decoding and
grading, the same for base and tuned. bf16 weights of one 7B model need 16 GB; activations and cache at batch 16 and
3072 new tokens about as much again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from analyses import Loading, Result, Store, run, sweep
from probe import Checkpoint, Item, Prompts
from probe.errors import InputError

FILES = {  # name of the group -> (file, columns)
    "MATH-500": ("math500.json", "ttrl"),
    "Minerva": ("minerva_math.jsonl", "minerva_math"),
    "AMC": ("amc.json", "ttrl"),
    "AIME24": ("aime24.json", "ttrl"),
}
SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
STUB = "\nThe final answer is \\boxed{"


@dataclass(frozen=True)
class Setting:
    """Decoding of the published evaluation; `samples` at T = .6 beside one greedy response."""

    max_new_tokens: int = 3072
    samples: int = 8
    temperature: float = 0.6
    batch_size: int = 16
    seed: int = 0
    limit: int | None = None
    templates: tuple[Literal["none", "chat"], ...] = ("chat", "none")
    partial_tokens: int = 512
    controls: int = 50


def templates(text: str) -> tuple[Literal["none", "chat"], ...]:
    """`chat,none` as a tuple.

    Raises:
        InputError: another name, or none.
    """
    known: dict[str, Literal["none", "chat"]] = {"none": "none", "chat": "chat"}
    names = [n.strip() for n in text.split(",") if n.strip()]
    if not names or set(names) - set(known):
        raise InputError(f"templates={text!r}; expected chat, none, or both with a comma between")
    return tuple(known[n] for n in names)


def questions(folder: Path, limit: int | None = None) -> Prompts:
    """The benchmark questions with their final answers, one group per benchmark.

    Raises:
        InputError: none of the benchmark files is in the folder (their names are given).
    """
    items: list[Item] = []
    for group, (name, columns) in FILES.items():
        if (folder / name).is_file():
            read = Prompts.read(folder / name, columns=columns, answer_kind="gold_final").items[:limit]
            items += [replace(i, id=f"{group}/{i.id}", group=group) for i in read]
    if not items:
        raise InputError(f"no benchmark in {folder}; expected some of {[f for f, _ in FILES.values()]}")
    return Prompts(tuple(items), str(folder))


def instructed(asked: Prompts) -> Prompts:
    """The questions as they are put to the model."""
    return replace(asked, items=tuple(replace(i, prompt=i.prompt + SUFFIX) for i in asked.items))


def stubbed(asked: Prompts) -> Prompts:
    r"""Question, a fixed stub that ends in `\boxed{`, and the gold answer with its closing brace: teacher-forced."""
    return replace(asked, items=tuple(replace(i, prompt=i.prompt + STUB, answer=i.answer + "}") for i in asked.items))


def series(base: str, tuned: Sequence[str]) -> list[Checkpoint]:
    """Base as step 0, the tuned checkpoints at the steps their names tell, else numbered from 1."""
    later = [Checkpoint.of(t) for t in tuned]
    steps = [c.step if c.step else number for number, c in enumerate(later, start=1)]
    if len(set(steps)) < len(steps):
        raise InputError(f"tuned checkpoints need steps of their own; their names give {steps}")
    return [replace(Checkpoint.of(base), step=0), *(replace(c, step=s) for c, s in zip(later, steps, strict=True))]


def study(
    checkpoints: Sequence[Checkpoint], folder: Path, store: Store, loading: Loading, how: Setting
) -> dict[str, Result]:
    """All results of the published setting by name; finished parts are taken from the store."""
    asked = questions(folder, how.limit)
    shared: dict[str, Any] = {"store": store, "loading": loading}
    one_by_one = {"checkpoints": list(checkpoints), **shared, "batch_size": how.batch_size, "seed": how.seed}
    scores = sweep("perplexity", prompts=stubbed(asked), boundary="offsets", **one_by_one)
    found = {"perplexity": scores, "perplexity_paradox": run("perplexity_paradox", perplexity=scores, store=store)}
    decoding = {"samples": how.samples, "temperature": how.temperature, "max_new_tokens": how.max_new_tokens}
    for template in how.templates:
        found[f"evaluate_{template}"] = sweep(
            "evaluate", prompts=instructed(asked), template=template, **decoding, **one_by_one
        )
    first, *others = how.templates
    found["labels"] = run("labels", tuned=found[f"evaluate_{first}"], store=store)
    if others:
        # The base under the other template: how much of the gain is elicitation.
        other = found[f"evaluate_{others[0]}"]
        start = Result.of(other.table[other.table["step"] == 0].drop(columns="step"))
        found["labels"] = run("labels", tuned=found[f"evaluate_{first}"], other_template=start)
    found["partial_prompt"] = sweep(
        "partial_prompt", prompts=asked, max_new_tokens=how.partial_tokens, controls=how.controls, **one_by_one
    )
    return found
