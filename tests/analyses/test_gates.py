"""Gates that run before numbers are believed: a model the engine computes otherwise is refused, not reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import run
from probe import Item, Model, ProbeError, Prompts
from probe.replay.decoder import Decoder
from probe.sites import Site
from tests import tiny

PROMPTS = Prompts(tuple(Item(f"q{i}", f"what is {i} plus 7 ?", f" ans {i}", group="ab"[i % 2]) for i in range(4)))
NEURONS = pd.DataFrame({"layer": [1, 1, 1], "neuron": [0, 3, 5]})
FAMILIES = ("bitnet", "gemma2", "gpt2", "gpt_neox")


def model(family: str, seed: int = 0) -> Model:
    toks = tiny.tokenizer(family)
    return Model.wrap(tiny.model(family, seed=seed, vocab_size=len(toks)), toks)


def steered(of: Model) -> pd.DataFrame:
    how: dict[str, Any] = {"neurons": NEURONS, "layers": ("1",), "alphas": (0.0,), "draws": 1, "selection": "item"}
    table = run("mlp_key_steering", model=of, prompts=PROMPTS, **how).table
    return table[(table["arm"] == "given") & (table["alpha"] == 0)].set_index("item")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_path_patched_with_itself_is_itself(family: str) -> None:
    """Also where a norm stands between attention and its output matrix (BitNet)."""
    one = model(family)
    how = {"senders": ("embed", "mlp_out"), "receivers": ("q", "v", "final"), "positions": "all_prompt"}
    table = run("path_patching", base=one, tuned=model(family), prompts=PROMPTS, **how).table
    assert table["effect"].abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_put_to_zero_are_zero_at_the_down_projection(family: str) -> None:
    one = model(family)
    table = steered(one)
    plain: Any = one.backend.plain
    name = {"gpt2": "transformer.h.1.mlp.c_proj", "gpt_neox": "gpt_neox.layers.1.mlp.dense_4h_to_h"}
    down = plain.get_submodule(name.get(family, "model.layers.1.mlp.down_proj"))

    def zero(_module: Any, args: Any) -> Any:
        x = args[0].clone()
        x[..., [0, 3, 5]] = 0
        return (x, *args[1:])

    handle = down.register_forward_pre_hook(zero)
    for batch in one.batches(PROMPTS, batch_size=1):
        ids, n = batch.ids, int((batch.span == 4).sum())
        log_p = plain(input_ids=ids).logits[0, :-1].detach().double().log_softmax(-1)
        want = log_p.gather(-1, ids[0, 1:, None])[-n:].mean()
        assert abs(table.loc[batch.items[0].id, "metric"] - float(want)) < 1e-5
    handle.remove()


def test_a_receiver_that_is_computed_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a norm between attention and z is not known to the path."""
    z_of = Decoder.z_of
    monkeypatch.setattr(Decoder, "z_of", lambda self, *a: 1.5 * z_of(self, *a))
    with pytest.raises(ProbeError, match=r"gate: a run path-patched with itself .* receiver q"):
        run("path_patching", base=model("llama"), tuned=model("llama", 1), prompts=PROMPTS, receivers=("q",))


def test_keys_that_are_not_what_the_down_projection_multiplies_are_refused() -> None:
    one = model("llama")
    places = one.backend.map.places  # type: ignore[attr-defined]
    site = Site("mlp_post", 1)  # its neurons in another order than the matrix takes them
    places[site] = replace(places[site], layout="picked", columns=torch.arange(48).roll(1))
    with pytest.raises(ProbeError, match=r"gate: neurons of block 1 .*down_proj"):
        steered(one)
