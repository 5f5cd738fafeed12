"""`probe demo`: train the tiny lab if it is not there, sweep its checkpoints, show what came out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pandas as pd

from analyses.core.result import Result
from analyses.core.run import run
from analyses.core.store import Store
from analyses.core.sweep import sweep
from probe import Prompts
from probe.errors import InputError, ProbeError

RUNS = {"sft-high": "fine-tuning at 2e-3", "sft-low": "fine-tuning at 1e-4"}
GRADED: dict[str, Any] = {
    "grade": "exact",
    "pattern": r"^(?:think .*; )?ans (\d+)$",
    "max_new_tokens": 44,
    "batch_size": 64,
}
CHECKOUT = Path(__file__).resolve().parent.parent
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
    click.echo(f"\n{_reading(swept)}\n")
    for name, result in _questions(folder, swept, store).items():
        click.echo(f"{name}: {result.verdict}\n")
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


def _questions(folder: Path, swept: dict[str, Result], store: Store) -> dict[str, Result]:
    """Which run memorized, since when and what to ship; and where the planted memory sits."""
    found: dict[str, Result] = {}
    for name, perplexity in swept.items():
        prompts = folder / "sft_test.jsonl"
        graded = sweep("evaluate", checkpoints=folder / name, prompts=prompts, store=store, **GRADED)
        inputs: dict[str, Any] = {"perplexity": perplexity, "evaluate": graded}
        found[RUNS[name]] = run("over_memorization", **inputs, unparsed="wrong", store=store)
    before, *_, after = sorted((folder / "planted").glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
    prompts = Prompts.read(folder / "prompts.jsonl").where(group="planted", answer_kind="gold_final")
    found["planted memory"] = run("cross_patching", base=before, tuned=after, prompts=prompts, store=store)
    return found


def _curve(result: Result) -> pd.DataFrame:
    rows = result.summary()
    rows = rows[(rows["quantity"] == "ppl") & (rows["variant"] == "micro") & (rows["mask"] == "answer")]
    return rows.set_index("step").sort_index()


def _table(swept: dict[str, Result]) -> pd.DataFrame:
    def shown(row: pd.Series) -> str:
        return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"

    return pd.DataFrame({RUNS[run]: _curve(result).apply(shown, axis=1) for run, result in swept.items()})


def _reading(swept: dict[str, Result]) -> str:
    """One sentence a run: did the perplexity end outside the interval of its minimum?"""
    lines: list[str] = []
    for name, result in swept.items():
        curve = _curve(result)
        best, last = curve.iloc[int(curve["value"].argmin())], curve.iloc[-1]
        rose = bool(last["ci_low"] > best["ci_high"])
        lines.append(
            f"{RUNS[name]}: {'rises' if rose else 'no rise found'} "
            f"(lowest {best['value']:.3f} at step {best.name}, last {last['value']:.3f} at step {last.name})"
        )
    return "\n".join(lines)


def _report(store: Store, path: Path) -> None:
    from apps.report import write_report

    write_report(store, path)
    click.echo(f"Report:  {path}")
