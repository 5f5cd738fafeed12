"""Every family, site and backend: reads agree, writes agree, padding and batch change nothing, swaps are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe import Edit, Model, Prompts, Site
from probe.backends import NAMES
from probe.errors import InputError
from probe.identity import weights_hash
from probe.sites import KINDS, READ_ONLY
from probe.tokens import TokenBatch
from tests import tiny

PARALLEL = {"gpt_neox"}
UNGATED = {"gpt_neox", "gpt2"}
MASKED = -1e30
SHARED = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch_of(model: Model, prompts: Prompts, padding: str = "left") -> TokenBatch:
    return model.batches(prompts, padding=padding)[0]  # type: ignore[arg-type]


def visible(x: torch.Tensor, site: Site, batch: TokenBatch) -> torch.Tensor:
    """The values at real tokens, masked scores as 0."""
    axis = site.dims.index("pos")
    rows = x.movedim(axis, 1)[batch.mask]
    return rows.masked_fill(rows < MASKED, 0.0)


def test_sites_are_those_of_the_family(family: str, model_of: Callable[..., Model]) -> None:
    kinds = set(KINDS) - ({"resid_mid"} if family in PARALLEL else set()) - ({"mlp_up"} if family in UNGATED else set())
    kinds -= {"mixer_out", *READ_ONLY}
    for backend in NAMES:
        model = model_of(family, backend)
        assert {s.kind for s in model.sites()} == kinds
        for missing in set(KINDS) - kinds:
            with pytest.raises(InputError, match=f"{family} model.*kinds of site are.*resid_pre"):
                model.site(Site(missing, 0))


def test_backends_read_the_same_at_every_site(family: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    one, two = (model_of(family, backend) for backend in NAMES)
    batch = batch_of(one, prompts)
    a, b = one.run(batch, one.sites()), two.run(batch, two.sites())
    outside = [s for s in one.sites() if s.kind not in ("pattern", "attn_scores")]
    c = one.run(batch, outside)
    for site in one.sites():
        want = visible(a[site], site, batch)
        assert torch.allclose(visible(b[site], site, batch), want, atol=1e-5), site
        if site in outside:  # the road without the bridge
            assert torch.allclose(visible(c[site], site, batch), want, atol=1e-5), site


@SHARED
@given(data=st.data())
def test_backends_write_the_same(
    family: str, model_of: Callable[..., Model], prompts: Prompts, data: st.DataObject
) -> None:
    one, two = (model_of(family, backend) for backend in NAMES)
    site = data.draw(st.sampled_from(one.sites()), label="site")
    if "head" in site.dims or "kv_head" in site.dims:
        heads = one.shape.n_kv_heads if site.kind in ("k", "v") else one.shape.n_heads
        site = Site(site.kind, site.layer, data.draw(st.sampled_from([None, *range(heads)]), label="head"))
    padding = data.draw(st.sampled_from(["left", "right"]), label="padding")
    positions = data.draw(st.sampled_from(["all", "all_prompt", "last_prompt", "from_last_prompt"]), label="positions")
    factor = data.draw(st.sampled_from([0.0, -1.0, 0.5]), label="factor")
    edit = Edit(site, lambda x: torch.where(x < MASKED, x, x * factor), positions)
    batch = batch_of(one, prompts, padding)
    plain = one.run(batch).logits
    got = [model.run(batch, edits=[edit]).logits for model in (one, two)]
    # The same edit with a pattern read takes the road over the bridge.
    got.append(one.run(batch, ["pattern.0"], [edit]).logits)
    for other in got[1:]:
        assert torch.allclose(got[0][batch.mask], other[batch.mask], atol=1e-4)
    assert not torch.allclose(got[0][batch.mask], plain[batch.mask], atol=1e-6)


@SHARED
@given(data=st.data())
def test_batched_is_single_and_identity_is_nothing(
    family: str, model_of: Callable[..., Model], prompts: Prompts, data: st.DataObject
) -> None:
    model = model_of(family, data.draw(st.sampled_from(NAMES), label="backend"))
    site = data.draw(st.sampled_from(model.sites()), label="site")
    padding = data.draw(st.sampled_from(["left", "right"]), label="padding")
    batch = batch_of(model, prompts, padding)
    together = model.run(batch, [site])
    same = model.run(batch, [site], [Edit(site, lambda x: x.clone())])
    assert torch.allclose(same.logits[batch.mask], together.logits[batch.mask], atol=1e-6)
    row = data.draw(st.integers(0, len(batch) - 1), label="row")
    item = batch.items[row]
    alone = model.run(model.batches(Prompts((item,)))[0], [site])
    start, end = int(batch.offsets[row]), int(batch.offsets[row]) + int(batch.mask[row].sum())
    kept = together[site][row]
    if "key_pos" in site.dims:
        kept = kept[:, start:end, start:end]
        kept, want = kept.masked_fill(kept < MASKED, 0.0), alone[site][0].masked_fill(alone[site][0] < MASKED, 0.0)
    else:
        kept, want = kept[start:end], alone[site][0]
    assert torch.allclose(kept, want, atol=1e-5)
    assert torch.allclose(together.logits[row, start:end], alone.logits[0], atol=1e-4)


@pytest.mark.parametrize("backend", NAMES)
def test_swap_is_a_fresh_load(
    family: str, backend: str, folder_of: Callable[..., Path], model_of: Callable[..., Model], prompts: Prompts
) -> None:
    model = Model.load(folder_of(family, 1), backend=backend, check=False)
    batch = batch_of(model, prompts)
    old = model.run(batch, model.sites())
    model.swap(folder_of(family))
    fresh = model_of(family, backend)
    want, got = fresh.run(batch, fresh.sites()), model.run(batch, model.sites())
    outside = [s for s in model.sites() if s.kind not in ("pattern", "attn_scores")]
    plain = model.run(batch, outside)
    assert torch.allclose(got.logits[batch.mask], want.logits[batch.mask], atol=1e-5)
    for site in model.sites():
        assert torch.allclose(visible(got[site], site, batch), visible(want[site], site, batch), atol=1e-5), site
        assert not torch.allclose(visible(got[site], site, batch), visible(old[site], site, batch), atol=1e-4), site
    for site in outside:
        assert torch.allclose(visible(plain[site], site, batch), visible(want[site], site, batch), atol=1e-5), site
    assert model.fingerprint() == fresh.fingerprint()


@pytest.mark.parametrize("backend", NAMES)
def test_edits_leave_no_trace(family: str, backend: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    model = model_of(family, backend)
    batch = batch_of(model, prompts)
    before, plain = weights_hash(model.weights()), model.run(batch).logits
    for site in model.sites():
        model.run(batch, edits=[Edit(site, lambda x: x * 0.5)], logits="all" if site.kind == "logits" else "none")
    assert weights_hash(model.weights()) == before
    assert torch.equal(model.run(batch).logits, plain)


@pytest.mark.parametrize("backend", NAMES)
def test_wrap_leaves_the_callers_model_alone(
    family: str, backend: str, folder_of: Callable[..., Path], prompts: Prompts
) -> None:
    toks, held = tiny.tokenizer(family), tiny.model(family)
    held.train()
    names, kernel = list(held.state_dict()), held.config._attn_implementation
    before, padding = weights_hash(dict(held.named_parameters())), toks.padding_side
    modules = [(n, type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in held.named_modules()]
    model = Model.wrap(held, toks, backend=backend)
    batch = batch_of(model, prompts)
    logits = model.run(batch, model.sites(), [Edit(Site("resid_post", 0), lambda x: x * 0.5)]).logits
    model.generate(prompts, max_new_tokens=2)
    model.swap(folder_of(family, 1))
    assert not torch.allclose(model.run(batch).logits, logits)
    assert held.training
    assert list(held.state_dict()) == names
    assert held.config._attn_implementation == kernel
    assert weights_hash(dict(held.named_parameters())) == before
    assert [(n, type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in held.named_modules()] == modules
    assert "forward" not in vars(held.base_model)
    assert (toks.padding_side, toks.bos_token) == (padding, "<s>")


def test_wrap_shares_memory(prompts: Prompts) -> None:
    held = tiny.model("llama")
    model = Model.wrap(held, tiny.tokenizer())
    batch = batch_of(model, prompts)
    before = model.run(batch).logits
    with torch.no_grad():
        held.model.layers[1].mlp.up_proj.weight.mul_(0.5)  # as an optimizer's step does
    after = model.run(batch).logits
    assert not torch.allclose(before, after)
    assert model.weights()["lm_head.weight"].data_ptr() == held.lm_head.weight.data_ptr()
    inputs = {"attention_mask": batch.mask.long(), "position_ids": batch.position_ids}
    assert torch.allclose(after[batch.mask], held(batch.ids, **inputs).logits[batch.mask], atol=1e-5)


def test_module_spellings_are_refused_where_a_norm_follows(model_of: Callable[..., Model]) -> None:
    assert model_of("llama").site("model.layers.1.mlp") == Site("mlp_out", 1)
    for family in ("gemma2", "gemma3_text", "olmo2"):
        with pytest.raises(InputError, match="a norm follows"):
            model_of(family).site("blocks.1.attn.hook_out")
        assert model_of(family).site("blocks.1.hook_attn_out") == Site("attn_out", 1)


def test_tied_and_untied_heads(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    tied = Model.load(tiny.save(tmp_path / "tied", "llama", tie_word_embeddings=True))
    weights = tied.weights()
    assert weights["lm_head.weight"].data_ptr() == weights["model.embed_tokens.weight"].data_ptr()
    tied.swap(tiny.save(tmp_path / "next", "llama", seed=3, tie_word_embeddings=True))
    weights = tied.weights()
    assert weights["lm_head.weight"].data_ptr() == weights["model.embed_tokens.weight"].data_ptr()


def test_padded_vocabulary_is_kept_whole(tmp_path: Path, prompts: Prompts) -> None:
    model = Model.load(tiny.save(tmp_path / "wide", "llama", vocab_size=400))
    assert len(model.tokenizer) == 320
    assert model.run(batch_of(model, prompts)).logits.shape[-1] == model.shape.d_vocab == 400
