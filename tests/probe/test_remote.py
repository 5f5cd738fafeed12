"""The remote road, rehearsed: what is sent is serialised and read back where only a server's libraries exist."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pandas as pd
import pytest
import torch

from probe import Edit, Model, Prompts, Site, add, patch, project_out, scale, zero
from probe.backends.ndif import NdifBackend
from probe.errors import InputError, ProbeError
from tests import tiny

FAMILIES = ("llama", "gpt2", "gemma3_text", "gpt_neox")


def rehearsed(local: Model) -> Model:
    """A handle whose runs take the remote road to the same weights."""
    from nnsight import TransformersModel

    tree = TransformersModel(copy.deepcopy(local.backend.plain), tokenizer=copy.deepcopy(local.tokenizer))  # type: ignore[attr-defined]
    return Model(NdifBackend(tree, "local"), local.tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_and_logits_are_the_local_ones(family: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    local = model_of(family)
    far = rehearsed(local)
    batch = local.batches(prompts)[0]
    want, got = local.run(batch, far.sites()), far.run(batch, far.sites())
    assert torch.allclose(got.logits[batch.mask], want.logits[batch.mask], atol=1e-5)
    for site in far.sites():
        axis = site.dims.index("pos")
        a, b = (t[site].movedim(axis, 1)[batch.mask].clamp(min=-1e20) for t in (want, got))
        assert torch.allclose(a, b, atol=1e-5), site
    last = far.run(batch, logits="last").logits
    assert torch.allclose(last, local.run(batch, logits="last").logits, atol=1e-5)
    assert far.run(batch, ["resid_pre.1"], logits="none").logits is None


def test_edits_are_the_local_ones(model_of: Callable[..., Model], prompts: Prompts) -> None:
    local = model_of("llama")
    far = rehearsed(local)
    batch = local.batches(prompts)[0]
    vector = torch.randn(tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    value = local.run(batch, ["resid_mid.1"])["resid_mid.1"].flip(0)
    for edit in (
        zero("z.1.2", "last_prompt"), scale("mlp_post.0", 2.0, [3, 4]), add("resid_post.0", vector, "all_prompt"),
        project_out("resid_pre.1", vector), patch("resid_mid.1", value, "last_prompt"), zero("pattern.1.0"),
        zero("k.0.1"), scale("q.1", 0.5), Edit(Site("attn_out", 1), lambda x: torch.tanh(x) * 2),
    ):  # fmt: skip
        want, got = (m.run(batch, ["resid_post.2"], [edit]) for m in (local, far))
        assert torch.allclose(got.logits[batch.mask], want.logits[batch.mask], atol=1e-5), edit.site
        assert torch.allclose(got["resid_post.2"][batch.mask], want["resid_post.2"][batch.mask], atol=1e-5)


def test_what_a_server_cannot_do_is_refused_before_anything_is_sent(
    model_of: Callable[..., Model], prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = rehearsed(model_of("llama"))
    batch = far.batches(prompts)[0]

    def sent(*_: object) -> None:
        raise AssertionError("sent")

    monkeypatch.setattr(NdifBackend, "_trace", sent)
    lock = threading.Lock()  # something no pickle can carry
    frame = pd.Series([2.0])

    def locked(x: torch.Tensor) -> torch.Tensor:
        with lock:
            return x

    def by_frame(x: torch.Tensor) -> torch.Tensor:
        return x * float(frame.sum())

    def by_module(x: torch.Tensor) -> torch.Tensor:
        return x * float(pd.Series([2.0]).sum())

    for function, message in ((locked, "cannot be sent"), (by_frame, "pandas"), (by_module, "pandas")):
        with pytest.raises(InputError, match=message):
            far.run(batch, edits=[Edit(Site("z", 1), function)])
    refused = (
        far.weights, far.unembed_weights, lambda: far.unembed(torch.zeros(1, 32)), lambda: far.swap("x"),
        lambda: far.final_norm(torch.zeros(1, 32)), lambda: far.generate(prompts, max_new_tokens=2),
        lambda: far.backend.plain,
    )  # fmt: skip
    for call in refused:
        with pytest.raises(InputError, match="nothing was sent"):
            call()
    with pytest.raises(InputError, match="does not exist"):
        far.run(batch, ["logits"])


def test_remote_needs_nnsight() -> None:
    with pytest.raises(InputError, match="backend='nnsight'"):
        Model.load("lab/toy", remote=True)
    with pytest.raises(InputError, match="lab/toy"):
        Model.load("lab/toy", backend="nnsight", remote=True)


def test_a_reference_cannot_be_proven_far_away(model_of: Callable[..., Model]) -> None:
    from probe.check import prove

    with pytest.raises(ProbeError, match="no plain Hugging Face run"):
        prove(rehearsed(model_of("llama")))
