"""Over-memorization (arXiv 2508.04117) on real checkpoints: `python -m experiments.over_memorization.published ...`.

Accuracy and test perplexity of every checkpoint, the stage rule, which checkpoint to ship, and what the paper has as
side effects at the one to ship and at the last: robustness to other wordings, calibration and diversity of samples. The
paper's tolerances are not known; delta and rho are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses import Loading, Result, Store, run, sweep
from experiments.written import command, write
from probe import Checkpoint, Prompts, discover


@dataclass(frozen=True)
class Setting:
    """Decoding and tolerances: one greedy response, `samples` at T = 1 for diversity."""

    max_new_tokens: int = 512
    samples: int = 8
    temperature: float = 1.0
    delta: float = 0.01
    rho: float = 0.1
    grade: str = "auto"
    pattern: str | None = None
    batch_size: int = 16
    seed: int = 0


def study(
    checkpoints: list[Checkpoint], prompts: Prompts, store: Store, loading: Loading, how: Setting
) -> dict[str, Result]:
    """All results by name; finished parts are taken from the store."""
    shared: dict[str, Any] = {"store": store, "loading": loading}
    series = {"checkpoints": checkpoints, "prompts": prompts, "batch_size": how.batch_size, "seed": how.seed, **shared}
    graded: dict[str, Any] = {"grade": how.grade, "pattern": how.pattern, "max_new_tokens": how.max_new_tokens}
    scores = sweep("perplexity", **series)
    marks = sweep("evaluate", samples=how.samples, temperature=how.temperature, **graded, **series)
    stages = run("over_memorization", perplexity=scores, evaluate=marks, delta=how.delta, rho=how.rho, store=store)
    found = {"perplexity": scores, "evaluate": marks, "over_memorization": stages}
    for name, checkpoint in _compared(checkpoints, stages).items():
        one = {"model": checkpoint, "prompts": prompts, "batch_size": how.batch_size, "seed": how.seed, **shared}
        found[f"robustness_{name}"] = run("robustness", **graded, **one)
    found["diversity"] = run("diversity", evaluate=marks, store=store)
    return found


def _compared(checkpoints: list[Checkpoint], stages: Result) -> dict[str, Checkpoint]:
    """The checkpoint that the rule recommends (of the first group judged), and the last."""
    told = stages.summary()
    told = told[told["quantity"] == "recommended"].dropna(subset=["value"])
    wanted = {int(v) for v in told["value"][:1]}
    chosen = [c for c in checkpoints if c.step in wanted]
    return {**({"recommended": chosen[0]} if chosen else {}), "last": checkpoints[-1]}


def main(
    checkpoints: Annotated[str, typer.Option(help="Folder with the run's checkpoints.")],
    prompts: Annotated[Path, typer.Option(help="Test items with answers (rationales for their perplexity).")],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and claims.")] = Path("over_memorization"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
    device: Annotated[str, typer.Option(help="Torch device.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    max_new_tokens: Annotated[int, typer.Option(help="Limit of every response.")] = 512,
    limit: Annotated[int | None, typer.Option(help="Only the first items.")] = None,
) -> None:
    """Tables, figures and claims of the paper for one fine-tuning run."""
    read = Prompts.read(prompts)
    items = read if limit is None else read.limit(limit)
    how = Setting(max_new_tokens=max_new_tokens)
    loading = Loading(dtype=dtype, device=device)
    found = study(list(discover(checkpoints)), items, Store.at(results), loading, how)
    write(found, out)
    typer.echo((out / "claims.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    command("over_memorization", lambda: typer.run(main))
