"""Logit lens at a 152k vocabulary: time against its matrix products alone, memory against materialising.

Least work: rows x d_model x vocab multiply-adds (2 FLOPs each); every other step is a pass over one chunk of logits.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

N_LAYERS, N_TOKENS, D_MODEL, D_VOCAB, TOP_K, REPEATS = 8, 128, 896, 151_936, 5, 5

# The kernel's high-water mark is reset first: a child inherits its parent's in getrusage.
PEAK = """
import re, sys, torch
from pathlib import Path
from benchmarks.lens import materialised, inputs
from analyses.core.reading.readouts import streamed
def kib(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
torch.set_num_threads(1)
rows, unembed, targets = inputs()
start = kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
materialised(rows, unembed, targets) if sys.argv[1] == "materialised" else streamed(rows, unembed, targets, k=5)
print(kib("VmHWM") - start)
"""


def inputs() -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Residual rows of all layers, an unembedding with a final norm, and the targets."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(D_VOCAB, D_MODEL, generator=rng).mul_(0.02)  # in place: no second copy in the peak
    rows = torch.randn(N_LAYERS * N_TOKENS, D_MODEL, generator=rng)
    targets = torch.randint(D_VOCAB, (len(rows),), generator=rng)

    def unembed(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (D_MODEL,)) @ weight.T

    return rows, unembed, targets


def materialised(rows: torch.Tensor, unembed: Any, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same quantities from logits held all at once, as one would write them first."""
    logp = unembed(rows).log_softmax(-1)
    chosen = logp.gather(-1, targets[:, None])
    entropy = -(logp.exp() * logp).sum(-1)
    return chosen, (logp > chosen).sum(-1), entropy, *logp.topk(TOP_K, -1)


def peak(which: str) -> int:
    """Growth of the peak resident set, in KiB, in a process of its own."""
    return int(subprocess.run([sys.executable, "-c", PEAK, which], capture_output=True, text=True, check=True).stdout)


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    from analyses.core.reading.readouts import row_chunks, streamed

    rows, unembed, targets = inputs()
    times: dict[str, list[float]] = {"lens": [], "products": []}
    for _ in range(REPEATS):
        start = time.perf_counter()
        for chunk in row_chunks(len(rows)):
            unembed(rows[chunk])
        middle = time.perf_counter()
        streamed(rows, unembed, targets, k=TOP_K)
        times["products"].append(middle - start)
        times["lens"].append(time.perf_counter() - middle)
    ratios = np.array(times["lens"]) / np.array(times["products"])
    low, high = np.quantile(ratios, [0.25, 0.75])
    flops = 2 * len(rows) * D_MODEL * D_VOCAB
    rate = flops / np.median(times["products"]) / 1e9
    memory = peak("streamed") / peak("materialised")
    work = f"{N_LAYERS} layers x {N_TOKENS} tokens, d {D_MODEL}, vocabulary {D_VOCAB}, top {TOP_K}"
    return [
        {
            "name": "logit lens / its matrix products (time)",
            "ratio": float(np.median(ratios)),
            "spread": f"{low:.2f}-{high:.2f}",
            "bound": "<= 2",
            "holds": bool(np.median(ratios) <= 2),
            "note": f"{work}; least work {flops / 1e9:.0f} GFLOP, products run at {rate:.0f} GFLOP/s",
        },
        {
            "name": "logit lens / materialising all logits (peak memory)",
            "ratio": memory,
            "spread": "",
            "bound": "<= 0.1",
            "holds": memory <= 0.1,
            "note": f"{work}; growth of peak resident set, each in its own process",
        },
    ]
