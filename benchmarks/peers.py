"""nnsight and tuned-lens doing the same work as plain scripts of their own, turn by turn with ours.

Both read one saved random model and the same ids, on one thread; processor seconds, so that other processes weigh
little. Values are compared before anything is timed. tuned-lens runs in an environment of its own, made on the first
run under `.envs` with our versions of torch and transformers (it brings a training stack nobody else needs); a peer
that cannot be had is a row that says why. TransformerLens and lm-evaluation-harness are in `patching` and `scoring`.

Least work: one forward pass, 2 FLOPs a weight and token; a lens adds 2 x d_model x vocabulary a state. Patches at the
last position change one row a block: what is left of each is that row through the blocks after it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._peer import Peer, Unavailable, Values, environment, peer
from benchmarks.peer_scripts.serve import measured

TUNED_LENS = "tuned-lens==0.2.0"
N_LAYERS, D_MODEL, D_MLP, N_HEADS, N_KV, D_VOCAB, N_ITEMS, N_POS = 8, 512, 1408, 8, 2, 32_000, 4, 64
SHAPE = {"num_hidden_layers": N_LAYERS, "hidden_size": D_MODEL, "intermediate_size": D_MLP, "head_dim": 64,
         "num_attention_heads": N_HEADS, "num_key_value_heads": N_KV, "max_position_embeddings": 128}  # fmt: skip
WORK = f"Llama, {N_LAYERS} blocks, d {D_MODEL}, vocabulary {D_VOCAB:,}, {N_ITEMS} x {N_POS} tokens, fp32, sdpa"
REPEATS, TARGET, FOIL, ALIKE = 3, 5, 9, 1e-4


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ids = saved(folder)
            return [*reading_and_patching(folder, ids), *lenses(folder, ids)]
    finally:
        torch.set_num_threads(threads)


def saved(folder: Path) -> dict[str, np.ndarray]:
    """The model and both sets of ids in `folder`; every id is a word, so text and ids say the same."""
    from tests import tiny

    tokenizer = tiny.word_tokenizer([f"w{n}" for n in range(3, D_VOCAB)])
    tiny.model("llama", vocab_size=D_VOCAB, **SHAPE).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(3, D_VOCAB, (N_ITEMS, N_POS)) for name in ("clean", "corrupt")}
    np.savez(folder / "tokens.npz", **ids)
    return ids


def reading_and_patching(folder: Path, ids: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows against nnsight, which lives in our own environment."""
    from probe import Item, Model, TokenBatch, patch
    from probe.replay import Clean, logit_difference, replay

    model = Model.load(folder / "model", attn_implementation="sdpa", check=False)
    items = tuple(Item(str(n), "x", "y") for n in range(N_ITEMS))

    def batch(which: str) -> TokenBatch:
        given = torch.from_numpy(ids[which])
        return TokenBatch(given, torch.ones_like(given, dtype=torch.bool), torch.full_like(given, 2).char(), items)

    clean, corrupt, sites = batch("clean"), batch("corrupt"), model.sites("resid_post")
    metric = logit_difference(corrupt, torch.full((N_ITEMS,), TARGET), torch.full((N_ITEMS,), FOIL))

    def record(logits: str) -> Values:
        trace = model.run(clean, sites, logits=logits)
        found = {"states": torch.stack([trace[s] for s in sites]).numpy()}
        return found | ({"last": trace.logits[:, -1].numpy()} if logits == "all" else {})

    def patched() -> Values:
        source = Clean(model, clean)
        cells = [f"{kind}.{n}" for kind in ("resid_post", "attn_out", "mlp_out") for n in range(N_LAYERS)]
        edits = [patch(c, source.value(model.site(c)), [N_POS - 1]) for c in cells]
        return {"effects": replay(Clean(model, corrupt), edits, metric).numpy()}

    least = f"least work {forward_flops() / 1e9:.0f} GFLOP"
    sites_patched = "resid_post, attn_out and mlp_out of each block, last position; least work: two passes, no logits"
    ways: list[tuple[str, str, Callable[[], Values], str]] = [
        ("record", "resid_post of all blocks, and logits", lambda: record("all"), least),
        ("record_stopped", "resid_post of all blocks, no logits", lambda: record("none"), "its trace is stopped"),
        ("patch", f"{3 * N_LAYERS} patches, a trace each", patched, sites_patched),
        ("patch_one_row", f"{3 * N_LAYERS} patches, a trace each, one row of logits", patched, "`logits_to_keep=1`"),
        ("patch_invokes", f"{3 * N_LAYERS} patches as invokes of one trace", patched, "`logits_to_keep=1`"),
    ]
    try:
        with peer("with_nnsight", Path(sys.executable), folder) as script:
            return [compared(f"nnsight / ours: {what}", script, way, ours, note) for way, what, ours, note in ways]
    except Unavailable as error:
        return [missing(f"nnsight / ours: {what}", error) for _, what, *_ in ways]


