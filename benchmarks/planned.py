"""What `probe plan` predicts against what a sweep takes, for a dozen analyses and three lengths of a series.

Random Llama-shaped checkpoints on one thread. Both sides are taken one after the other in one process, predicted with
rates measured just before; processor time, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses import sweep
from analyses.core.analysis import checked_options, get
from analyses.core.cost.budget import total
from analyses.core.cost.plan import case_of, plan, sizes
from analyses.core.cost.rates import measured
from benchmarks.scale import checkpoints, one_thread
from benchmarks.sharing import SHAPE, VOCABULARY, prompts
from probe import Checkpoint
from tests import tiny

N_ITEMS, FACTOR, LENGTHS = 64, 1.5, (1, 2, 16)
ANALYSES: dict[str, dict[str, Any]] = {
    "perplexity": {}, "memorization": {"draws": 50}, "logit_lens": {}, "attention_entropy": {}, "attention_length": {},
    "key_size": {}, "divergence": {}, "similarity": {"draws": 20}, "activation_rotation": {"draws": 20},
    "distillation": {}, "reversal": {}, "cross_patching": {"positions": "last_prompt"},
}  # fmt: skip


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        tiny.series(Path(folder) / "large", tuple(range(max(LENGTHS))), **{**SHAPE, "vocab_size": VOCABULARY})  # pyright: ignore[reportArgumentType]
        series = checkpoints(Path(folder), "large", max(LENGTHS))
        took(series[:2], "perplexity", {})  # what is imported at first
        return [*(_of(name, series, options) for name, options in ANALYSES.items()), *map(_long(series), LENGTHS)]


def took(series: Sequence[Checkpoint], name: str, options: dict[str, Any]) -> tuple[float, float]:
    """Seconds predicted and taken."""
    known = {o.name for o in get(name).options}
    given = {n: v for n, v in options.items() if n in known}
    asked: dict[str, Any] = {"checkpoints": series, "prompts": prompts(N_ITEMS), **given}
    size, _ = sizes(series[0])
    case = case_of(size, 1, series[0], prompts(N_ITEMS), checked_options(get(name), given))
    predicted = total(plan(name, rates=measured("float32", "cpu", series[0], case, time.process_time), **asked))
    start = time.process_time()
    sweep(name, **asked)
    return predicted, time.process_time() - start


def _of(name: str, series: Sequence[Checkpoint], options: dict[str, Any]) -> dict[str, Any]:
    return _row(name, [took(series[:3], name, options) for _ in range(3)])


def _long(series: Sequence[Checkpoint]) -> Any:
    return lambda n: _row(f"perplexity, {n} checkpoint(s)", [took(series[:n], "perplexity", {}) for _ in range(2)])


def _row(name: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ratios = [seconds / predicted for predicted, seconds in pairs]
    low, middle, high = (float(x) for x in np.quantile(ratios, [0.25, 0.5, 0.75]))
    predicted, seconds = pairs[-1]
    return {
        "name": f"taken / planned: {name}",
        "ratio": middle,
        "spread": f"{low:.2f}-{high:.2f}",
        "bound": f"{1 / FACTOR:.2f} to {FACTOR:g}",
        "holds": 1 / FACTOR <= middle <= FACTOR,
        "note": f"{N_ITEMS} items; planned {predicted:.1f} s, {seconds:.1f} s of CPU",
    }
