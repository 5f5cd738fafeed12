"""Families whose blocks differ from a plain decoder's: experts, hybrids, compressed keys, scales, sinks, two towers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from probe import Edit, Model, Prompts, Site, patch
from probe.backends import NAMES
from probe.backends.hooks import Port, attach
from probe.errors import InputError
from probe.replay import Clean, answer_logprob, replay
from probe.replay.passes import whole_run
from probe.sites import READ_ONLY
from probe.weights import PARTS, down_rows, places
from tests import tiny, zoo

ROUTED = ("qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3")
FAMILIES = (*ROUTED, "phi3", "qwen3_next", "granite", "bitnet", "falcon", "gemma4_text", "granitemoeshared")


@pytest.fixture(scope="module")
def model_of() -> Callable[[str, str], Model]:
    """A proved handle over a random model of a family, the same weights on both backends."""

    @lru_cache
    def made(family: str, backend: str = "transformer_lens") -> Model:
        return Model.wrap(zoo.model(family), tiny.tokenizer(), backend=backend)

    return lru_cache(made)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch_of(model: Model, prompts: Prompts) -> Any:
    return model.batches(prompts.limit(3), batch_size=3)[0]


def test_logits_are_those_of_plain_transformers(family: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    plain = zoo.model(family)
    for backend in NAMES:
        model = model_of(family, backend)
        batch = batch_of(model, prompts)
        got = model.run(batch).logits
        for row, mask in enumerate(batch.mask):
            with torch.no_grad():
                want = plain(input_ids=batch.ids[row][mask][None], use_cache=False).logits[0]
            assert torch.allclose(got[row][mask], want, atol=1e-5)


def test_backends_read_the_same(family: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    one, two = (model_of(family, backend) for backend in NAMES)
    assert one.sites() == two.sites()
    batch = batch_of(one, prompts)
    a, b = one.run(batch, one.sites()), two.run(batch, two.sites())
    for site in one.sites():
        x, y = (t[site].movedim(site.dims.index("pos"), 1)[batch.mask].float().clamp(min=-1e30) for t in (a, b))
        assert torch.allclose(x, y, atol=1e-5), site


def test_replay_of_every_kind_equals_a_whole_pass(
    family: str, model_of: Callable[..., Model], prompts: Prompts
) -> None:
    model = model_of(family)
    clean = Clean(model, batch_of(model, prompts))
    metric = answer_logprob(clean.batch)
    rng = torch.Generator().manual_seed(0)
    first = {site.kind: site for site in reversed(model.sites()) if site.kind not in (*READ_ONLY, "logits")}
    runs = [
        patch(site, value + 0.3 * torch.randn(value.shape, generator=rng), [1])
        for site, value in ((s, clean.value(s)) for s in first.values())
    ]
    fast = replay(clean, runs, metric)
    rows = metric.rows.cpu()
    for edit, got in zip(runs, fast, strict=True):
        whole = whole_run(clean, [edit], metric, rows, 64)
        want = torch.stack([x[r].mean() for x, r in zip(whole, rows, strict=True)])
        assert torch.allclose(got, want, atol=1e-5), edit.site


def test_replay_runs_rows_where_it_can(model_of: Callable[..., Model], prompts: Prompts) -> None:
    by_rows = {f: not Clean(m, batch_of(m, prompts)).why_whole for f in FAMILIES if (m := model_of(f))}
    whole = {"qwen3_next", "gpt_oss", "falcon", "gemma4_text"}  # a state, a sink, an attention or blocks of its own
    assert {f for f, rows in by_rows.items() if not rows} == whole
    hybrid = model_of("qwen3_next")
    with pytest.raises(InputError, match=r"mixes positions otherwise.*paths into the final state"):
        _ = Clean(hybrid, batch_of(hybrid, prompts)).qkv


@pytest.mark.parametrize("routed", ROUTED)
def test_the_router_is_read_and_not_edited(routed: str, model_of: Callable[..., Model], prompts: Prompts) -> None:
    model = model_of(routed)
    layer = model.shape.n_layers - 1
    logits, experts, into = Site("router_logits", layer), Site("experts", layer), Site("mlp_out", layer)
    batch = batch_of(model, prompts)
    trace = model.run(batch, [logits, experts])
    assert trace[logits].shape == (*batch.ids.shape, 4)
    assert trace[experts].shape == (*batch.ids.shape, 2)
    block: Any = model.backend.plain.model.layers[layer].mlp
    router = block.router if hasattr(block, "router") else block.gate
    seen: list[torch.Tensor] = []
    handle = router.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model.run(batch, logits="none")
    handle.remove()
    want = seen[0].reshape(-1, 32) @ router.weight.T + (getattr(router, "bias", None) if routed == "gpt_oss" else 0)
    assert torch.allclose(trace[logits].flatten(0, 1), want, atol=1e-5)
    if routed != "deepseek_v3":  # there a correction, 0 here, and groups take part in the choice
        assert torch.equal(trace[experts].sort(-1)[0], trace[logits].topk(2, dim=-1)[1].sort(-1)[0])
    for site in (logits, experts):
        with pytest.raises(InputError, match=f"read, not edited.*{into}"):
            model.run(batch, edits=[Edit(site, lambda x: x)])


def test_what_a_block_lacks_is_refused_by_name(model_of: Callable[..., Model]) -> None:
    hybrid, low_rank, routed = (model_of(f) for f in ("qwen3_next", "deepseek_v3", "mixtral"))
    assert hybrid.site("mixer_out.0") and hybrid.site("pattern.1") and low_rank.site("mlp_post.0")
    for model, site, reason in (
        (hybrid, "pattern.0", "no softmax attention.*linear_attn"),
        (hybrid, "attn_out.2", "no softmax attention"),
        (hybrid, "mixer_out.1", "no such part"),
        (low_rank, "k.1", "compressed"),
        (low_rank, "mlp_post.1", "several experts"),
        (routed, "mlp_pre.0", "several experts"),
        (routed, "mixer_out.0", "no such part"),
        (model_of("phi3"), "experts.0", "not routed"),
    ):
        with pytest.raises(InputError, match=f"{site} does not exist.*block {site[-1]}: .*{reason}"):
            model.site(site)
    with pytest.raises(InputError, match="no one down projection"):
        down_rows(routed, 0)


def test_several_streams_give_their_logits_by_the_final_norm(model_of: Callable[..., Model], prompts: Prompts) -> None:
    model = model_of("gemma3n_text")
    batch = batch_of(model, prompts)
    trace = model.run(batch, [model.last_state])
    assert (model.last_state.kind, model.sites("resid_post")) == ("ln_final", [])
    assert torch.allclose(model.logits_of(trace[model.last_state])[batch.mask], trace.logits[batch.mask], atol=1e-5)
    with pytest.raises(InputError, match=r"resid_post.3 does not exist.*block 3: its stream is \[4, 2,"):
        model.site("resid_post.3")


def test_scaled_parts_are_read_as_what_they_add(model_of: Callable[..., Model], prompts: Prompts) -> None:
    model = model_of("granite")
    batch = batch_of(model, prompts)
    raw: list[torch.Tensor] = []
    module = model.backend.plain.model.layers[0].mlp
    port = Port(module, model.backend.map.places[Site("mlp_out", 0)])
    handle = attach(port, lambda x: raw.append(x))
    trace = model.run(batch, ["resid_mid.0", "mlp_out.0", "resid_post.0", "embed", "resid_pre.0"])
    handle.remove()
    assert torch.allclose(trace["resid_mid.0"] + trace["mlp_out.0"], trace["resid_post.0"], atol=1e-5)
    assert torch.allclose(trace["embed"], trace["resid_pre.0"], atol=1e-6)
    assert torch.equal(raw[0], trace["mlp_out.0"])
    weights, bias = model.unembed_weights()
    resid = torch.randn(2, 32)
    assert bias is None
    assert torch.allclose(model.final_norm(resid) @ weights, model.unembed(resid), atol=1e-5)


def test_all_weights_have_a_place(family: str, model_of: Callable[..., Model]) -> None:
    model = model_of(family)
    found = places(model)
    named = {slot.name for slots in found.values() for slot in slots}
    assert named == set(model.weights())
    other = {slot.name for place, slots in found.items() if place.part == "other" for slot in slots}
    assert {place.part for place in found} <= set(PARTS)
    assert all("per_layer" in name for name in other), "Gemma 4's embeddings by layer are of no part of a decoder"
    fused = model.weights().get("model.layers.0.mlp.gate_up_proj.weight")
    if fused is not None:
        parts = [slots[0].read(fused) for place, slots in found.items() if str(place) in ("mlp.gate.0", "mlp.up.0")]
        assert torch.equal(torch.cat(parts), fused)


def whole_model(family: str) -> Any:
    """A tiny multimodal model: Gemma 3, or Llama 4, of which transformers has a class for the text alone, too."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = tiny.config("gemma3_text", 320) if family == "gemma3" else zoo.config("llama4_text")
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
             "image_size": 28, "patch_size": 14}  # fmt: skip
    own = {
        "gemma3": {"vision_config": tower | {"model_type": "siglip_vision_model"}, "image_token_index": 318,
                   "boi_token_index": 317, "eoi_token_index": 316, "mm_tokens_per_image": 4},
        "llama4": {"vision_config": tower | dict.fromkeys(
                       ("vision_output_dim", "projector_input_dim", "projector_output_dim"), 32)},
    }[family]  # fmt: skip
    config = AutoConfig.for_model(family, text_config=text.to_dict(), **own)
    torch.manual_seed(0)
    return tiny.perturbed(AutoModelForImageTextToText.from_config(config, attn_implementation="eager"))


