"""The handle against plain transformers: reading, steering, generating, going to the next checkpoint.

Least work: reading and steering add no arithmetic to a forward pass; a swap has to read every parameter once.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

N_LAYERS, D_MODEL, D_VOCAB, N_ITEMS, N_TOKENS, N_NEW, REPEATS = 6, 256, 8000, 8, 64, 32, 11

Step = Callable[[], object]


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [*_reading(root), *_generating(root, "eager"), *_generating(root, "sdpa"), *_next_checkpoint(root)]


def _saved(folder: Path, family: str, seed: int = 0) -> Path:
    """Folder of a random model of a size where arithmetic outweighs calls."""
    from tests import tiny

    built = tiny.model(
        family, seed=seed, vocab_size=D_VOCAB, max_position_embeddings=256, eos_token_id=None,
        **({"n_layer": N_LAYERS, "n_embd": D_MODEL} if family == "gpt2" else {
            "num_hidden_layers": N_LAYERS, "hidden_size": D_MODEL, "intermediate_size": 704,
            **({} if family == "gpt_neox" else {"num_attention_heads": 8, "head_dim": 32}),
        }),
    )  # fmt: skip
    built.save_pretrained(folder)
    tiny.tokenizer(family).save_pretrained(folder)
    return folder


def _row(name: str, ours: Step, theirs: Step, bound: float, note: str, repeats: int = REPEATS) -> dict[str, Any]:
    """Median ratio of interleaved repetitions, after one of each to warm up."""
    times = np.array([[_timed(theirs), _timed(ours)] for _ in range(repeats + 1)])[1:]
    ratios = times[:, 1] / times[:, 0]
    low, high = np.quantile(ratios, [0.25, 0.75])
    median = float(np.median(ratios))
    peer = 1e3 * float(np.median(times[:, 0]))
    return {
        "name": name,
        "ratio": median,
        "spread": f"{low:.2f}-{high:.2f}",
        "bound": f"<= {bound:g}",
        "holds": median <= bound,
        "note": f"{note}; peer {peer:.0f} ms of CPU",
    }


def _timed(step: Step) -> float:
    """CPU seconds (one thread, files in the page cache): what other processes take is not ours."""
    gc.collect()
    start = time.process_time()
    step()
    return time.process_time() - start


def _reading(root: Path) -> list[dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    from probe import Item, Model
    from probe.tokens import SPANS, Encoded, plan

    folder = _saved(root / "llama", "llama")
    ids = torch.randint(D_VOCAB, (N_ITEMS, N_TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
    prompt = SPANS.index("prompt")
    encoded = [Encoded(Item(str(i), "-", "-"), tuple(row), (prompt,) * N_TOKENS) for i, row in enumerate(ids)]
    (batch,) = plan(encoded, N_ITEMS)
    work = f"llama, {N_LAYERS} layers, d {D_MODEL}, vocabulary {D_VOCAB}, {N_ITEMS} x {N_TOKENS} tokens, fp32"
    rows: list[dict[str, Any]] = []
    for kernel in ("eager", "sdpa"):
        plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kernel).eval()
        model = Model.load(folder, attn_implementation=kernel, check=False)
        sites = model.sites("resid_post")

        def forward(plain: Any = plain) -> object:
            with torch.no_grad():
                return plain(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False)

        def read(model: Any = model, sites: Any = sites) -> object:
            return model.run(batch, sites)

        rows.append(_row(f"resid_post of all layers / plain forward ({kernel})", read, forward, 1.15, work))
    return rows


def _generating(root: Path, kernel: str) -> list[dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    from probe import Model, Prompts, add

    folder = root / "llama"
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kernel).eval()
    model = Model.load(folder, attn_implementation=kernel, check=False)
    model.eos_ids = frozenset()  # both generate every token asked for
    prompts = Prompts.of(
        [{"id": str(i), "prompt": f"what is {i} plus 7 ?" + " how many" * i, "answer": "-"} for i in range(N_ITEMS)]
    )
    (batch,) = model.batches(prompts)
    kept = batch.span == 2
    width = int(kept.sum(-1).max())
    ids = torch.zeros(N_ITEMS, width, dtype=torch.long)
    mask = torch.zeros(N_ITEMS, width, dtype=torch.long)
    for row in range(N_ITEMS):
        n = int(kept[row].sum())
        ids[row, width - n :], mask[row, width - n :] = batch.ids[row][kept[row]], 1
    steer = [add("resid_post.2", torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1)) * 0.1)]

    def theirs() -> object:
        with torch.no_grad():
            return plain.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=N_NEW, min_new_tokens=N_NEW, do_sample=False,
                pad_token_id=0,
            )  # fmt: skip

    def ours() -> object:
        return model.generate(prompts, max_new_tokens=N_NEW)

    def steered() -> object:
        return model.generate(prompts, max_new_tokens=N_NEW, edits=steer)

    work = f"llama, {N_LAYERS} layers, d {D_MODEL}, {N_ITEMS} prompts, {N_NEW} new tokens, greedy, {kernel}"
    return [
        _row(f"steered / unsteered generation ({kernel})", steered, ours, 1.1, work),
        _row(f"generation / transformers' generate ({kernel})", ours, theirs, 1.0, work),
    ]


def _next_checkpoint(root: Path) -> list[dict[str, Any]]:
    """Proof and fingerprint apart: hashes are on disk already, and no proof is run."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from probe import Model

    logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []
    for family, bound in (("llama", 1.3), ("gpt_neox", 2.0), ("gpt2", 2.0)):
        folders = [_saved(root / f"{family}-{n}", family, n) for n in range(2)]
        model = Model.load(folders[0])
        turn = [0]

        def theirs(folders: Any = folders, turn: Any = turn) -> object:
            fresh = AutoModelForCausalLM.from_pretrained(folders[turn[0] % 2], attn_implementation="eager").eval()
            return _touch(fresh.parameters())

        def ours(model: Any = model, folders: Any = folders, turn: Any = turn) -> object:
            turn[0] += 1
            model.swap(folders[turn[0] % 2], prove=False)
            return _touch(model.weights().values())

        megabytes = sum(p.numel() for p in model.weights().values()) * 4 / 1e6
        note = f"{family}, {megabytes:.0f} MB fp32, every parameter read once on both sides"
        rows.append(_row(f"next checkpoint / from_pretrained ({family})", ours, theirs, bound, note, 15))
    return rows


def _touch(parameters: Any) -> float:
    with torch.no_grad():
        return float(sum(p.sum() for p in parameters))
