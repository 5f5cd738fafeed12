"""A model of 7B's shape on a CPU, streamed from its files: memory that is the process's own, and time.

Weights are random bfloat16 (numbers of one pool, cut at other places for every matrix): 28 blocks of Qwen2.5-7B's
shape, a vocabulary of 152,064, untied: 15.2 GB on disk. The same code path equals plain transformers at small size in
`tests/probe/test_streaming.py`. Own memory is RssAnon, looked at ten times a second in a process that does one
analysis; pages of the files are not in it (the kernel takes them back whenever it needs them).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from analyses import run
from analyses.core.running.inputs import Loading
from probe import Prompts
from tests import tiny

LIMIT_GB, POOL, N_ITEMS, N_WORDS = 6.0, 140_000_001, 4, 64
SHAPE = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark: one an analysis, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = saved(Path(folder) / "seven")
        return [_row(root, name) for name in ("perplexity", "logit_lens")]


def saved(folder: Path, **changes: int) -> Path:
    """A folder of random weights, written block by block."""
    folder.mkdir()
    config = AutoConfig.for_model("qwen2", **(SHAPE | changes), dtype="bfloat16")
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    tiny.tokenizer("qwen2").save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    pool = (torch.randn(POOL, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    lots: dict[str, dict[str, torch.Size]] = {}
    for name, shape in shapes.items():
        block = re.search(r"layers\.(\d+)\.", name)
        lots.setdefault(f"model-{block[1] if block else 'ends'}.safetensors", {})[name] = shape
    index = {name: file for file, lot in lots.items() for name in lot}
    for number, (file, lot) in enumerate(lots.items()):
        values = {n: _values(pool, s, 1009 * number + k) for k, (n, s) in enumerate(lot.items())}
        save_file(values, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _values(pool: torch.Tensor, shape: torch.Size, start: int) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    n, start = shape.numel(), start % (len(pool) // 2)
    if start + n > len(pool):
        pool = pool.repeat(-(-(start + n) // len(pool)))
    return pool[start : start + n].clone().view(shape)


def _row(root: Path, name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks._streamed", str(root), name]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    return {
        "name": f"{name}, own memory in GB",
        "ratio": told["gigabytes"],
        "spread": None,
        "bound": f"<= {LIMIT_GB:g}",
        "holds": told["gigabytes"] <= LIMIT_GB,
        "note": f"7B shape, bf16, {N_ITEMS} x {told['tokens']} tokens, device stream: {told['seconds']:.0f} s "
        f"({told['threads']} threads); largest resident size with file pages {told['resident']:.1f} GB",
    }


def analysed(root: Path, name: str) -> dict[str, float]:
    """Peak of this process's own memory (GB) while it does one analysis, and what else is told of it."""
    text = " ".join(["what is 3 plus 7 and how many are left"] * 9)
    items = [{"id": str(i), "prompt": f"{i} {text}"[:-10], "answer": " the quick brown fox"} for i in range(N_ITEMS)]
    prompts, peak, done = Prompts.of(items), {"RssAnon": 0, "VmRSS": 0}, threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            for key, value in re.findall(r"(RssAnon|VmRSS):\s+(\d+)", Path("/proc/self/status").read_text()):
                peak[key] = max(peak[key], int(value))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    start = time.perf_counter()
    result = run(name, model=root, prompts=prompts, loading=Loading(dtype="bfloat16", device="stream"))
    done.set()
    watcher.join()
    assert len(result.table)
    return {
        "gigabytes": peak["RssAnon"] * 1024 / 1e9, "resident": peak["VmRSS"] * 1024 / 1e9,
        "seconds": time.perf_counter() - start, "threads": torch.get_num_threads(), "tokens": N_WORDS,
    }  # fmt: skip
