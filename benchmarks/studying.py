"""A study against the same analyses one by one, where loading is at least half of what these take.

Least work: each checkpoint is read once, and each analysis computes what it computes alone. Processor time on one
thread; large weights and one or two items, so that loading is what the comparison is about.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import analyses
from analyses.core.result import Result
from analyses.core.running.inputs import ModelPool
from analyses.core.running.study.study import study
from analyses.core.store import Store
from probe import Checkpoint, Prompts

REPETITIONS, BOUND, HALF, ITEMS = 3, 0.6, 0.5, (1, 2)
SHAPE: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
OPTIONS: dict[str, Any] = {"max_new_tokens": 1, "batch_size": 2}
NAMES = ("perplexity", "evaluate", "logit_lens", "divergence", "weight_drift")


def measure() -> list[dict[str, Any]]:
    """A row for one item and one for two: a study over the same one by one, and the share of loading in the latter."""
    from tests import tiny

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    items = tiny.twelve_items()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = tiny.series(root / "run", steps=(0, 10, 20), **SHAPE)
        # Imports and hashes are not what is compared.
        study(run, prompts=items.limit(1), store=Store(root / "warm"), questions=["ship"], options=OPTIONS)
        rows = [_row(run, items.limit(count), root / str(count)) for count in ITEMS]
    torch.set_num_threads(threads)
    return rows


def _row(run: Path, items: Prompts, root: Path) -> dict[str, Any]:
    times = np.array([_compared(run, items, root / str(number)) for number in range(REPETITIONS)])
    ratios, shares = times[:, 0] / times[:, 1], times[:, 2] / times[:, 1]
    together, alone = np.median(times[:, :2], axis=0)
    told = f"{together:.1f} against {alone:.1f} s, of which loading {shares.min():.0%}-{shares.max():.0%}"
    judged = {"bound": f"<= {BOUND:g}", "holds": bool(np.median(ratios) <= BOUND)} if shares.min() >= HALF else {}
    return {
        "name": f"a study / the same analyses one by one (CPU time), {len(items)} items",
        "ratio": round(float(np.median(ratios)), 3),
        "spread": f"{ratios.min():.3f}-{ratios.max():.3f}",
        **judged,
        "note": f"{told}; llama, {SHAPE['num_hidden_layers']} layers, d {SHAPE['hidden_size']}, three checkpoints; "
        f"{REPETITIONS} repetitions, spread is their range; bounded where loading is at least half",
    }


def _compared(run: Path, items: Prompts, root: Path) -> tuple[float, float, float]:
    """Seconds of the study, of the analyses one by one, and of loading in the latter."""
    began = time.process_time()
    found = study(run, prompts=items, store=Store(root / "study"), questions=["ship", "where"], options=OPTIONS)
    together = time.process_time() - began
    pair = found["run"].results["cross_patching"].record["inputs"]
    swept = dict[str, Result]()
    with loading() as spent:
        began = time.process_time()
        for name in NAMES:
            own = {k: v for k, v in OPTIONS.items() if k in {o.name for o in analyses.get(name).options}}
            given: dict[str, Any] = own | ({} if name == "weight_drift" else {"prompts": items})
            swept[name] = analyses.sweep(name, checkpoints=run, store=Store(root / "alone"), **given)
        curves: dict[str, Any] = {name: swept[name] for name in ("perplexity", "evaluate")}
        analyses.run("over_memorization", store=Store(root / "alone"), **curves)
        models = {side: pair[side]["path"] for side in ("base", "tuned")}
        analyses.run("cross_patching", prompts=items, positions="all", store=Store(root / "alone"), **models, **OPTIONS)
        alone = time.process_time() - began
    return together, alone, sum(spent)


@contextmanager
def loading() -> Generator[list[float]]:
    """Processor seconds of every checkpoint that is loaded."""
    spent, read = list[float](), ModelPool.get

    def timed(self: ModelPool, slot: str, checkpoint: Checkpoint) -> Any:
        started = time.process_time()
        try:
            return read(self, slot, checkpoint)
        finally:
            spent.append(time.process_time() - started)

    ModelPool.get = timed
    try:
        yield spent
    finally:
        ModelPool.get = read
