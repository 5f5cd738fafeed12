"""What only the nnsight backend has: other kernels, spread devices; and that it is no different elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from probe import Edit, Model, Prompts, Site, add
from probe.backends import NAMES
from probe.errors import InputError


def test_an_edits_own_error_is_the_one_raised(model_of: Callable[..., Model], prompts: Prompts) -> None:
    model = model_of("llama", "nnsight")
    batch = model.batches(prompts)[0]

    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    plain = model.run(batch).logits
    with pytest.raises(ZeroDivisionError):
        model.run(batch, edits=[Edit(Site("resid_mid", 1), fails)])
    with pytest.raises(InputError, match="the function gave"):
        model.run(batch, edits=[Edit(Site("pattern", 1), lambda x: x[:1])])
    assert torch.equal(model.run(batch).logits, plain)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_generation_is_that_of_the_other_backend(family: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    push = torch.randn(32, generator=torch.Generator().manual_seed(0))
    edits = [add("resid_post.1", push), add("attn_out.0", push, "last_prompt")]
    one, two = (model_of(family, b).generate(prompts, max_new_tokens=6, edits=edits) for b in NAMES)
    assert one == two


@pytest.mark.parametrize("backend", NAMES)
def test_other_kernels(backend: str, folder_of: Callable[..., Path], llama: Model, prompts: Prompts) -> None:
    model = Model.load(folder_of("llama"), backend=backend, attn_implementation="sdpa", check=True)
    batch = model.batches(prompts)[0]
    sites = [s for s in model.sites() if s.kind not in ("pattern", "attn_scores")]
    got, want = model.run(batch, sites), llama.run(batch, sites)
    for site in sites:
        assert torch.allclose(got[site][batch.mask], want[site][batch.mask], atol=1e-5), site
    if backend == "nnsight":  # no module and no source line to look at inside a fused kernel
        with pytest.raises(InputError, match="its kinds of site are"):
            model.run(batch, ["pattern.0"])
    else:  # the bridge computes attention in the open, whatever the kernel
        seen, wanted = (m.run(batch, ["pattern.1"])["pattern.1"] for m in (model, llama))
        assert torch.allclose(seen, wanted, atol=1e-5)
    with pytest.raises(InputError, match="transformers cannot load it"):
        Model.load(folder_of("llama"), backend=backend, attn_implementation="nope")


def test_device_map(folder_of: Callable[..., Path], llama: Model, prompts: Prompts) -> None:
    parts = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    model = Model.load(folder_of("llama"), backend="nnsight", device_map={**parts, "model.rotary_emb": "cpu"})
    batch = model.batches(prompts)[0]
    got, want = model.run(batch, model.sites()), llama.run(batch, llama.sites())
    assert torch.allclose(got.logits[batch.mask], want.logits[batch.mask], atol=1e-5)
    model.swap(folder_of("llama", 1))
    assert not torch.allclose(model.run(batch).logits, want.logits, atol=1e-3)


def test_unknown_backend(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="transformer_lens, nnsight"):
        Model.load(folder_of("llama"), backend="hooked")
