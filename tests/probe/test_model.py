"""The handle: runs, reads, edits, lens, swap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from probe import Edit, Model, Prompts, Site, add, mean, patch, project_out, scale, zero
from probe.backends.transformer_lens import TransformerLensBackend
from probe.errors import InputError, ProbeError
from probe.tokens import TokenBatch
from tests import tiny

BASIC = ("llama", "qwen2", "gpt2")


def batch_of(model: Model, prompts: Prompts, **options: object) -> TokenBatch:
    return model.batches(prompts, **options)[0]  # type: ignore[arg-type]


def by_id(batch: TokenBatch, values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {item.id: values[i][batch.mask[i]] for i, item in enumerate(batch.items)}


@pytest.mark.parametrize("family", BASIC)
def test_logits_are_those_of_plain_transformers(
    family: str, model_of: Callable[..., Model], folder_of: Callable[..., Path], prompts: Prompts
) -> None:
    model = model_of(family)
    plain = AutoModelForCausalLM.from_pretrained(folder_of(family)).eval()
    batch = batch_of(model, prompts)
    got = by_id(batch, model.run(batch).logits)
    for item, ids in by_id(batch, batch.ids).items():
        with torch.no_grad():
            want = plain(ids[None]).logits[0]
        assert (got[item] - want).abs().max() < 1e-4


@pytest.mark.parametrize("family", BASIC)
def test_hidden_states_are_resid_post(
    family: str, model_of: Callable[..., Model], folder_of: Callable[..., Path], prompts: Prompts
) -> None:
    model = model_of(family)
    plain = AutoModelForCausalLM.from_pretrained(folder_of(family)).eval()
    batch = batch_of(model, prompts.limit(1))
    trace = model.run(batch, [*model.sites("resid_pre"), *model.sites("resid_post"), "ln_final", "embed"])
    with torch.no_grad():
        hidden = plain(batch.ids, output_hidden_states=True).hidden_states
    for layer in range(model.shape.n_layers):
        assert torch.allclose(trace[Site("resid_pre", layer)], hidden[layer], atol=1e-5)
    assert torch.allclose(trace["ln_final"], hidden[-1], atol=1e-5)


def test_shapes_follow_the_table(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    trace = llama.run(batch, llama.sites())
    shape = llama.shape
    items, width = batch.ids.shape
    sizes = {
        "item": items, "pos": width, "key_pos": width, "d_model": shape.d_model, "d_head": shape.d_head,
        "head": shape.n_heads, "kv_head": shape.n_kv_heads, "neuron": shape.d_mlp, "vocab": shape.d_vocab,
    }  # fmt: skip
    for site in llama.sites():
        assert tuple(trace[site].shape) == tuple(sizes[d] for d in site.dims), site


def test_pattern_rows_sum_to_one_and_look_back(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts.limit(1))
    pattern = llama.run(batch, ["pattern.1"], logits="none")["pattern.1"]
    assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
    assert pattern.triu(1).abs().max() == 0


def test_a_head_is_a_slice(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    trace = llama.run(batch, ["z.1", "L1H2", "pattern.1", "pattern.1.3"])
    assert torch.equal(trace["z.1.2"], trace["z.1"][:, :, 2])
    assert torch.equal(trace["pattern.1.3"], trace["pattern.1"][:, 3])


def test_unembed_of_the_last_block_is_the_logits(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    trace = llama.run(batch, ["resid_post.2", "ln_final"])
    assert torch.allclose(llama.unembed(trace["resid_post.2"]), trace.logits, atol=1e-5)
    assert torch.allclose(llama.final_norm(trace["resid_post.2"]), trace["ln_final"], atol=1e-6)
    weight, bias = llama.unembed_weights()
    assert bias is None
    assert torch.allclose(trace["ln_final"] @ weight, trace.logits, atol=1e-5)
    assert weight.data_ptr() == llama.weights()["lm_head.weight"].data_ptr()


def test_last_and_none(llama: Model, prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(llama, prompts)
    full = llama.run(batch).logits
    last = llama.run(batch, logits="last").logits
    assert torch.allclose(last, full[torch.arange(len(batch)), batch.last_prompt], atol=1e-6)

    def no_unembedding(*_: object) -> None:
        raise AssertionError("unembedded")

    monkeypatch.setattr(TransformerLensBackend, "head", no_unembedding)
    assert llama.run(batch, ["resid_post.1"], logits="none").logits is None


def test_left_padding_without_position_ids_would_be_wrong(model_of: Callable[..., Model], prompts: Prompts) -> None:
    # The trap: transformers counts positions from the padding unless told otherwise.
    model = model_of("gpt2")
    batch = batch_of(model, prompts)
    with torch.no_grad():
        wrong = model.backend.plain(input_ids=batch.ids, attention_mask=batch.mask.long()).logits  # type: ignore[attr-defined]
    padded = batch.mask[:, 0] == 0
    right = model.run(batch).logits
    assert (wrong - right)[padded][:, -1].abs().max() > 1e-2


@pytest.mark.parametrize("family", BASIC)
def test_patching_a_run_with_itself_changes_nothing(
    family: str, model_of: Callable[..., Model], prompts: Prompts
) -> None:
    model = model_of(family)
    batch = batch_of(model, prompts)
    trace = model.run(batch, model.sites())
    for site in model.sites():
        edited = model.run(batch, edits=[patch(site, trace[site])]).logits
        assert torch.allclose(edited[batch.mask], trace.logits[batch.mask], atol=1e-5), site


def test_last_residual_patched_gives_the_source_logits(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    other = TokenBatch(batch.ids.flip(1) * batch.mask, batch.mask, batch.span, batch.items, batch.padding)
    source = llama.run(other, ["resid_post.2"])
    got = llama.run(batch, edits=[patch("resid_post.2", source["resid_post.2"])]).logits
    assert torch.allclose(got[batch.mask], source.logits[batch.mask], atol=1e-5)


def test_resid_mid_reaches_both_branches(llama: Model, prompts: Prompts) -> None:
    # The trap: the hook the bridge offers changes the MLP's input and leaves the skip path alone.
    batch = batch_of(llama, prompts)
    at = llama.run(batch, ["resid_pre.1", "resid_post.1"], [zero("resid_mid.1")])
    mlp_of_zero = llama.run(batch, ["mlp_out.1"], [zero("resid_mid.1")])["mlp_out.1"]
    assert torch.allclose(at["resid_post.1"][batch.mask], mlp_of_zero[batch.mask], atol=1e-6)
    reference = llama.run(batch, edits=[Edit(Site("attn_out", 1), lambda x: -at["resid_pre.1"])]).logits
    assert torch.allclose(
        llama.run(batch, edits=[zero("resid_mid.1")]).logits[batch.mask], reference[batch.mask], atol=1e-4
    )


def test_positions_and_heads_touch_only_what_they_name(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    plain = llama.run(batch, ["z.1", "resid_pre.1"])
    edited = llama.run(batch, ["z.1"], [zero("z.1.2", positions="last_prompt")])["z.1"]
    changed = (edited != plain["z.1"]).any(-1)
    want = torch.zeros_like(changed)
    want[torch.arange(len(batch)), batch.last_prompt, 2] = True
    assert torch.equal(changed, want)
    mask = torch.zeros_like(batch.mask)
    mask[:, -2] = True
    for positions, where in ((mask, mask), ([0], None), ("all_prompt", None), ([-1], None)):
        out = llama.run(batch, ["resid_pre.1"], [add("resid_pre.1", torch.ones(32), positions)])["resid_pre.1"]
        moved = ((out - plain["resid_pre.1"]).abs() > 0.5).any(-1)
        if where is not None:
            assert torch.equal(moved, where)
        elif positions == [0]:
            assert torch.equal(moved.nonzero()[:, 1], batch.offsets)
        elif positions == [-1]:
            assert moved[:, -1].all()
            assert int(moved.sum()) == len(batch)
        else:
            assert torch.equal(moved, (batch.span == 1) | (batch.span == 2))


def test_constructors_do_what_they_say(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts.limit(2))
    x = llama.run(batch, ["mlp_post.1", "resid_pre.1"])
    direction = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))

    def after(edit: Edit) -> torch.Tensor:
        return llama.run(batch, [edit.site], [edit], logits="none")[edit.site][batch.mask]

    assert after(zero("mlp_post.1")).abs().max() == 0
    assert torch.allclose(after(scale("mlp_post.1", 3.0)), 3 * x["mlp_post.1"][batch.mask])
    part = after(scale("mlp_post.1", 0.0, neurons=[1, 4]))
    assert part[:, [1, 4]].abs().max() == 0
    assert torch.equal(part[:, 5:], x["mlp_post.1"][batch.mask][:, 5:])
    assert torch.allclose(after(mean("resid_pre.1", torch.full((32,), 2.0))), torch.full((1,), 2.0))
    left = after(project_out("resid_pre.1", direction))
    assert (left @ direction.T).abs().max() < 1e-4
    assert torch.allclose(after(project_out("resid_pre.1", direction * 7)), left, atol=1e-5)
    with pytest.raises(InputError, match="norm 0"):
        project_out("resid_pre.1", torch.zeros(32))


def test_edits_at_one_site_apply_in_order(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts.limit(1))
    edits = [zero("resid_pre.1"), add("resid_pre.1", torch.ones(32))]
    got = llama.run(batch, ["resid_pre.1"], edits)["resid_pre.1"]
    assert torch.equal(got, torch.ones_like(got))
    assert llama.run(batch, ["resid_pre.1"], edits[::-1])["resid_pre.1"].abs().max() == 0


def test_edited_is_gone_afterwards(llama: Model, prompts: Prompts) -> None:
    from probe.identity import weights_hash

    batch = batch_of(llama, prompts)
    before = weights_hash(llama.weights())
    plain = llama.run(batch).logits
    with llama.edited(zero("mlp_out.0")) as model, model.edited(zero("attn_out.0")):
        inside = model.run(batch).logits
    assert not torch.equal(inside, plain)
    assert torch.equal(inside, llama.run(batch, edits=[zero("mlp_out.0"), zero("attn_out.0")]).logits)
    assert torch.equal(llama.run(batch).logits, plain)
    assert weights_hash(llama.weights()) == before
    with pytest.raises(ZeroDivisionError), llama.edited(zero("mlp_out.0")):
        raise ZeroDivisionError
    assert torch.equal(llama.run(batch).logits, plain)


def test_hooks_are_removed_when_an_edit_raises(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    plain = llama.run(batch).logits

    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        llama.run(batch, edits=[zero("mlp_out.0"), Edit(Site("mlp_out", 1), fails)])
    assert torch.equal(llama.run(batch).logits, plain)


def test_bad_edits_are_refused(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    with pytest.raises(InputError, match="expected"):
        llama.run(batch, edits=[Edit(Site("resid_pre", 1), lambda x: x[..., :3])])
    with pytest.raises(InputError, match="wrote into its argument"):
        llama.run(batch, edits=[Edit(Site("resid_pre", 1), lambda x: x.mul_(2))])
    with pytest.raises(InputError, match="position 40"):
        llama.run(batch, edits=[zero("resid_pre.1", positions=[40])])
    with pytest.raises(InputError, match=r"\[item pos\]"):
        llama.run(batch, edits=[zero("resid_pre.1", positions=torch.ones(1, 1, dtype=torch.bool))])
    with pytest.raises(InputError, match="positions="):
        zero("resid_pre.1", positions="some")
    with pytest.raises(InputError, match="phase="):
        Edit(Site("resid_pre", 1), lambda x: x, phase="later")  # type: ignore[arg-type]


def test_sites_that_do_not_exist(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    with pytest.raises(InputError, match="3 blocks"):
        llama.run(batch, ["resid_pre.3"])
    with pytest.raises(InputError, match="4 heads"):
        llama.run(batch, ["z.1.4"])
    with pytest.raises(InputError, match="2 heads"):
        llama.run(batch, ["k.1.2"])
    with pytest.raises(InputError, match="was not read"):
        llama.run(batch, ["z.1"])["z.2"]
    with pytest.raises(InputError, match="logits='all'"):
        llama.run(batch, ["logits"], logits="none")
    with pytest.raises(InputError, match="unknown site kind"):
        llama.sites("nope")


def test_a_site_that_is_not_passed_is_an_error(llama: Model, prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(llama, prompts)
    real = llama.backend.forward
    monkeypatch.setattr(llama.backend, "forward", lambda tokens, visits: real(tokens, {}))
    with pytest.raises(ProbeError, match="passed 0 times"):
        llama.run(batch, ["resid_pre.1"])
    with pytest.raises(ProbeError, match="passed 0 times"):
        llama.run(batch, edits=[zero("resid_pre.1")])


def test_logits_site(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    trace = llama.run(batch, ["logits"], [scale("logits", 2.0)])
    assert torch.equal(trace["logits"], trace.logits)
    assert torch.allclose(trace.logits[batch.mask], 2 * llama.run(batch).logits[batch.mask])


def test_gradients_on_request(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    assert not llama.run(batch).logits.requires_grad
    trace = llama.run(batch, ["resid_mid.0"], grad=True)
    (grad,) = torch.autograd.grad(trace.logits[batch.mask].sum(), trace["resid_mid.0"])
    assert grad.abs().max() > 0


def test_swap_refuses_another_model(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    model = Model.load(folder_of("llama"))
    plain = {k: v.clone() for k, v in model.weights().items()}
    with pytest.raises(InputError, match="other parameters"):
        model.swap(folder_of("gpt2"))
    with pytest.raises(InputError, match="tokenizer"):
        model.swap(tiny.save(tmp_path / "words", "llama", words=True, vocab_size=320))
    with pytest.raises(InputError, match="held is"):
        model.swap(tiny.save(tmp_path / "heads", "llama", num_attention_heads=2, head_dim=16, num_key_value_heads=1))
    assert all(torch.equal(v, plain[k]) for k, v in model.weights().items())
    assert model.checkpoint is not None
    assert model.checkpoint.path == str(folder_of("llama"))


def test_a_stale_split_qkv_is_caught(
    folder_of: Callable[..., Path], prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The trap: the bridge clones q, k, v out of the fused matrix; new weights leave the clones behind.
    from probe.backends import transformer_lens

    model = Model.load(folder_of("gpt2"))
    batch = batch_of(model, prompts)
    model.run(batch, read=["pattern.0"])
    monkeypatch.setattr(transformer_lens, "_split_again", lambda attention: None)
    model.swap(folder_of("gpt2", 1))
    with pytest.raises(ProbeError, match="logits"):
        model.run(batch, read=["pattern.0"])


def test_half_precision_loads_and_proves(folder_of: Callable[..., Path]) -> None:
    model = Model.load(folder_of("llama"), dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    with pytest.raises(InputError, match="dtype"):
        Model.load(folder_of("llama"), dtype="int8")


def test_runs_from_threads_do_not_mix(llama: Model, prompts: Prompts) -> None:
    batch = batch_of(llama, prompts)
    plain = llama.run(batch).logits
    zeroed = llama.run(batch, edits=[zero("mlp_out.0")]).logits
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(5):
            got = llama.run(batch, edits=[zero("mlp_out.0")] if n % 2 else []).logits
            if not torch.equal(got, zeroed if n % 2 else plain):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_fingerprint_knows_dtype_and_weights(folder_of: Callable[..., Path], llama: Model) -> None:
    assert llama.fingerprint() == Model.load(folder_of("llama"), check=False).fingerprint()
    assert llama.fingerprint() != Model.load(folder_of("llama"), check=False, dtype="bfloat16").fingerprint()
    assert llama.fingerprint() != Model.load(folder_of("llama", 1), check=False).fingerprint()


def test_context_is_respected(llama: Model) -> None:
    long = Prompts.of([{"id": "x", "prompt": "many " * 80, "answer": "1"}])
    with pytest.raises(InputError, match=r"x \("):
        llama.batches(long)


def test_a_configuration_that_is_no_text_decoder_is_refused() -> None:
    from types import SimpleNamespace

    from probe.shape import ModelShape

    with pytest.raises(InputError, match=r"gemma3: .*number of blocks.*text decoder"):
        ModelShape.of(SimpleNamespace(model_type="gemma3", text_config={}))


def test_shape_is_that_of_the_configuration(llama: Model) -> None:
    s = llama.shape
    assert (s.n_layers, s.n_heads, s.n_kv_heads, s.d_model, s.d_head, s.d_mlp) == (3, 4, 2, 32, 8, 48)
    assert (s.d_vocab, s.n_ctx, s.family) == (320, 64, "llama")
