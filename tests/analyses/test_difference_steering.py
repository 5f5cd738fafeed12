"""Steering by the difference of two checkpoints: a planted bias is the whole gap, placebos are not; twins have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import get
from analyses.steering.difference_steering import mean_difference
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import tiny


def example(folder: Path) -> dict[str, Any]:
    base, tuned = biased(folder)
    return {"base": base, "tuned": tuned, "prompts": tiny.twelve_items(), "layer": 1, "betas": (1.0,), "draws": 2}


def biased(folder: Path, layer: int = 1, size: float = 3.0) -> tuple[Model, Model]:
    """A model whose MLP of one block has a bias, and the same with another constant added to that bias."""
    saved = tiny.save(folder / "base", "gpt2")
    built = tiny.model("gpt2", vocab_size=len(tiny.tokenizer("gpt2")))
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        built.transformer.h[layer].mlp.c_proj.bias.add_(size * torch.randn(tiny.D_MODEL, generator=rng))
    built.save_pretrained(folder / "tuned")
    tiny.tokenizer("gpt2").save_pretrained(folder / "tuned")
    return Model.load(saved), Model.load(folder / "tuned")


def items(n: int) -> Prompts:
    return Prompts(tuple(Item(f"q{i}", f"what is {i} plus {3 * i % 7} ?", " ans 7") for i in range(n)))


def test_a_bias_is_the_difference_and_adding_it_is_the_tuned_checkpoint(tmp_path: Path) -> None:
    base, tuned = biased(tmp_path)
    want = tuned.weights()["transformer.h.1.mlp.c_proj.bias"] - base.weights()["transformer.h.1.mlp.c_proj.bias"]
    found = mean_difference(base, tuned, items(6), base.site("resid_post.1"), {"batch_size": 4})
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    result = get("difference_steering")(base, tuned, items(12), texts=items(5), layer=1, betas=(1.0,), draws=20)
    rows = result.table.set_index(["arm", "draw", "beta", "item"])["metric"]
    gap = result.table.query("arm == 'difference' and beta == 0").set_index("item")["missing"]
    moved = rows["difference", 0, 1.0] - rows["difference", 0, 0.0]
    assert moved.tolist() == pytest.approx(gap[moved.index].tolist(), abs=1e-4)
    assert result.data["recovered"].max().item() == pytest.approx(1, abs=1e-3)
    random = result.data["effect"].sel(arm="random_direction", beta=1.0).item()
    assert abs(random) < abs(result.data["effect"].sel(arm="difference", beta=1.0).item())


def test_twins_have_no_difference_to_add(tmp_path: Path) -> None:
    base, _ = biased(tmp_path)
    result = get("difference_steering")(base, base, items(12), layer=1, draws=20)
    assert not [c for c in result.claims if c.is_found] and result.warnings
    moved = result.table.groupby(["arm", "draw", "item"])["metric"].agg(lambda x: x.max() - x.min())
    assert moved.max() == 0 and result.data["recovered"].isnull().all()


def test_what_is_refused(tmp_path: Path) -> None:
    base, tuned = biased(tmp_path)
    with pytest.raises(InputError, match="betas"):
        get("difference_steering")(base, tuned, items(8), betas=(float("nan"),))
