"""Proofs hold on sound models and fail on each planted fault."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from probe import Model, Prompts, zero
from probe.backends.place import Place
from probe.check import prove, prove_logits
from probe.errors import ProbeError
from probe.sites import Site
from tests.conftest import ROOT


def test_every_proof_holds_and_is_named(llama: Model) -> None:
    proofs = {p.name: p for p in prove(llama)}
    assert all(p.holds for p in proofs.values())
    assert {"logits_alone", "logits_left_padded", "residual", "unembed", "resid_mid.0_lands"} <= proofs.keys()
    kinds = {s.kind for s in llama.sites()}
    assert kinds <= {name.removesuffix("_changes").split(".")[0] for name in proofs if name.endswith("_changes")}


def test_unchecked_models_cannot_claim_proofs(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(ProbeError, match="check=False"):
        prove(Model.load(folder_of("llama"), check=False))


def test_stale_head_is_caught(folder_of: Callable[..., Path]) -> None:
    model = Model.load(folder_of("llama"))
    with torch.no_grad():
        model.weights()["lm_head.weight"].mul_(1.01)
    with pytest.raises(ProbeError, match="logits"):
        prove_logits(model)


def fresh(folder_of: Callable[..., Path], change: Callable[[Model], None]) -> None:
    model = Model.load(folder_of("llama"))
    change(model)
    prove(model)


def replace_place(model: Model, site: str, **changes: object) -> None:
    places = model.backend._places  # type: ignore[attr-defined]
    places[Site.parse(site)] = replace(places[Site.parse(site)], **changes)


def test_half_written_resid_mid_is_caught(folder_of: Callable[..., Path]) -> None:
    # The hook sees the right tensor, but the skip path goes on without the edit.
    with pytest.raises(ProbeError, match=r"resid_mid\.0_lands"):
        fresh(folder_of, lambda model: replace_place(model, "resid_mid.0", layout="plain"))


def test_edit_that_does_nothing_is_caught(folder_of: Callable[..., Path]) -> None:
    def nowhere(model: Model) -> None:
        places = model.backend._places  # type: ignore[attr-defined]

        class Deaf(Place):
            def write(self, new: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                return x

        z = places[Site("z", 0)]
        places[Site("z", 0)] = Deaf(z.path, z.side, z.layout, z.n_heads)

    with pytest.raises(ProbeError, match=r"z\.0_changes"):
        fresh(folder_of, nowhere)


def test_wrong_tensor_under_the_right_name_is_caught(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(ProbeError, match="residual"):
        fresh(folder_of, lambda model: replace_place(model, "attn_out.1", path="model.layers.1.mlp"))


def test_pre_norm_for_post_norm_is_caught(folder_of: Callable[..., Path]) -> None:
    # In post-norm families the module's output is not what is added to the residual stream.
    model = Model.load(folder_of("olmo2"))
    replace_place(model, "attn_out.0", path="model.layers.0.self_attn")
    with pytest.raises(ProbeError, match="residual"):
        prove(model)


def test_the_road_into_attention_owes_its_proofs_until_it_is_taken(folder_of: Callable[..., Path]) -> None:
    """Loading does not take it; the first look does, without the edits then open. A proof that failed fails again."""
    model = Model.load(folder_of("llama"))
    (batch,) = model.batches(Prompts.of([{"prompt": "what is 3", "answer": " plus"}]))
    assert model.backend.owed is not None
    with model.edited(zero("resid_mid.0")):  # proofs under it would fail
        model.run(batch, ["pattern.0"])
    assert model.backend.owed is None
    other = Model.load(folder_of("llama"))
    with torch.no_grad():
        other.weights()["lm_head.weight"].mul_(2)  # so that every logit differs from the reference's
    replace_place(other, "resid_mid.0", layout="plain")
    for _ in range(2):
        with pytest.raises(ProbeError, match=r"resid_mid\.0_lands"):
            other.run(batch, ["pattern.0"])


def test_transformer_lens_is_imported_where_attention_is_looked_into(folder_of: Callable[..., Path]) -> None:
    """A process that does not look there saves its import, and a swap leaves the debt as it is."""
    script = f"""
import sys
from probe import Model, Prompts, zero
model = Model.load({str(folder_of("llama"))!r})
model.swap({str(folder_of("llama", 1))!r})
model.generate("what is 3", max_new_tokens=2)
assert "transformer_lens" not in sys.modules
model.run(model.batch("what is 3"), ["pattern.0"])
assert "transformer_lens" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