@pytest.mark.parametrize("family_of_two", ["gemma3", "llama4"])
def test_a_multimodal_folder_is_read_as_it_lies(family_of_two: str, tmp_path: Path, prompts: Prompts) -> None:
    whole = whole_model(family_of_two)
    whole.save_pretrained(tmp_path)
    tiny.tokenizer("gemma3_text").save_pretrained(tmp_path)
    for backend in NAMES:
        model = Model.load(tmp_path, backend=backend)
        assert model.shape.family == f"{family_of_two}_text"
        batch = batch_of(model, prompts)
        with torch.no_grad():
            want = whole(input_ids=batch.ids[-1][batch.mask[-1]][None], use_cache=False).logits[0]
        assert torch.allclose(model.run(batch).logits[-1][batch.mask[-1]], want, atol=1e-5)
    blocks = [p for p in places(model) if p.layer is not None]
    assert {p.layer for p in blocks} == set(range(model.shape.n_layers))
    assert not any("vision" in slot.name for p in blocks for slot in places(model)[p])


@pytest.mark.parametrize("hybrid", ["qwen3_next", "lfm2", "granitemoehybrid"])
def test_hybrids_generate_as_without_a_cache(hybrid: str) -> None:
    plain, tokens = zoo.model(hybrid), tiny.word_tokenizer()
    model = Model.wrap(plain, tokens, check=False)
    texts = ["what is 3 plus 7 ?", "the quick brown fox jumps over the lazy dog"]
    for text, given in zip(texts, model.generate(texts, max_new_tokens=4), strict=True):
        ids = tokens(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        for token in given.ids:
            with torch.no_grad():
                assert int(plain(input_ids=ids, use_cache=False).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_states_of_float32_beside_weights_of_bfloat16() -> None:
    plain = zoo.model("mamba2").to(torch.bfloat16)
    model = Model.wrap(plain, tiny.word_tokenizer(), check=False)
    batch = model.batches(tiny.twelve_items().limit(1), batch_size=1)[0]
    with torch.no_grad():
        want = plain(input_ids=batch.ids, use_cache=False).logits
    assert torch.allclose(model.run(batch).logits.float(), want.float(), atol=1e-2)


def test_a_state_of_another_form_generates_nothing() -> None:
    model = Model.wrap(zoo.model("mamba"), tiny.word_tokenizer(), check=False)
    with pytest.raises(InputError, match="form of its own"):
        model.generate(["what is 3 ?"], max_new_tokens=2)
