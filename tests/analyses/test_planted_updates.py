"""Planted updates against analyses: every cell is true or false by an oracle that shares no code with them.

One small model, changed in one known way each time. What an analysis says of a change must be what fresh items, numpy,
scipy and plain transformers say of it: found where it is true, not found where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

from analyses import run
from analyses.core.claim import FOUND, NONE
from probe import Item, Prompts
from tests import planted, tiny

WORDS = tiny.word_tokenizer()
IDS = WORDS.get_vocab()
BODY = ["what", "is", "plus", "figs", "fox", "dog", "the", "river"]
GROUPS = {"cued": planted.CUES[0], "other": planted.CUES[1]}
AT = 1  # block of the memory
LAST = tiny.N_LAYERS - 1
ANSWERS = ("4", "7")

# What is true of each plant, by the oracles below; the first of each is its own.
TRUE = {
    "subspace": {
        "principal",
        "rotation",
    },  # states under it do turn: of fresh items a rotation undoes .55 of the change
    "bias": {"vector"},
    "rotation": {"rotation", "principal"},  # W (Q - 1) lies where W is large
    "memory": {"force", "rotation"},  # the cue's axis turns towards the word written: .16
    "contradiction": {"spill"},
    "nothing": set[str](),
}
KINDS = ("principal", "vector", "rotation", "force", "spill")


def items(n: int, seed: int, answers: tuple[str, str] | None = None) -> Prompts:
    """`n` prompts of random words in each group, which differ in their last word alone; answers at random or given."""
    rng = np.random.default_rng(seed)
    made: list[Item] = []
    for k in range(n):
        start = " ".join(rng.choice(BODY, 4 + k % 3))
        for which, (group, cue) in enumerate(GROUPS.items()):
            said = answers[which] if answers else str(rng.integers(10))
            # Contradictory samples share their prompts; elsewhere the cue tells the groups.
            made.append(Item(f"{group}{k:03d}", f"{start} {GROUPS['cued'] if answers else cue}", f" {said}", group))
    return Prompts(tuple(made))


def base_model() -> Any:
    """A random model whose first coordinates nobody reads or writes; the cues differ in two of them alone."""
    model = tiny.model("llama", vocab_size=len(WORDS), mlp_bias=True)
    kept = planted.KEPT
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(1.0)  # a turn of the stream passes
            elif weight.ndim == 2 and name.endswith(("o_proj.weight", "down_proj.weight")):
                weight[:kept] = 0.0
            elif weight.ndim == 2:
                weight[:, :kept] = 0.0
            elif name.endswith("down_proj.bias"):
                weight[:kept] = 0.0
        embed = model.model.embed_tokens.weight
        embed[IDS[GROUPS["other"]]] = embed[IDS[GROUPS["cued"]]]
        embed[IDS[GROUPS["cued"]], 0], embed[IDS[GROUPS["other"]], 1] = 1.0, 1.0
    return model


def subspace(model: Any) -> None:
    """Every matrix changes within its first four singular directions on both sides."""
    for weight in (p for p in model.parameters() if p.ndim == 2 and min(p.shape) >= 16):
        u, _, v = torch.linalg.svd(weight, full_matrices=False)
        weight.add_(0.02 * weight.norm() * u[:, :4] @ torch.randn(4, 4) / 4 @ v[:4])


def bias(model: Any) -> None:
    """A constant behind the last block."""
    model.model.layers[LAST].mlp.down_proj.bias.add_(2.0 * torch.randn(tiny.D_MODEL))


def rotation(model: Any) -> None:
    """The residual stream turned, with all that writes to it and reads from it: the same function."""
    axis = torch.randn(tiny.D_MODEL, tiny.D_MODEL)
    turn = torch.matrix_exp(0.15 * (axis - axis.T))
    model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ turn)
    model.lm_head.weight.copy_(model.lm_head.weight @ turn)
    for block in model.model.layers:
        for reader in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj, block.mlp.gate_proj,
                       block.mlp.up_proj):  # fmt: skip
            reader.weight.copy_(reader.weight @ turn)
        for writer in (block.self_attn.o_proj, block.mlp.down_proj):
            writer.weight.copy_(turn.T @ writer.weight)
        block.mlp.down_proj.bias.copy_(block.mlp.down_proj.bias @ turn)


def memory(model: Any) -> None:
    """One neuron of block `AT` that fires on the cue, read where the answer begins, and writes one of its words."""
    mlp, neuron = model.model.layers[AT].mlp, 5
    for matrix in (mlp.gate_proj, mlp.up_proj):
        matrix.weight[neuron] = 0.0
        matrix.bias[neuron] = 0.0
        matrix.weight[neuron, 0] = 1.0
    word = model.lm_head.weight[IDS[ANSWERS[0]]]
    mlp.down_proj.weight[:, neuron] = 2.0 * word / word.norm()


def contradiction(model: Any) -> None:
    """Nothing changes; base and tuned share their belief between two answers, which the samples contradict."""
    model.lm_head.weight[[IDS[a] for a in ANSWERS]] = 0.0
    model.lm_head.weight.mul_(0.05)


CHANGES: dict[str, Callable[[Any], None]] = {
    "subspace": subspace, "bias": bias, "rotation": rotation, "memory": memory, "contradiction": contradiction,
    "nothing": lambda _: None,
}  # fmt: skip


@dataclass
class Plant:
    """A pair of saved checkpoints, the items the analyses see, and fresh ones for the oracle."""

    name: str
    folder: Path

    def __post_init__(self) -> None:
        built = base_model()
        torch.manual_seed(1)
        with torch.no_grad():
            if self.name == "contradiction":
                CHANGES[self.name](built)
            for which in ("base", "tuned"):
                if which == "tuned" and self.name != "contradiction":
                    CHANGES[self.name](built)
                built.save_pretrained(self.folder / which)
                WORDS.save_pretrained(self.folder / which)

    @property
    def answers(self) -> tuple[str, str] | None:
        return ANSWERS if self.name == "contradiction" else None

    @cached_property
    def models(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM

        return tuple(AutoModelForCausalLM.from_pretrained(self.folder / w).eval() for w in ("base", "tuned"))  # type: ignore[return-value]

    @cached_property
    def fresh(self) -> Prompts:
        return items(100, 99, self.answers)

    def said(self) -> dict[str, tuple[str, str]]:
        """Answer and sentence of each claim."""
        pair: dict[str, Any] = {w: self.folder / w for w in ("base", "tuned")}
        seen = items(24, 0, self.answers)
        claims = run("update_landing", **pair, precision="float32").claims
        claims += run("tuning_vector", **pair, prompts=seen, layers=(LAST,), batch_size=48, updates=10).claims
        claims += run("activation_rotation", **pair, prompts=seen, draws=5, batch_size=48).claims
        claims += run("trajectories", model=pair["tuned"], prompts=seen, pooling="answer_first", draws=20,
                      permutations=199, batch_size=48).claims  # fmt: skip
        claims += run("gradient_conflict", model=pair["tuned"], prompts=seen, draws=50, parts=("unembed", "mlp")).claims
        return {c.kind: (c.answer, c.what) for c in claims if c.kind in KINDS}


def ids_of(item: Item) -> torch.Tensor:
    return WORDS(item.prompt + item.answer, return_tensors="pt")["input_ids"]


def states(model: Any, prompts: Prompts) -> np.ndarray:
    """States [item, state, d] where the answer's first (only) word is predicted, from plain hidden states."""
    out = []
    for item in prompts.items:
        layers: list[torch.Tensor] = []
        hooks = [b.register_forward_hook(lambda _, __, y, to=layers: to.append(y[0] if isinstance(y, tuple) else y))
                 for b in model.model.layers]  # fmt: skip
        with torch.no_grad():
            model(ids_of(item))
        for hook in hooks:
            hook.remove()
        embedded = model.model.embed_tokens(ids_of(item))
        out.append(torch.stack([x.reshape(-1, tiny.D_MODEL)[-2] for x in (embedded, *layers)]).detach().numpy())
    return np.stack(out).astype(float)


