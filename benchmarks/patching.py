"""Exact patching against TransformerLens's own loop, paths in closed form, and attribution, on 50 M parameters.

12 blocks, d_model 512, 8 heads (2 key/value heads), d_mlp 1408, vocabulary 32,000, 64 positions, random weights.
Times are processor seconds of one thread, peer and replay in turn within each repetition: the machine is shared.
Slow peers are timed on an evenly spread sample of the same patches and scaled by count.

Least work of all layers x positions of resid_pre: an edit of block l at position p needs blocks l to 11 on positions
p to 63, the last block's queries, output and MLP at the read position alone, and two logits of one row.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

N_LAYERS, D_MODEL, N_HEADS, N_KV, D_MLP, D_VOCAB, N_POS = 12, 512, 8, 2, 1408, 32_000, 64
REPEATS = 5
TARGET, FOIL = 5, 9


def model() -> Any:
    """A random Qwen2-shaped model in a handle, its tokenizer unused."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from probe import Model
    from tests import tiny

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV, intermediate_size=D_MLP, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    return Model.wrap(Qwen2ForCausalLM(config).eval(), tiny.tokenizer("qwen2"), check=False)


def batch(n_items: int, seed: int) -> Any:
    """Random ids, all of them prompt."""
    from probe import Item, TokenBatch

    ids = torch.randint(0, D_VOCAB, (n_items, N_POS), generator=torch.Generator().manual_seed(seed))
    items = tuple(Item(str(n), "x", "y") for n in range(n_items))
    return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), torch.full_like(ids, 2, dtype=torch.int8), items)


def answered(tokens: Any) -> Any:
    """The same batch with its last token as the answer."""
    from dataclasses import replace

    span = tokens.span.clone()
    span[:, -1] = 4
    return replace(tokens, span=span)


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


def least_flops(cells: list[tuple[int, int]], n_items: int) -> float:
    """Multiply-adds x 2 that patching these (layer, position) cells of resid_pre cannot do without."""
    d_head = D_MODEL // N_HEADS
    keys = 2 * D_MODEL * N_KV * d_head
    rest = 2 * D_MODEL * D_MODEL + 3 * D_MODEL * D_MLP
    total = 0.0
    for layer, pos in cells:
        rows = N_POS - pos
        attended = sum(range(pos + 1, N_POS + 1))
        total += (N_LAYERS - 1 - layer) * (rows * (keys + rest) + 2 * attended * D_MODEL)
        total += rows * keys + rest + 2 * N_POS * D_MODEL + 2 * D_MODEL
    return 2 * total * n_items


def matrix_rate() -> float:
    """FLOP/s of this machine's matrix product at the shapes replay uses (the best of several)."""
    best = 0.0
    for rows in (512, 2048):
        x, w = torch.randn(rows, D_MODEL), torch.randn(D_MLP, D_MODEL)
        for _ in range(6):
            seconds, _ = timed(lambda x=x, w=w: [torch.nn.functional.linear(x, w) for _ in range(20)])
            best = max(best, 20 * 2 * rows * D_MODEL * D_MLP / seconds)
    return best


