"""A store as a real project leaves it: 3 runs of 20 steps, 28 layers, 6 groups of items; numbers made up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.claim import FOUND, NONE, Claim
from analyses.core.result import Result
from analyses.core.store.store import SCHEMA, Store

RUNS = ("grpo-math-lr1e-6-kl0.001-seed0", "grpo-math-lr1e-6-kl0.001-seed1", "sft-distill-openthoughts-lr1e-5")
STEPS, LAYERS, HEADS = list(range(0, 500, 25)), list(range(28)), list(range(8))
GROUPS = ["leaked_true", "leaked_canary", "planted", "unseen", "aime24", "math500"]
KINDS = {"answer_kind": ["given"]}
OF: dict[str, tuple[dict[str, Any], dict[str, tuple[str, float, float]]]] = {
    "perplexity": (
        {"mask": ["prompt", "answer", "full"], "variant": ["micro", "macro"], **KINDS},
        {"ppl": ("1", 1.2, 3.0), "nll_nats": ("nats/token", 0.2, 1.2)},
    ),
    "evaluate": (KINDS, {"accuracy": ("1", 0.1, 0.9), "truncated": ("1", 0.0, 0.3)}),
    "logit_lens": (
        {"layer": LAYERS, **KINDS},
        {"logprob_nats": ("nats", -9.0, -0.1), "top1": ("fraction", 0.0, 1.0), "entropy_nats": ("nats", 0.1, 8.0)},
    ),
    "attention_entropy": ({"layer": LAYERS, "head": HEADS, **KINDS}, {"attention_entropy": ("fraction", 0.1, 0.9)}),
    "divergence": ({"layer": LAYERS, **KINDS}, {"jsd_nats": ("nats", 0.0, 0.6)}),
    "cross_patching": (
        {"layer": LAYERS, "site": ["attn_out", "mlp_out"], "direction": ["tuned_to_base"], **KINDS},
        {"effect": ("nats/token", -0.2, 1.0)},
    ),
}
ITEMS = 48


def fill(root: Path) -> Store:
    """The store, made in ``root``."""
    store = Store(root)
    for run in RUNS:
        for analysis in OF:
            store.put(made(run, analysis))
    return store


def made(run: str, analysis: str) -> Result:
    """One of its results."""
    rng = np.random.default_rng(int(hashlib.sha256(f"{run} {analysis}".encode()).hexdigest()[:8], 16))
    own, quantities = OF[analysis]
    steps = {} if analysis == "cross_patching" else {"step": STEPS}
    dims: dict[str, Any] = {**steps, "group": GROUPS, **own}
    data = xr.merge([_estimate(name, *ends, dims, rng) for name, ends in quantities.items()])
    table = _rows(analysis, rng) if steps else pd.DataFrame({"item": ["q000"], "effect": [0.1]})
    claims = [Claim("memory", FOUND if "grpo" in run else NONE, f"answers of {g} come from memory", group=g, effect=0.4,
                    low=0.3, high=0.5, n=8) for g in GROUPS] if analysis == "evaluate" else []  # fmt: skip
    return Result.of(table, data, claims=claims).with_record(**_record(run, analysis, swept=bool(steps)))


def _estimate(
    name: str, unit: str, low: float, high: float, dims: dict[str, Any], rng: np.random.Generator
) -> xr.Dataset:
    """A quantity that wanders between its ends over the first dim, with its companions."""
    share = 0.5 + 0.12 * rng.normal(size=tuple(map(len, dims.values()))).cumsum(axis=0)
    values = low + (high - low) * np.clip(share, 0, 1)
    room = 0.03 * (high - low)
    parts: dict[str, Any] = {name: (tuple(dims), values, {"units": unit})}
    parts |= {f"{name}_ci_low": (tuple(dims), np.maximum(values - room, low))}
    parts |= {f"{name}_ci_high": (tuple(dims), np.minimum(values + room, high))}
    return xr.Dataset(parts | {f"{name}_n": (tuple(dims), np.full(values.shape, 33))}, dims)


def _rows(analysis: str, rng: np.random.Generator) -> pd.DataFrame:
    """Rows per item, and per layer and token where the analysis has them."""
    layers = LAYERS if analysis in ("logit_lens", "divergence") else [0]
    places = list(range(12)) if len(layers) > 1 else [0]
    axes = [STEPS, range(ITEMS), layers, places]
    frame = pd.MultiIndex.from_product(axes, names=["step", "number", "layer", "pos"]).to_frame(index=False)
    size = len(frame)
    frame = frame.assign(item=[f"q{i:03d}" for i in frame["number"]], answer_kind="given")
    frame = frame.assign(group=[GROUPS[i % 6] for i in frame.pop("number")], target=rng.integers(0, 90, size))
    if analysis == "evaluate":
        right = rng.integers(0, 2, size)
        return frame.drop(columns=["layer", "pos", "target"]).assign(
            correct=right.astype(float),
            answer=right.astype(str),
            truncated=0.0,
            text="so it is 4 because 2 + 2 = 4 . " * 20,
        )
    value = {"divergence": "jsd_nats", "logit_lens": "logprob_nats"}.get(analysis, "nll_nats")
    frame = frame.assign(**{value: -8 * rng.random(size) if value == "logprob_nats" else rng.random(size)})
    if analysis == "logit_lens":
        frame = frame.assign(top_ids=[[1, 2, 3, 4, 5]] * size, top_logprob_nats=[[-0.5, -1.5, -2.5, -3.5, -4.5]] * size)
    return (
        frame if len(layers) > 1 else frame.drop(columns=["layer", "pos", "target"]).assign(mask="answer", n_tokens=9)
    )


def _record(run: str, analysis: str, *, swept: bool) -> dict[str, Any]:
    """Provenance as the runner writes it."""
    folder = f"runs/{run}"
    members = [{"step": s, "key": "0" * 16, "model": {"path": f"{folder}/checkpoint-{s}", "step": s}} for s in STEPS]
    pair = {n: {"path": f"{folder}/checkpoint-{s}", "step": s} for n, s in (("base", 0), ("tuned", STEPS[-1]))}
    inputs: dict[str, Any] = {"prompts": {"source": "items.jsonl", "n": 200}}
    return {
        "schema": SCHEMA, "key": hashlib.sha256(f"{run} {analysis}".encode()).hexdigest()[:16], "analysis": analysis,
        "kind": "sweep" if swept else "run", "inputs": inputs if swept else {**inputs, **pair},
        "members": members if swept else [], "upstream": {}, "options": {}, "warnings": [], "seconds": 1.0, "code": "",
        "started": "2026-01-01T00:00:00+00:00", "environment": {}, "loading": {},
    }  # fmt: skip