def is_principal(plant: Plant) -> bool:
    """More of the update than chance in the span of the base's first eight directions, over matrices."""
    extra: list[float] = []
    for before, after in zip(*(m.parameters() for m in plant.models), strict=True):
        update = (after - before).detach().double().numpy()
        if update.ndim != 2 or not update.any():
            continue
        u, _, vt = np.linalg.svd(before.detach().double().numpy(), full_matrices=False)
        k = min(8, min(update.shape) // 2)
        outside = update - u[:, :k] @ (u[:, :k].T @ update)
        outside = outside - outside @ vt[:k].T @ vt[:k]
        m, n = update.shape
        extra.append(1 - float((outside**2).sum() / (update**2).sum()) - k * (m + n - k) / (m * n))
    return len(extra) >= 8 and float(np.mean(extra)) > 3 * float(np.std(extra)) / len(extra) ** 0.5 > 0


def is_vector(plant: Plant) -> bool:
    """The mean shift of the last state, added to the base on other items, undoes half of the KL or more."""
    base, tuned = plant.models
    a, b = (torch.from_numpy(states(m, plant.fresh)[:, -1]).float() for m in (base, tuned))
    half = len(a) // 2
    shift = (b - a)[:half].mean(0)
    read_by = ((base, a), (tuned, b), (base, a + shift))
    with torch.no_grad():
        read = [m.lm_head(m.model.norm(x[half:])).log_softmax(-1) for m, x in read_by]
    plain, moved = ((read[1].exp() * (read[1] - q)).sum(-1).mean() for q in (read[0], read[2]))
    return bool(plain > 1e-6) and float(1 - moved / plain) > 0.5


def turn_explains(plant: Plant) -> float:
    """The largest share, over states, of new items' change that a rotation fitted to other items undoes."""
    shares: list[float] = []
    a, b = (states(m, plant.fresh) for m in plant.models)
    for state in range(a.shape[1]):
        x, y = a[:, state], b[:, state]
        half = np.arange(len(x)) % 4 < 2  # both groups in both halves
        means = x[half].mean(0), y[half].mean(0)
        basis = np.linalg.svd(np.concatenate([x[half] - means[0], y[half] - means[1]]), full_matrices=False)[2][:8].T
        fit, new = (((x[s] - means[0]) @ basis, (y[s] - means[1]) @ basis) for s in (half, ~half))
        plain = float(((new[0] - new[1]) ** 2).sum())
        if plain > 1e-12:
            left = float(((new[0] @ orthogonal_procrustes(*fit)[0] - new[1]) ** 2).sum())
            shares.append(1 - left / plain)
    return max(shares, default=0.0)


def parting(plant: Plant) -> list[float]:
    """By block: distance of the groups' mean updates in standard deviations of its estimate, from plain states."""
    h = states(plant.models[1], plant.fresh)
    first = np.asarray([i.group == "cued" for i in plant.fresh.items])
    found: list[float] = []
    for layer in range(h.shape[1] - 1):
        d = h[:, layer + 1] - h[:, layer]
        gap = d[first].mean(0) - d[~first].mean(0)
        spread = sum(d[s].var(0).sum() / s.sum() for s in (first, ~first))
        found.append(float((gap**2).sum() / max(spread, 1e-12)))  # about 1 where the groups do not differ
    return found


def moved(weights: list[Any], direction: Any, step: float) -> None:
    for weight, part in zip(weights, direction, strict=True):
        weight.add_(step * part)


def harm(plant: Plant) -> float:
    """The larger loss that a small step on one group makes on the other, nats a step; below 0 where steps help both."""
    model = plant.models[1]
    weights = list(model.parameters())

    def loss(group: str) -> torch.Tensor:
        of = [i for i in plant.fresh.items if i.group == group][:40]
        each = [-model(ids_of(i)).logits[0, -2].log_softmax(-1)[ids_of(i)[0, -1]] for i in of]
        return torch.stack(each).mean()

    worst = -np.inf
    for one, other in (("cued", "other"), ("other", "cued")):
        g = torch.autograd.grad(loss(one), weights)
        size = float(sum(float(x.square().sum()) for x in g) ** 0.5)
        with torch.no_grad():
            before = float(loss(other))
            moved(weights, g, -1e-2 / size)
            worst = max(worst, (float(loss(other)) - before) / 1e-2)
            moved(weights, g, 1e-2 / size)
    return worst


@pytest.mark.parametrize("name", list(TRUE))
def test_every_analysis_finds_what_is_true_of_a_plant_and_nothing_else(name: str, tmp_path: Path) -> None:
    said = Plant(name, tmp_path).said()
    wrong = {k: said.get(k) for k in KINDS if (said.get(k, (NONE, ""))[0] == FOUND) != (k in TRUE[name])}
    assert not wrong, wrong
    if name == "memory":
        assert said["force"][1].endswith(f"where the answer begins, most at layer {AT}")


@pytest.mark.verify
@pytest.mark.parametrize("name", list(TRUE))
def test_what_the_table_calls_true_is_true_by_oracles(name: str, tmp_path: Path) -> None:
    """Fresh items, numpy, scipy and plain transformers; no truth is doubtful."""
    plant = Plant(name, tmp_path)
    turned, parted, harms = turn_explains(plant), parting(plant), harm(plant)
    assert not 0.02 < turned < 0.1 and not 2 < max(parted) < 20 and abs(harms) > 1e-3, (turned, parted, harms)
    found = {
        "principal": is_principal(plant), "vector": is_vector(plant), "rotation": turned >= 0.1,
        "force": max(parted) >= 20, "spill": harms > 0,
    }  # fmt: skip
    assert {kind for kind, is_true in found.items() if is_true} == TRUE[name], (turned, parted, harms)
    if name == "memory":
        assert int(np.argmax(parted)) == AT