def residual(handle: Any, n_items: int, bound: float, every: int, n_peer: int, repeats: int) -> list[dict[str, Any]]:
    """All layers x positions of resid_pre, against the peer's loop on a sample of them."""
    import pandas as pd
    from transformer_lens import patching
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    from probe import patch
    from probe.checkpoints.loading import sharing_copy
    from probe.replay import Clean, logit_difference, replay

    clean, corrupt = batch(n_items, 0), batch(n_items, 1)
    cells = [(layer, pos) for layer in range(N_LAYERS) for pos in range(every // 2, N_POS, every)]
    metric = logit_difference(corrupt, torch.full((n_items,), TARGET), torch.full((n_items,), FOIL))
    tree = sharing_copy(handle.backend.plain)
    bridge: Any = build_bridge_from_module(tree, type(tree).__name__, hf_config=tree.config, model_name="qwen2")
    with torch.no_grad():
        _, cache = bridge.run_with_cache(clean.ids, names_filter=lambda n: n.endswith("resid_pre"))
    sample = pd.DataFrame([cells[n] for n in np.linspace(0, len(cells) - 1, n_peer).astype(int)],
                          columns=["layer", "pos"])  # fmt: skip

    def peer() -> Any:
        with torch.no_grad():
            return patching.generic_activation_patch(
                bridge, corrupt.ids, cache, lambda x: (x[:, -1, TARGET] - x[:, -1, FOIL]).mean(),
                patching.layer_pos_patch_setter, "resid_pre", index_df=sample,
            )  # fmt: skip

    def ours() -> torch.Tensor:
        source = Clean(handle, clean)
        edits = [patch(f"resid_pre.{layer}", source.inputs[layer], [pos]) for layer, pos in cells]
        return replay(Clean(handle, corrupt), edits, metric)

    ratios, rates, off, rate = [], [], 0.0, matrix_rate()
    flops = least_flops(cells, n_items)
    for _ in range(repeats):
        slow, want = timed(peer)
        fast, got = timed(ours)
        ratios.append(slow / len(sample) * len(cells) / fast)
        rates.append(flops / fast)
        at = [cells.index((int(r.layer), int(r.pos))) for r in sample.itertuples()]
        off = max(off, float((got[at].mean(1) - want).abs().max()))
    share = float(np.median(rates)) / rate
    note = (
        f"{len(cells)} cells x {n_items} items, peer timed on {len(sample)}; least work {flops / 1e9:.0f} GFLOP done "
        f"at {np.median(rates) / 1e9:.0f} GFLOP/s, {share:.0%} of this machine's matrix rate ({rate / 1e9:.0f}; aim "
        f"85 %); largest difference {off:.1e} (bound 1e-5: {'holds' if off <= 1e-5 else 'FAILS'})"
    )
    return [row(f"resid_pre, every layer and position, batch {n_items}: faster than TransformerLens's loop", ratios,
                bound, note)]  # fmt: skip


def frozen_forward(orig: Any, new: Any, layer: int, head: int) -> torch.Tensor:
    """One head's direct path as a forward pass of its own: every component frozen but this head."""
    from probe import Site, patch

    frozen = [patch(Site(kind, n), orig.value(Site(kind, n))) for n in range(N_LAYERS) for kind in ("z", "mlp_out")]
    own = patch(Site("z", layer, head), new.value(Site("z", layer, head)))
    return orig.model.run(orig.batch, edits=[*frozen, own], logits="last").logits


def direct(handle: Any) -> list[dict[str, Any]]:
    """All heads' direct paths to two logits and to all, against one frozen forward pass a head."""
    from analyses.patching._paths import direct_logits
    from probe.replay import Clean

    orig, new = Clean(handle, batch(8, 0)), Clean(handle, batch(8, 1))
    rows = torch.zeros(8, N_POS, dtype=torch.bool)
    rows[:, -1] = True
    for clean in (orig, new):
        for layer in range(N_LAYERS):
            clean.value(orig.model.site(f"z.{layer}")), clean.value(orig.model.site(f"mlp_out.{layer}"))
    sample = [(0, 0), (5, 3), (11, 7)]
    out: list[dict[str, Any]] = []
    for name, tokens, bound in (("two logits", [TARGET, FOIL], 1000.0), ("all 32,000 logits", None, 100.0)):
        ratios, off = [], 0.0
        direct_logits(orig, new, rows, tokens)
        for _ in range(REPEATS):
            slow, want = timed(lambda: [frozen_forward(orig, new, *s) for s in sample])
            fast, got = timed(lambda t=tokens: [direct_logits(orig, new, rows, t) for _ in range(5)][-1])
            ratios.append(slow / len(sample) * N_LAYERS * N_HEADS / (fast / 5))
            for (layer, head), logits in zip(sample, want, strict=True):
                chosen = logits if tokens is None else logits[:, tokens]
                off = max(off, float((got[:, layer, head] - chosen).abs().max()))
        note = f"96 heads x 8 items; peer timed on {len(sample)} heads; largest difference {off:.1e}"
        what = f"direct paths of all heads to {name}: faster than a frozen forward a head"
        out.append(row(what, ratios, bound, note))
    return out


def pairs(handle: Any) -> list[dict[str, Any]]:
    """Effects of head-to-head query paths on the metric, against TransformerLens's forward per pair, on a sample.

    The least work is the rest of the receiver's block and the blocks after it, the last for one row: 3.36 blocks of
    12 for a pair drawn evenly. Beyond 12 / 3.36 = 3.6 is what replay gains by stacking and by unembedding one row.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    from analyses.patching._paths import Paths, Receiver
    from probe import Site
    from probe.checkpoints.loading import sharing_copy
    from probe.replay import Clean, logit_difference, replay

    tokens = batch(1, 0)
    metric = logit_difference(tokens, torch.tensor([TARGET]), torch.tensor([FOIL]))
    rng = np.random.default_rng(0)
    every = [(Site("z", a, h), Receiver("q", b, g)) for a in range(N_LAYERS) for b in range(a + 1, N_LAYERS)
             for h in range(N_HEADS) for g in range(N_HEADS)]  # fmt: skip
    chosen = [every[n] for n in rng.choice(len(every), 96, replace=False)]
    orig, new = Clean(handle, tokens), Clean(handle, batch(1, 1))
    tree = sharing_copy(handle.backend.plain)
    bridge: Any = build_bridge_from_module(tree, type(tree).__name__, hf_config=tree.config, model_name="qwen2")

    def forward(edit: Any) -> torch.Tensor:
        def hook(z: torch.Tensor, hook: Any) -> torch.Tensor:
            del hook
            z[:, :, edit.site.head] = edit.function(z[:, :, edit.site.head])
            return z

        with torch.no_grad():
            hooks = [(f"blocks.{edit.site.layer}.attn.hook_z", hook)]
            return bridge.run_with_hooks(tokens.ids, fwd_hooks=hooks)[:, -1]

    ratios, against_row, off = [], [], 0.0
    for _ in range(REPEATS):
        paths = Paths(orig, new, orig.batch.mask)
        edits = [paths.edit(s, r) for s, r in chosen]
        slow, logits = timed(lambda e=edits: [forward(x) for x in e[::8]])
        row_only, _ = timed(lambda e=edits: [handle.run(tokens, edits=[x], logits="last") for x in e[::8]])
        fresh = Paths(orig, new, orig.batch.mask)
        fast, got = timed(lambda p=fresh: replay(orig, [p.edit(s, r) for s, r in chosen], metric))
        ratios.append(slow * 8 / fast)
        against_row.append(row_only * 8 / fast)
        want = torch.stack([x[:, TARGET] - x[:, FOIL] for x in logits])
        off = max(off, float((got[::8] - want).abs().max()))
    deltas, _ = timed(lambda: [Paths(orig, new, orig.batch.mask).write(Site("z", n, h))
                               for n in range(N_LAYERS) for h in range(N_HEADS)])  # fmt: skip
    one, _ = timed(lambda: handle.run(tokens))
    note = (
        f"{len(chosen)} of {len(every)} head-to-query pairs, batch 1, replay with its closed-form inputs against the "
        f"peer's last step alone; {np.median(against_row):.2f} where the peer unembeds one row only (3.6 is equal work "
        f"rate); largest difference {off:.1e}; receiver-input changes of all 96 senders "
        f"from the two unedited runs take {deltas / one:.2f} forward passes more"
    )
    return [row("effects of head-to-head paths: faster than one forward per pair", ratios, 4.0, note)]


def attribution(handle: Any) -> list[dict[str, Any]]:
    """Gradient estimates of every site in forward passes (bound: 4)."""
    from analyses.patching._gradients import PromptPair

    pair = PromptPair(handle, answered(batch(4, 0)), answered(batch(4, 1)))
    sites = [s for kind in ("attn_out", "mlp_out") for s in handle.sites(kind)]
    ratios = []
    for _ in range(REPEATS):
        one, _ = timed(lambda: handle.run(batch(4, 0)))
        both, _ = timed(lambda: pair.estimates(sites, "each", 1, True))
        ratios.append(both / one)
    low, high = np.quantile(ratios, [0.25, 0.75])
    median = float(np.median(ratios))
    return [{"name": "attribution patching of all attn_out and mlp_out: forward passes it costs", "ratio": median,
             "spread": f"{low:.2f}-{high:.2f}", "bound": "<= 4", "holds": median <= 4,
             "note": "two runs and one backward pass, batch 4"}]  # fmt: skip


PEAK = """
import ctypes, gc, pathlib, torch
torch.set_num_threads(1)
from benchmarks.patching import batch, model, TARGET, FOIL
from probe import patch
from probe.replay import Clean, logit_difference, replay
from probe.replay.budget import budget_of
handle = model()
source, target = Clean(handle, batch(4, 0)), Clean(handle, batch(4, 1))
metric = logit_difference(target.batch, torch.full((4,), TARGET), torch.full((4,), FOIL))
edits = [patch(f"resid_pre.{n}", source.inputs[n], [p]) for n in range(6, 12) for p in range(64)]
replay(target, edits[:1], metric)

def kib(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory freed before must not hide what is taken now
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
start = kib("VmRSS")
replay(target, edits, metric, max_bytes=MAX)
print((kib("VmHWM") - start) * 1024)
"""


def memory() -> list[dict[str, Any]]:
    """Growth of the peak resident set over the budget that was given, each in a process of its own."""
    out: list[dict[str, Any]] = []
    for budget in (64 * 2**20, 256 * 2**20):
        code = PEAK.replace("MAX", str(budget))
        grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        out.append({"name": f"peak memory of replay / its budget of {budget >> 20} MiB", "ratio": grown / budget,
                    "spread": "", "bound": "<= 1", "holds": grown <= budget,
                    "note": "384 cells x 4 items; growth of the resident set over the unedited runs"})  # fmt: skip
    return out


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    torch.set_num_threads(1)
    handle = model()
    rows = residual(handle, 1, 7.0, every=1, n_peer=16, repeats=REPEATS)
    rows += residual(handle, 8, 6.0, every=1, n_peer=8, repeats=3)
    return [*rows, *direct(handle), *pairs(handle), *attribution(handle), *memory()]
