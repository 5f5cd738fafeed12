"""What measuring while it trains costs a run: processor time inside ProbeCallback against the whole of the run.

Runs with and without the callback scatter by 10 % on a shared machine, and starting a trainer takes as long as a short
run, so the callback's own seconds are clocked inside one run, on one thread. What a process loads once is loaded by a
short run before; the first measurement of each counted run is part of what is counted.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

if TYPE_CHECKING:
    import transformers

REPETITIONS, EVERY, BUDGET, WARM_UP = 3, 10, 0.05, 4
STEPS = {"sft": 500, "grpo": 250}
SHAPE: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 512}
ROWS = [{"prompt": f"what is {i} plus 7 ?", "completion": f" ans {i}"} for i in range(16)]
CALLS = ("on_train_begin", "on_step_end", "on_save", "on_train_end")


def measure() -> list[dict[str, Any]]:
    """One row for each of the two trainers."""
    from tests import tiny

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = tiny.save(Path(folder) / "base", **SHAPE)
        rows = [_row(kind, steps, base, Path(folder)) for kind, steps in STEPS.items()]
    torch.set_num_threads(threads)
    return rows


def _row(kind: str, steps: int, base: Path, folder: Path) -> dict[str, Any]:
    _one_run(kind, WARM_UP, base, folder / f"{kind}-warm")
    runs = [_one_run(kind, steps, base, folder / f"{kind}-{number}") for number in range(REPETITIONS)]
    low, middle, high = np.quantile([own / whole for own, whole, _, _ in runs], [0, 0.5, 1])
    _, whole, measured, skipped = runs[-1]
    return {
        "name": f"{kind.upper()}: seconds of ProbeCallback / seconds of the run (CPU time)",
        "ratio": round(float(middle), 4),
        "spread": f"{low:.4f}-{high:.4f}",
        "bound": f"<= {BUDGET:g}",
        "holds": bool(middle <= BUDGET),
        "note": f"budget {BUDGET:.0%}, perplexity of 16 items due at the start and every {EVERY} steps; "
        f"{steps} steps in {whole:.1f} s; {measured} measured, {skipped} skipped; "
        f"{REPETITIONS} runs, spread is their range",
    }


def _one_run(kind: str, steps: int, base: Path, out: Path) -> tuple[float, float, int, int]:
    """(seconds of the callback, of the whole training, steps measured, steps skipped)."""
    import analyses
    from analyses.core.store import Store
    from probe import Prompts
    from probe.training import ProbeCallback

    items = Prompts.of([{"id": str(i), "prompt": r["prompt"], "answer": r["completion"]} for i, r in enumerate(ROWS)])
    watch = ProbeCallback(analyses.live(prompts=items, store=Store(out / "results")), every=EVERY, budget=BUDGET)
    trainer = _trainer(kind, steps, base, out)
    watch.attach(trainer)
    with clocked() as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.thread_time()
        trainer.train()
        whole = time.thread_time() - began
    return sum(own), whole, len(watch.measured), len(watch.skipped)


@contextmanager
def clocked() -> Generator[list[float]]:
    """Seconds of every call of the callback by the trainer."""
    from probe.training import ProbeCallback

    spent, originals = list[float](), {name: getattr(ProbeCallback, name) for name in CALLS}

    def timed(function: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.thread_time() - started)

        return run

    for name, function in originals.items():
        setattr(ProbeCallback, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(ProbeCallback, name, function)


def _trainer(kind: str, steps: int, base: Path, out: Path) -> transformers.Trainer:
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from tests import tiny

    shared: dict[str, Any] = {
        "output_dir": str(out), "per_device_train_batch_size": 4, "max_steps": steps, "save_strategy": "no", "seed": 1,
        "logging_steps": 50, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    model, words = AutoModelForCausalLM.from_pretrained(base), tiny.tokenizer()
    if kind == "sft":
        data = Dataset.from_list(ROWS)
        return trl.SFTTrainer(
            model, args=trl.SFTConfig(max_length=32, **shared), train_dataset=data, processing_class=words
        )
    data = Dataset.from_list([{"prompt": row["prompt"]} for row in ROWS])
    asked = trl.GRPOConfig(num_generations=4, max_completion_length=6, **shared)
    return trl.GRPOTrainer(
        model, reward_funcs=cast("Any", _reward), args=asked, train_dataset=data, processing_class=words
    )


def _reward(completions: list[str], **_: object) -> list[float]:
    return [float(len(c) % 3) for c in completions]
