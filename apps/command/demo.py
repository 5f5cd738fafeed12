"""`probe demo`: train the tiny lab if it is not there, sweep its checkpoints, show what came out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pandas as pd

from analyses.core.result import Result
from analyses.core.running.run import run
from analyses.core.running.sweep import sweep
from analyses.core.store.store import Store
from apps.report import write_report
from probe import Prompts
from probe.errors import InputError, ProbeError

RUNS = {"sft-high": "fine-tuning at 2e-3", "sft-low": "fine-tuning at 1e-4"}
FORMAT = "reward for the format"
GRADED: dict[str, Any] = {
    "grade": "exact",
    "pattern": r"^(?:think .*; )?ans (\d+)$",
    "max_new_tokens": 44,
    "batch_size": 64,
}
CHECKOUT = Path(__file__).resolve().parents[2]
NO_LAB = (
    "the lab is trained from a checkout of the repository, not from the installed package: clone it and run "
    "`make demo`, or name a folder that holds a finished lab with --out"
)


def run_demo(out: Path, results: str | None, seed: int) -> None:
    """Everything the README's first command shows.

    Raises:
        InputError: no finished lab in ``out`` and no checkout to train one from.
        ProbeError: the training failed (its own message is above).
    """
    folder = out / f"seed-{seed}"
    _train(out, seed, folder)
    store = Store.at(results or folder / "results")
    swept = {run: _sweep(folder / run, folder / "sft_test.jsonl", store) for run in RUNS}
    click.echo("\nTest perplexity of gold rationales on unseen items, by optimizer step [95 % interval over items]\n")
    click.echo(_table(swept).to_string())
    click.echo()
    for name, said in _questions(folder, swept, store).items():
        click.echo(f"{name}: {said}\n")
    _report(store, folder / "report.html")
    click.echo(f"Browse:  probe dashboard --results {store.root}    (opens on http://127.0.0.1:8501)")


def _train(out: Path, seed: int, folder: Path) -> None:
    if not (CHECKOUT / "experiments").is_dir():
        if not (folder / "sft_test.jsonl").is_file():
            raise InputError(NO_LAB)
        return
    command = [sys.executable, "-m", "experiments.lab", "--short", "--seed", str(seed), "--out", str(out.resolve())]
    # `experiments` is not installed: -m finds it in the checkout's folder.
    if subprocess.run(command, stdout=sys.stderr, cwd=CHECKOUT, check=False).returncode:
        raise ProbeError("training the lab failed; run the same command again to resume at the stage that failed")


def _sweep(run: Path, prompts: Path, store: Store) -> Result:
    sweep("logit_lens", checkpoints=run, prompts=prompts, store=store, batch_size=32, limit=48)
    return sweep("perplexity", checkpoints=run, prompts=prompts, store=store, batch_size=32)


def _questions(folder: Path, swept: dict[str, Result], store: Store) -> dict[str, str | None]:
    """Which run memorized, since when and what to ship; and where the planted memory sits."""
    found: dict[str, str | None] = {}
    for name, perplexity in swept.items():
        prompts = folder / "sft_test.jsonl"
        graded = sweep("evaluate", checkpoints=folder / name, prompts=prompts, store=store, **GRADED)
        inputs: dict[str, Any] = {"perplexity": perplexity, "evaluate": graded}
        found[RUNS[name]] = run("over_memorization", **inputs, unparsed="wrong", store=store).verdict
    answers = Prompts.read(folder / "prompts.jsonl").where(answer_kind="gold_final")
    found |= {f"{FORMAT}, {of}": said for of, said in _rewarded(folder / "grpo-format", answers, store).items()}
    return found | _planted(folder / "planted", answers.where(group=["planted", "unseen"]), store)


def _planted(checkpoints: Path, answers: Prompts, store: Store) -> dict[str, str | None]:
    """Since when are the false answers there, and where do they sit?"""
    where: dict[str, Any] = {"checkpoints": checkpoints, "store": store}
    graded = sweep("evaluate", prompts=answers, **where, **GRADED)
    gained = run("gains", evaluate=graded, seen=("planted",), unseen=("unseen",), store=store)
    planted = answers.where(group="planted")
    sweep("logit_lens", prompts=planted, **where, batch_size=32)
    before, *_, after = sorted(checkpoints.glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
    ends: dict[str, Any] = {"base": before, "tuned": after, "positions": "all"}
    patched = run("cross_patching", **ends, prompts=planted, store=store)
    return {"planted memory, accuracy": gained.verdict, "planted memory, place": patched.verdict}


def _rewarded(checkpoints: Path, answers: Prompts, store: Store) -> dict[str, str | None]:
    """Did the spurious reward switch on memorized answers? By accuracy, and by perplexity."""
    where: dict[str, Any] = {"checkpoints": checkpoints, "prompts": answers, "store": store}
    graded, perplexity = sweep("evaluate", **where, **GRADED), sweep("perplexity", **where, batch_size=32)
    roles: dict[str, Any] = {"seen": ("leaked_true", "leaked_canary"), "unseen": ("unseen",), "store": store}
    return {
        "accuracy": run("gains", evaluate=graded, **roles).verdict,
        "perplexity": run("perplexity_paradox", perplexity=perplexity, **roles).verdict,
    }


def _curve(result: Result) -> pd.DataFrame:
    rows = result.summary()
    rows = rows[(rows["quantity"] == "ppl") & (rows["variant"] == "micro") & (rows["mask"] == "answer")]
    return rows.set_index("step").sort_index()


def _table(swept: dict[str, Result]) -> pd.DataFrame:
    def shown(row: pd.Series) -> str:
        return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"

    return pd.DataFrame({RUNS[run]: _curve(result).apply(shown, axis=1) for run, result in swept.items()})


def _report(store: Store, path: Path) -> None:

    write_report(store, path)
    click.echo(f"Report:  {path}")