def lenses(folder: Path, ids: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows against tuned-lens with a logit lens.

    Its trajectory reads the embedding too, one state more than ours: its time is taken per state. Our divergence from
    the output takes a pair of checkpoints and reads both, so there the peer does its work twice.
    """
    from analyses import get
    from probe import Item, Model, Prompts

    model = Model.load(folder / "model", attn_implementation="sdpa", check=False)
    texts = [[f"w{i}" for i in row] for row in ids["clean"]]
    prompts = Prompts(tuple(Item(f"{n}", w[0], " ".join(w[1:])) for n, w in enumerate(texts)))

    def cells(table: Any, column: str) -> np.ndarray:
        by = table.sort_values(["item", "layer", "pos"])[column].to_numpy()
        return by.reshape(N_ITEMS, N_LAYERS, -1)[..., : N_POS - 1]

    def lens() -> Values:
        table = get("logit_lens")(model, prompts, top_k=0).table
        return {"entropy": cells(table, "entropy_nats"), "cross_entropy": -cells(table, "logprob_nats")}

    def pair() -> Values:
        table = get("divergence")(model, model, prompts, variant="lens_to_final").table
        one = table[table["checkpoint"] == "base"]
        names = {"jsd": "jsd_nats", "kl": "kl_first_second_nats", "forward_kl": "kl_second_first_nats"}
        return {name: cells(one, column) for name, column in names.items()}

    flops = forward_flops() + 2.0 * N_ITEMS * N_POS * N_LAYERS * D_MODEL * D_VOCAB
    least, share = f"least work {flops / 1e9:.0f} GFLOP", N_LAYERS / (N_LAYERS + 1)
    ways: list[tuple[str, str, Callable[[], Values], str, float]] = [
        ("lens", "logit lens, entropy and cross-entropy", lens, f"{least}; ours also ranks, and aggregates", share),
        ("forward_kl", "KL from the output, of a pair", pair, "ours also JSD, the other KL and TV", 2 * share),
        ("divergences", "JSD and both KL from the output, of a pair", pair, "`tuned_lens.stats`; ours also TV", 2.0),
    ]
    try:
        with peer("with_tuned_lens", environment("tuned-lens", TUNED_LENS), folder) as script:
            return [compared(f"tuned-lens / ours: {w[1]}", script, w[0], *w[2:]) for w in ways]
    except Unavailable as error:
        return [missing(f"tuned-lens / ours: {what}", error) for _, what, *_ in ways]


def forward_flops() -> float:
    """2 x weights x tokens of one forward pass with all logits, and attention's two products."""
    block = D_MODEL * 64 * 2 * (N_HEADS + N_KV) + 3 * D_MODEL * D_MLP
    tokens = N_ITEMS * N_POS
    return 2.0 * tokens * (N_LAYERS * (block + N_POS * D_MODEL) + D_MODEL * D_VOCAB)


def compared(
    name: str, script: Peer, way: str, ours: Callable[[], Values], note: str, scale: float = 1.0
) -> dict[str, Any]:
    """A row: how many times our time the peer takes, after both gave the same values."""
    _, _, theirs = script(way)
    _, _, own = measured(ours)
    off = max(apart(own[k], theirs[k]) for k in theirs)
    if off > ALIKE:
        raise AssertionError(f"{name}: values differ by {off:.1e}: the times would compare different work")
    times = []
    for _ in range(REPEATS):
        slow, memory, _ = script(way)
        fast, grown, _ = measured(ours)
        times.append((slow * scale, fast, memory, grown))
    slow, fast, memory, grown = np.array(times).T
    low, middle, high = (float(x) for x in np.quantile(slow / fast, [0.25, 0.5, 0.75]))
    told = (
        f"{WORK}; {note}; ours {np.median(fast):.2f} s of CPU and {np.median(grown):.0f} MiB more at the peak, peer "
        f"{np.median(memory):.0f} MiB; largest difference {off:.0e} of the largest value; load {os.getloadavg()[0]:.1f}"
    )
    return {"name": name, "ratio": middle, "spread": f"{low:.2f}-{high:.2f}", "bound": "", "holds": None, "note": told}


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """Largest difference, in units of the largest value."""
    if first.shape != second.shape:
        raise AssertionError(f"the peer's values have shape {second.shape}, ours {first.shape}")
    return float(np.abs(first - second).max() / np.abs(second).max())


def missing(name: str, error: Unavailable) -> dict[str, Any]:
    """A row that says why there is no number."""
    return {"name": name, "ratio": None, "spread": "", "bound": "", "holds": None, "note": f"not measured: {error}"}
