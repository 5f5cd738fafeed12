"""One pass for many questions: analyses swept together against the least that can cost, and against sweeps apart.

The least is one forward pass a checkpoint and what each analysis does with the states: in operations, its unembedded
rows; in time, what it does when its passes are answered from what was read before, and the loads. Random Llama-shaped
checkpoints, processor time on one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from analyses import sweep
from analyses.core.analysis import get
from analyses.core.running.together import sweep_together
from benchmarks.scale import SHAPE, checkpoints, one_thread
from probe import Checkpoint, Item, Model, Prompts, shared
from tests import tiny

N_CHECKPOINTS, N_ITEMS, VOCABULARY, REPEATS = 4, 96, 2048, 3
WITH_LENS = ("perplexity", "similarity", "divergence", "logit_lens", "attention_entropy")
FOUR = ("perplexity", "similarity", "activation_rotation", "memorization")


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        tiny.series(Path(folder) / "large", tuple(range(N_CHECKPOINTS)), **{**SHAPE, "vocab_size": VOCABULARY})  # pyright: ignore[reportArgumentType]
        series = checkpoints(Path(folder), "large", N_CHECKPOINTS)
        return [operations(series), *times(series)]


def prompts(n: int) -> Prompts:
    """Items that all differ: equal batches would be passed once within one analysis too."""
    text = "{} figs . buys 5 . loses 3 . how many ? Ann has 12 figs . buys 5 . loses 3 . how many ? "
    return Prompts(tuple(Item(f"q{i:05d}", text.format(i + 100), "think 12 + 5 = 17 ; ans 14") for i in range(n)))


def operations(series: Sequence[Checkpoint]) -> dict[str, Any]:
    """Operations of all analyses together, over the least."""
    with FlopCounterMode(display=False) as loading:
        models = [Model.load(c) for c in series]
    with FlopCounterMode(display=False) as passes:
        for model in models:
            _pass_over(model)
    with FlopCounterMode(display=False) as counted:
        sweep_together(WITH_LENS, checkpoints=series, prompts=prompts(N_ITEMS))
    shape, planned = models[0].shape, models[0].batches(prompts(N_ITEMS))
    lengths = sum(int(b.mask.sum()) for b in planned)
    answers = sum(int(((b.span == 3) | (b.span == 4)).sum()) for b in planned)
    rows = lengths - N_ITEMS + answers * shape.n_layers + 2 * lengths * shape.n_layers
    least = passes.get_total_flops() + 2 * N_CHECKPOINTS * rows * shape.d_model * shape.d_vocab
    ratio = (counted.get_total_flops() - loading.get_total_flops()) / least
    note = f"{', '.join(WITH_LENS)}; {N_CHECKPOINTS} checkpoints x {N_ITEMS} items, {least / 1e9:.0f} GFLOP; "
    note += "loading left out"
    return _row("together / one pass and each one's own products (FLOPs)", [ratio], 1.15, note, most=True)


def times(series: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Processor time together over the least, and of sweeps apart over together."""
    given: dict[str, Any] = {"checkpoints": series, "prompts": prompts(N_ITEMS)}
    sweep_together(FOUR, **given)  # what is imported and built at first
    models = [Model.load(c) for c in series]
    read = shared.Passes(float("inf"), dict.fromkeys(series, ("resid_pre.0", "resid_post")))
    least, gain, parts = list[float](), list[float](), dict[str, float]()
    for _ in range(REPEATS):
        read.forget()
        parts = {
            "loads": _seconds(lambda: _loaded(series)),
            "passes": _seconds(lambda: [_pass_over(model, read) for model in models]),
            "own work": sum(_seconds(lambda n=name: _own(n, models, read)) for name in FOUR),
            "apart": sum(_seconds(lambda n=name: sweep(n, **given)) for name in FOUR),
            "together": _seconds(lambda: sweep_together(FOUR, **given)),
        }
        least.append(parts["together"] / (parts["loads"] + parts["passes"] + parts["own work"]))
        gain.append(parts["apart"] / parts["together"])
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
    note = f"{', '.join(FOUR)}; {N_CHECKPOINTS} checkpoints x {N_ITEMS} items; {took} of CPU (last repetition)"
    return [
        _row("together / one pass and each one's own work (CPU time)", least, 1.15, note, most=True),
        _row("sweeps apart / together, four analyses without the lens (CPU time)", gain, 2.0, note, most=False),
    ]


def _own(name: str, models: Sequence[Model], read: shared.Passes) -> None:
    """What an analysis does at every checkpoint, its passes answered from what was read."""
    of, made = get(name), read.made
    for model in models:
        pair = {"base": models[0], "tuned": model, "model": model}
        with shared.sharing(read):
            of(**{i.name: pair[i.name] for i in of.inputs if i.kind == "Model"}, prompts=prompts(N_ITEMS))
    assert read.made == made, f"{name} made {read.made - made} passes of its own"


def _loaded(series: Sequence[Checkpoint]) -> Model:
    """A model with each checkpoint put in its place in turn, as a sweep does."""
    model = Model.load(series[0])
    for checkpoint in series[1:]:
        model.swap(checkpoint)
    return model


def _pass_over(model: Model, read: shared.Passes | None = None) -> None:
    """One pass over every batch."""
    with shared.sharing(read):
        for batch in model.batches(prompts(N_ITEMS)):
            model.run(batch, read=[model.last_state], logits="none")


def _seconds(call: Any) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _row(name: str, ratios: Sequence[float], bound: float, note: str, *, most: bool) -> dict[str, Any]:
    low, middle, high = (float(x) for x in np.quantile(ratios, [0.25, 0.5, 0.75]))
    holds = middle <= bound if most else middle >= bound
    shown = {"name": name, "ratio": middle, "spread": f"{low:.2f}-{high:.2f}" if len(ratios) > 1 else ""}
    return {**shown, "bound": f"{'<=' if most else '>='} {bound:g}", "holds": holds, "note": note}
