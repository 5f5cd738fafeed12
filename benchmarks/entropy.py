"""Rollout columns at a 152k vocabulary against the plain forward pass, and a million-token log from disk to figure."""

from __future__ import annotations

import resource
import statistics as st
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LAYERS = 4  # of Qwen2.5-0.5B's 24: fewer layers make the head's share larger and the bound harder
ITEMS, PROMPT, RESPONSE, VOCAB = 4, 8, 56, 151_936
REPEATS = 5
TOKENS = 1_000_000


def measure() -> list[dict[str, Any]]:
    """Cost of recomputing columns, its memory, and seconds for a million-token log."""
    with tempfile.TemporaryDirectory() as folder:
        return [*columns(), *million(Path(folder))]


def qwen_slice() -> Any:
    """A random model of Qwen2.5-0.5B's widths and vocabulary with `LAYERS` blocks, in the toolkit's handle."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from probe import Model
    from probe.backends import wrap
    from tests import tiny

    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=896, intermediate_size=4864, num_hidden_layers=LAYERS, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    tokenizer = tiny.tokenizer("qwen2")
    return Model(wrap("transformer_lens", model), tokenizer)


def log(n: int, prompt: int, response: int, seed: int = 0) -> list[dict[str, Any]]:
    """Responses of random ids, all of one length, all tokens counted."""
    rng = np.random.default_rng(seed)
    return [
        {
            "step": 0,
            "prompt_id": f"q{i}",
            "prompt_token_ids": rng.integers(3, 300, prompt).astype(np.int32),
            "response_token_ids": rng.integers(3, 300, response).astype(np.int32),
        }
        for i in range(n)
    ]


def columns() -> list[dict[str, Any]]:
    """Recomputing all columns, over a forward pass that makes the logits of the same positions."""
    from probe import Rollouts
    from probe.recompute import response_batches, statistics, token_values

    model, rollouts = qwen_slice(), Rollouts.of(log(ITEMS, PROMPT, RESPONSE))
    _, table = next(rollouts.windows(["prompt_token_ids", "response_token_ids"]))
    (batch,) = response_batches(model, table, ITEMS)

    def plain() -> None:
        model.run(batch, logits="all")

    def ours() -> None:
        list(token_values([model], rollouts, lambda z, t: statistics(z[0], t), batch_size=ITEMS))

    def naive() -> None:
        logits = model.run(batch, logits="all").logits
        assert logits is not None
        logp = logits.log_softmax(-1)
        p = logp.exp()
        for value in (p * logp, p * p, p * p * logp):
            value.sum(-1)
        logp.amax(-1)

    ratio, spread = compared(ours, plain)
    against, wide = compared(ours, naive)
    peak = extra_memory(ours)
    full = ITEMS * (PROMPT + RESPONSE) * VOCAB * 4 / 2**20
    size = f"{LAYERS} layers of Qwen2.5-0.5B's shape, {ITEMS} x {PROMPT + RESPONSE} tokens, vocabulary {VOCAB}"
    return [
        {"name": "columns of a log / forward with head", "ratio": ratio, "spread": spread, "bound": "<= 1.6",
         "holds": ratio <= 1.6, "note": size},
        {"name": "columns of a log / the same from full logits", "ratio": against, "spread": wide, "bound": "",
         "holds": None, "note": "whole log-softmax of the batch, as trainers compute it"},
        {"name": "logits held at once / logits of the batch", "ratio": peak / full, "spread": 0.0, "bound": "< 0.5",
         "holds": peak < 0.5 * full, "note": f"largest tensors alive {peak:.0f} MB, batch's logits {full:.0f} MB"},
    ]  # fmt: skip


def compared(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """Median and interquartile range of the ratio of CPU times on one thread, interleaved after one warm-up."""
    import torch

    # On one thread CPU seconds are the work done: they hold on a machine that others use too.
    torch.set_num_threads(1)
    first(), second()
    ratios = []
    for _ in range(REPEATS):
        seconds = []
        for run in (first, second):
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
        ratios.append(seconds[0] / seconds[1])
    low, _, high = st.quantiles(ratios, n=4)
    return st.median(ratios), high - low


def extra_memory(run: Callable[[], None]) -> float:
    """Bytes of vocabulary-wide tensors alive at once at most during a run, in MB."""
    from torch.utils._python_dispatch import TorchDispatchMode

    alive: dict[int, int] = {}
    worst = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            import weakref

            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else (out,):
                if getattr(value, "ndim", 0) >= 2 and value.shape[-1] == VOCAB and value.shape[0] != 896:
                    store = value.untyped_storage()
                    key = store.data_ptr()
                    if key not in alive:
                        alive[key] = store.nbytes()
                        weakref.finalize(value, alive.pop, key, None)
                        worst[0] = max(worst[0], sum(alive.values()))
            return out

    with Watch():
        run()
    return worst[0] / 2**20


def million(folder: Path) -> list[dict[str, Any]]:
    """Seconds to read, filter and draw a log of a million response tokens with entropies, log-probs and advantages."""
    file = write_million(folder / "log.parquet")
    from analyses.core.figures import curve
    from analyses.core.stats import estimate
    from probe import Rollouts

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        rollouts = Rollouts.read(file)
        parts = [
            frame[frame["advantage"] > 0].groupby(["step", "item"], as_index=False)["H"].mean()
            for frame in rollouts.tokens(["H", "advantage", "old_logp"])
        ]
        import pandas as pd

        rows = estimate(pd.concat(parts), "H", ["step"], units="nats", draws=500)
        from analyses.core.result import Result

        summary = Result.of(pd.DataFrame(), rows).summary()
        curve(summary, title="Entropy of tokens with positive advantage").to_json()
        seconds.append(time.perf_counter() - start)
    low, _, high = st.quantiles(seconds, n=4)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        {
            "name": "million-token log: read, filter, draw (seconds)",
            "ratio": st.median(seconds),
            "spread": high - low,
            "bound": "<= 10 s",
            "holds": st.median(seconds) <= 10,
            "note": f"{TOKENS:,} tokens in {len(rollouts):,} responses of 50 steps; process peak {peak:.1f} GB in all",
        }
    ]


def write_million(file: Path) -> Path:
    """A Parquet log of a million response tokens: 5,000 responses, 50 steps, in row groups of 500."""
    rng = np.random.default_rng(0)
    n, length = 5000, TOKENS // 5000
    offsets = pa.array(np.arange(n + 1) * length, pa.int32())

    def lists(values: np.ndarray) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    table = pa.table(
        {
            "step": np.repeat(np.arange(50), n // 50),
            "prompt_id": [f"q{i % 25}" for i in range(n)],
            "group_uid": [f"{i // 100}-{i % 25}" for i in range(n)],
            "prompt_token_ids": [[1, 2, 3]] * n,
            "response_token_ids": lists(rng.integers(0, 150_000, TOKENS).astype(np.int32)),
            "response_mask": lists(np.ones(TOKENS, bool)),
            "advantage": rng.normal(size=n).astype(np.float32),
            "old_logp": lists(-rng.exponential(size=TOKENS).astype(np.float32)),
            "H": lists(rng.exponential(size=TOKENS).astype(np.float32)),
            "logp_temperature": np.ones(n, np.float32),
        }
    )
    pq.write_table(table, file, row_group_size=500)
    return file


if __name__ == "__main__":
    for row in measure():
        print(row)
