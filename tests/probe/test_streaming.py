"""A model read from its files block by block: the numbers of one in memory, and what cannot be streamed says so."""

# pyright: basic

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from analyses import run
from analyses.core.running.inputs import Loading
from probe import Model, Prompts
from probe.checkpoints import streaming
from probe.errors import InputError


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_streamed_pass_is_that_of_a_model_in_memory(
    family: str, folder_of: Callable[..., Path], prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(streaming, "_advise", lambda _module, what: told.append(what))
    whole, streamed = Model.load(folder_of(family)), Model.load(folder_of(family), device_map="stream")
    (batch,) = whole.batches(prompts, batch_size=len(prompts.items))
    told.clear()
    there, here = (m.run(batch, ["resid_post", "z"]) for m in (whole, streamed))
    # One block's pages are asked for before the block in front of it computes, and its own marked cold after it.
    assert told == [streaming.WILL_NEED, streaming.COLD] * whole.shape.n_layers
    assert there.logits is not None and here.logits is not None and torch.equal(there.logits, here.logits)
    sites = [*whole.sites("resid_post"), *whole.sites("z")]
    assert all(torch.equal(there[site], here[site]) for site in sites)
    assert whole.generate(prompts, max_new_tokens=4) == streamed.generate(prompts, max_new_tokens=4)


def test_analyses_give_the_same_numbers_streamed(folder_of: Callable[..., Path], prompts: Prompts) -> None:
    folder, few = folder_of("llama"), prompts.limit(3)
    for name in ("perplexity", "logit_lens"):
        there = run(name, model=folder, prompts=few)
        here = run(name, model=folder, prompts=few, loading=Loading(device="stream"))
        assert here.key == there.key  # the same numbers have one address
        assert here.table.equals(there.table)


def test_an_edited_weight_outlives_its_page(folder_of: Callable[..., Path], prompts: Prompts) -> None:
    model = Model.load(folder_of("llama"), device_map="stream")
    weight = next(w for name, w in model.weights().items() if name.endswith("layers.1.mlp.down_proj.weight"))
    with torch.no_grad():
        weight.zero_()
    (batch,) = model.batches(prompts, batch_size=len(prompts.items))
    for _ in range(2):
        assert not model.run(batch, ["mlp_out.1"])["mlp_out.1"].any()


def test_weights_in_another_format_are_not_streamed(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="own number format"):
        Model.load(folder_of("llama"), device_map="stream", dtype="bfloat16")
