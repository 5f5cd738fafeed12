"""Steering many arms at once against one pass, or one generation, per arm: 7 doses of 4 sets of neurons.

6 blocks, d_model 192, 6 heads (2 key/value heads), d_mlp 576, vocabulary 320, 64 prompts of 32 tokens, random weights.
Times are processor seconds of one thread, peer and own in turn within each repetition: the machine is shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

N_LAYERS, D_MODEL, D_MLP, LAYER = 6, 192, 576, 3
N_PROMPTS, N_PROMPT, N_NEW = 64, 32, 16
ALPHAS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
REPEATS = 3


def model() -> Any:
    """A random Llama-shaped model in a handle, with a byte-level tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from probe import Model
    from tests import tiny

    torch.manual_seed(0)
    tokenizer = tiny.tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=6,
        num_key_value_heads=2, intermediate_size=D_MLP, max_position_embeddings=128, attn_implementation="eager",
        initializer_range=0.08,
    )  # fmt: skip
    hf = LlamaForCausalLM(config).eval()
    hf.generation_config.eos_token_id = None  # every response has its full length, in both ways of making it
    return Model.wrap(hf, tokenizer, check=False)


def prompts(handle: Any) -> Any:
    """Random texts of about the same length, each with a short answer."""
    from probe import Item, Prompts

    rng = np.random.default_rng(0)
    words = ["figs", "what is", "plus", "3", "how many", "river", "take away", "fox", "numbers", "left"]
    items = []
    for n in range(N_PROMPTS):
        text = " ".join(rng.choice(words, 60))
        ids = handle.tokenizer(text, add_special_tokens=False)["input_ids"][:N_PROMPT]
        items.append(Item(str(n), handle.tokenizer.decode(ids), " ans 10"))
    return Prompts(tuple(items))


def sets_of_neurons() -> torch.Tensor:
    """Four masks [set, neuron]: what is steered and three placebos."""
    rng = torch.Generator().manual_seed(1)
    return torch.stack([torch.rand(D_MLP, generator=rng) < 0.1 for _ in range(4)])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what the call gave."""
    start = time.process_time()
    out = call()
    return time.process_time() - start, out


def row(name: str, ratios: list[float], bound: float, note: str) -> dict[str, Any]:
    """A row of the page: how many times faster."""
    low, high = np.quantile(ratios, [0.25, 0.75])
    median = float(np.median(ratios))
    return {"name": name, "ratio": median, "spread": f"{low:.2f}-{high:.2f}", "bound": f">= {bound:g}",
            "holds": median >= bound, "note": note}  # fmt: skip


def teacher_forced(handle: Any, asked: Any) -> dict[str, Any]:
    """The answer's log-probability under every arm: all replayed together, or one full pass each."""
    from analyses.core.reading.outcomes import answer_logprob as one_pass
    from analyses.steering._arms import scale_keys
    from probe.replay import Clean, answer_logprob, replay

    batches = handle.batches(asked, batch_size=32)
    edits = [scale_keys(LAYER, a, mask[None]) for mask in sets_of_neurons() for a in ALPHAS]

    def own() -> np.ndarray:
        values = [replay(Clean(handle, b), edits, answer_logprob(b)).numpy() for b in batches]
        return np.concatenate(values, axis=1)

    def peer() -> np.ndarray:
        return np.stack([np.concatenate([one_pass(handle, b, [e]) for b in batches]) for e in edits])

    ratios, worst = [], 0.0
    for _ in range(REPEATS):
        slow, want = timed(peer)
        fast, got = timed(own)
        ratios.append(slow / fast)
        worst = max(worst, float(np.abs(want - got).max()))
    note = f"28 arms x {N_PROMPTS} prompts, keys of block {LAYER} of {N_LAYERS}; largest difference {worst:.1e}"
    return row("teacher-forced, one full pass per arm / replayed together", ratios, 1.0, note)


def generated(handle: Any, asked: Any, steer_at: str, bound: float) -> dict[str, Any]:
    """Greedy responses of every arm: all in one stream, or one generation each."""
    from analyses.steering._arms import scale_keys
    from analyses.steering._steered_generation import steered_completions

    masks = sets_of_neurons()
    arms = [(mask, alpha) for mask in masks for alpha in ALPHAS]
    factors = torch.stack([torch.where(mask, alpha, 1.0) for mask, alpha in arms])
    options: dict[str, Any] = {"max_new_tokens": N_NEW, "batch_size": 32}

    def own() -> Any:
        return steered_completions(handle, asked, LAYER, factors, steer_at=steer_at, **options)

    def peer() -> Any:
        return [handle.generate(asked, edits=[scale_keys(LAYER, a, m[None])], **options) for m, a in arms]

    ratios, same = [], 1.0
    for _ in range(REPEATS):
        slow, want = timed(peer)
        fast, got = timed(own)
        ratios.append(slow / fast)
        same = np.mean([x.ids == y.ids for a, b in zip(want, got, strict=True) for x, y in zip(a, b, strict=True)])
    note = f"{N_PROMPTS} prompts x 7 alphas x 4 arms x {N_NEW} tokens"
    if steer_at == "all":
        return row("one generation per arm / one stream", ratios, bound, f"{note}; {same:.1%} of texts the same")
    note += "; the prompt computed once for all arms (the peer steers the prompt too, which is not the same text)"
    return row("one generation per arm / one stream, generated tokens only", ratios, bound, note)


def measure() -> list[dict[str, Any]]:
    """Rows of the page."""
    torch.set_num_threads(1)
    handle = model()
    asked = prompts(handle)
    return [
        teacher_forced(handle, asked),
        generated(handle, asked, "all", 0.9),
        generated(handle, asked, "generated", 1.0),
    ]
