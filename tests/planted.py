"""Data and models with known ground truth: what an analysis must recover, and nulls it must not find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.prompts import Item, Prompts


@dataclass
class ArrayStates:
    """Stands for the states of a model, from an array [item, state, d_model]."""

    values: np.ndarray
    groups: np.ndarray
    items: tuple[Item, ...]
    n_tokens: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        return np.asarray([item.id for item in self.items], dtype=object)

    @property
    def n_layers(self) -> int:
        return self.values.shape[1] - 1

    def layer(self, state: int) -> np.ndarray:
        return np.asarray(self.values[:, state], dtype=float)

    def update(self, layer: int) -> np.ndarray:
        return self.layer(layer + 1) - self.layer(layer)


def states_of(values: np.ndarray, is_first: np.ndarray, n_tokens: np.ndarray | None = None) -> ArrayStates:
    """States of items in the groups leak (first) and stable."""
    groups = np.where(is_first, "leak", "stable").astype(object)
    items = tuple(Item(f"i{k:04d}", "p", "a", group=str(g)) for k, g in enumerate(groups))
    return ArrayStates(values, groups, items, np.zeros(len(items), int) if n_tokens is None else n_tokens)


def bifurcation(
    rng: np.random.Generator, *, n: int = 40, n_layers: int = 10, d: int = 8, at: int = 6, size: float = 2.0
) -> ArrayStates:
    """Random walks over layers; the update of block `at` differs between the groups by `size` along one direction."""
    is_first = np.arange(n) < n // 2
    updates = rng.normal(size=(n, n_layers, d))
    updates[is_first, min(at, n_layers - 1), 0] += size
    start = rng.normal(size=(n, 1, d))
    return states_of(np.concatenate([start, start + updates.cumsum(1)], 1), is_first)


def ar1(rng: np.random.Generator, shape: tuple[int, int], rho: float = 0.7, unit: str = "innovation") -> np.ndarray:
    """Noise [item, layer], AR(1) across layers, with unit innovation or unit marginal standard deviation."""
    scale = 1.0 if unit == "innovation" else np.sqrt(1 - rho**2)
    out = np.empty(shape)
    out[:, 0] = rng.normal(size=shape[0]) * scale / np.sqrt(1 - rho**2)
    for layer in range(1, shape[1]):
        out[:, layer] = rho * out[:, layer - 1] + scale * rng.normal(size=shape[0])
    return out


def evidence(values: dict[str, np.ndarray], is_first: np.ndarray) -> dict[str, object]:
    """Results of upstream analyses whose per-item curves are exactly `values` (kind -> [item, layer])."""
    import pandas as pd

    from analyses.core.result import Result

    n, n_layers = next(iter(values.values())).shape
    item = np.repeat([f"i{k:04d}" for k in range(n)], n_layers)
    group = np.repeat(np.where(is_first, "leak", "stable"), n_layers)
    layer = np.tile(np.arange(n_layers), n)
    rows = pd.DataFrame({"item": item, "group": group, "answer_kind": "given", "layer": layer})
    made: dict[str, object] = {}
    if "nec" in values:
        reset = rows.assign(variant="reset", window=layer, layers=layer.astype(str), metric=-values["nec"].ravel())
        unwindowed: dict[str, Any] = {"window": pd.NA}
        tuned = rows[rows["layer"] == 0].assign(variant="tuned", layers="", metric=0.0, **unwindowed)
        made["weight_reset"] = Result.of(pd.concat([reset, tuned]).drop(columns="layer"))
    if "jsd" in values:
        made["divergence"] = Result.of(rows.assign(variant="before_after", pos=0, jsd_nats=values["jsd"].ravel()))
    return made


LETTERS = tuple("abcdefghkm")
DIGITS = tuple("0123456789")


def copying(folder: Path, *, steps: tuple[int, int] = (150, 200), seed: int = 0) -> tuple[Path, Path]:
    """Two saved models, trained on letters with a digit among them: one to ignore the digit, one to say it.

    `a d 7 b ? 7`: in the first model's texts the answer is any digit; in the second's it is the prompt's, where there
    is one. So a hint (`7`) tells the second everything and the first nothing, and its evidence is the digit's token.
    """
    import torch

    from tests import tiny

    words = tiny.word_tokenizer([*LETTERS, *DIGITS, "?"])
    built = tiny.model("llama", seed=seed, vocab_size=len(words))
    rng, optimizer = np.random.default_rng(seed), torch.optim.Adam(built.parameters(), 5e-3)
    for name, n_steps in zip(("base", "tuned"), steps, strict=True):
        built.train()
        for _ in range(n_steps):
            n = int(rng.integers(4, 8))
            lines = [copied(rng, n, follows=name == "tuned") for _ in range(32)]
            batch = words(lines, return_tensors="pt")["input_ids"]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(built(batch).logits[:, -2], batch[:, -1]).backward()
            optimizer.step()
        built.eval().save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    return folder / "base", folder / "tuned"


def copied(rng: np.random.Generator, n: int, *, follows: bool) -> str:
    """One line of what `copying` learns: letters, a digit among them most of the time, and an answer."""
    words = [str(w) for w in rng.choice(LETTERS, n)]
    digit, other = (str(d) for d in rng.choice(DIGITS, 2))
    has_digit = rng.random() < 0.8
    if has_digit:
        words[int(rng.integers(n))] = digit
    return " ".join([*words, "?", digit if follows and has_digit else other])


CUES = ("how", "many")  # the last word of a clean prompt, and of a corrupt one
SAYS = "ans"
KEPT = 4  # coordinates of the residual stream that only the planted chain reads and writes


def cued(n: int = 16, seed: int = 0) -> Prompts:
    """Prompts of random words whose last word is the cue; `corrupt`: the same with the other cue."""
    rng, words = np.random.default_rng(seed), ["what", "is", "plus", "figs", "fox", "dog", "the", "river"]
    items: list[Item] = []
    for k in range(n):
        start = " ".join(rng.choice(words, 4 + k % 3))
        meta = {"corrupt": f"{start} {CUES[1]}"}
        items.append(Item(f"c{k:02d}", f"{start} {CUES[0]}", f" {SAYS}", group="ab"[k % 2], meta=meta))
    return Prompts(tuple(items))


def drifted(seed: int, drift: float, drift_seed: int) -> tuple[Any, dict[str, int]]:
    """A random model with noise of relative size `drift` on every weight, its first `KEPT` coordinates of the stream
    cleared of all that reads or writes them; and the ids of its words."""
    import torch

    from tests import tiny

    words = tiny.word_tokenizer()
    model, rng = tiny.model("llama", seed=seed, vocab_size=len(words)), torch.Generator().manual_seed(drift_seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight += drift * weight.std() * torch.randn(weight.shape, generator=rng)
            if weight.ndim == 2:
                weight[:, :KEPT] *= name.endswith(("o_proj.weight", "down_proj.weight"))
                weight[:KEPT] *= not name.endswith(("o_proj.weight", "down_proj.weight"))
    return model, words.get_vocab()


def chain(strength: float, *, seed: int = 0, drift: float = 0.0, drift_seed: int = 0) -> Any:
    """A random model in which the cue, by way of MLP 0 and MLP 2, makes it say `ans`; `strength` is that of the edge
    from MLP 0 to MLP 2 (0: what MLP 0 writes is read by nobody). `drift`: noise on every weight."""
    import torch

    model, ids = drifted(seed, drift, 1000 + drift_seed)
    with torch.no_grad():
        embed, head = model.model.embed_tokens.weight, model.lm_head.weight
        embed[ids[CUES[1]]] = embed[ids[CUES[0]]]
        embed[ids[CUES[0]], 0], embed[ids[CUES[1]], 1] = 1.0, 1.0
        for layer, reads, by, size in ((0, 0, 2.0, 0.0025), (2, 2, strength, 0.2)):
            mlp = model.model.layers[layer].mlp
            for matrix in (mlp.gate_proj, mlp.up_proj):
                matrix.weight[0] = 0.0
                matrix.weight[0, reads] = by
            mlp.down_proj.weight[:, 0] = 0.0
            mlp.down_proj.weight[2 + layer // 2, 0] = size
        head[ids[SAYS], 3] = 3.0
    return model


def chain_series(folder: Path, *, made_at: int = 20, seed: int = 0) -> Path:
    """Checkpoints 0, 10, 20 and 30 of `chain`, drifting; the edge is there from step `made_at` on."""
    from tests import tiny

    for step in (0, 10, 20, 30):
        built = chain(2.0 * (step >= made_at), seed=seed, drift=0.02 * (step > 0), drift_seed=step)
        built.save_pretrained(folder / f"checkpoint-{step}")
        tiny.word_tokenizer().save_pretrained(folder / f"checkpoint-{step}")
    return folder


SUBJECT = "fox"


def meeting(strength: float, *, seed: int = 0, drift: float = 0.0, drift_seed: int = 0) -> Any:
    """A random model in which the cue after a text with the subject makes it say `ans`; `strength` is of that feature.

    Both parts are there at any strength: the cue (by MLP 0) and the subject (carried on by a head that attends to all).
    MLP 1 writes their product into a coordinate of its own (0: it writes nothing), which the unembedding reads.
    """
    import torch

    model, ids = drifted(seed, drift, 2000 + drift_seed)
    with torch.no_grad():
        model.model.embed_tokens.weight[ids[CUES[0]], 0] = 1.0
        model.model.embed_tokens.weight[ids[SUBJECT], 1] = 1.5
        first, second = model.model.layers[:2]
        first.self_attn.q_proj.weight[:8] = 0.0  # of head 0: it attends to all alike
        first.self_attn.v_proj.weight[0] = 0.0
        first.self_attn.v_proj.weight[0, 1] = 3.0
        first.self_attn.o_proj.weight[2, 0] = 1.0
        second.mlp.gate_proj.weight[0] = 0.0
        second.mlp.gate_proj.weight[0, 0] = 3.0
        second.mlp.up_proj.weight[0] = 0.0
        second.mlp.up_proj.weight[0, 2] = 3.0
        second.mlp.down_proj.weight[:, 0] = 0.0
        second.mlp.down_proj.weight[3, 0] = strength
        model.lm_head.weight[ids[SAYS], 3] = 2.0
    return model
