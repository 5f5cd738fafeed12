"""Proofs hold on sound models and fail on each planted fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from probe import Model
from probe.backends import transformer_lens
from probe.check import prove, prove_logits
from probe.errors import ProbeError
from probe.sites import Site


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


def test_half_written_resid_mid_is_caught(folder_of: Callable[..., Path]) -> None:
    def half(model: Model) -> None:
        ports = model.backend._ports  # type: ignore[attr-defined]
        ports[Site("resid_mid", 0)] = transformer_lens.Port(ports[Site("resid_mid", 0)].module)

    with pytest.raises(ProbeError, match=r"resid_mid\.0_lands"):
        fresh(folder_of, half)


def test_edit_that_does_nothing_is_caught(folder_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(model: Model) -> None:
        ports = model.backend._ports  # type: ignore[attr-defined]
        real = transformer_lens._attach

        def attach(port: transformer_lens.Port, visit: object) -> object:
            if port is ports[Site("z", 0)]:
                return real(port, lambda x: (visit(x), None)[1])  # type: ignore[operator]
            return real(port, visit)  # type: ignore[arg-type]

        monkeypatch.setattr(transformer_lens, "_attach", attach)

    with pytest.raises(ProbeError, match=r"z\.0_changes"):
        fresh(folder_of, nowhere)


def test_wrong_tensor_under_the_right_name_is_caught(folder_of: Callable[..., Path]) -> None:
    def swapped(model: Model) -> None:
        ports = model.backend._ports  # type: ignore[attr-defined]
        ports[Site("attn_out", 1)] = ports[Site("mlp_out", 1)]

    with pytest.raises(ProbeError, match="residual"):
        fresh(folder_of, swapped)


def test_pre_norm_for_post_norm_is_caught(folder_of: Callable[..., Path]) -> None:
    # In post-norm families the module's output is not what is added to the residual stream.
    model = Model.load(folder_of("olmo2"))
    ports = model.backend._ports  # type: ignore[attr-defined]
    attention = model.backend.bridge.blocks[0].attn  # type: ignore[attr-defined]
    ports[Site("attn_out", 0)] = transformer_lens.Port(attention.hook_out)
    with pytest.raises(ProbeError, match="residual"):
        prove(model)
