"""Planted updates, each found by its own analysis and by no wrong one; the same checkpoint twice is nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import run
from probe import Item, Prompts
from tests import tiny

# What each analysis says of each plant: the answer of its claims by kind.
FOUND, NONE, UNJUDGED = "found", "none found", "cannot be judged"
SAID = {
    "subspace": {"principal": FOUND, "vector": NONE},  # states may turn under it: of that nothing is asked
    "bias": {"principal": UNJUDGED, "vector": FOUND, "rotation": NONE},
    "rotation": {"vector": NONE, "rotation": FOUND},
    "nothing": {"principal": None, "vector": NONE, "rotation": NONE},
}
ITEMS = Prompts(tuple(
    Item(f"q{i:02d}", f"what is {i} plus {5 * i % 11} ?" if i % 2 else f"Ann has {i} figs . buys {i % 7} . how many ?",
         f" ans {3 * i % 8}") for i in range(30)
))  # fmt: skip


def subspace(model: Any) -> None:
    """Every matrix changes within its first four singular directions on both sides."""
    for weight in (p for p in model.parameters() if p.ndim == 2 and min(p.shape) >= 16):
        u, _, v = torch.linalg.svd(weight, full_matrices=False)
        weight.add_(0.02 * weight.norm() * u[:, :4] @ torch.randn(4, 4) / 4 @ v[:4])


def bias(model: Any) -> None:
    """A constant behind the last block."""
    model.transformer.h[-1].mlp.c_proj.bias.add_(2.0 * torch.randn(tiny.D_MODEL))


def rotation(model: Any) -> None:
    """The residual stream of an RMSNorm model turned in eight planes, with all that writes to it and reads from it."""
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


PLANTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "subspace": ("llama", subspace), "bias": ("gpt2", bias), "rotation": ("llama", rotation),
    "nothing": ("llama", lambda _: None),
}  # fmt: skip


def pair(folder: Path, family: str, change: Callable[[Any], None]) -> dict[str, Any]:
    """Folders of a random model and of the same with the change; norms of no weight, so that a rotation passes."""
    tokens = tiny.tokenizer(family)
    built = tiny.model(family, vocab_size=len(tokens))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if family == "llama" and "norm" in name:
                weight.fill_(1.0)
        for name in ("base", "tuned"):
            if name == "tuned":
                change(built)
            built.save_pretrained(folder / name)
            tokens.save_pretrained(folder / name)
    return {"base": folder / "base", "tuned": folder / "tuned"}


@pytest.mark.parametrize("plant", list(PLANTS))
def test_every_plant_is_found_by_its_own_analysis_and_by_no_wrong_one(plant: str, tmp_path: Path) -> None:
    given = pair(tmp_path, *PLANTS[plant])
    claims = run("update_landing", **given, precision="float32").claims
    claims += run("tuning_vector", **given, prompts=ITEMS, layers=(2,), batch_size=30).claims
    claims += run("activation_rotation", **given, prompts=ITEMS, draws=5, batch_size=30).claims
    said = {c.kind: c.answer for c in claims}
    assert {kind: said.get(kind) for kind in SAID[plant]} == SAID[plant], [(c.kind, c.answer, c.effect) for c in claims]
