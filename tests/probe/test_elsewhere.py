"""The same weights in other libraries' hands: Hugging Face's generate under edits, nnsight's trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from probe import InputError, Model, add, zero

TEXTS = ["what is 3 plus 7 ?", "the fox"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generate_of_hugging_face_under_edits_is_ours(model_of: Callable[..., Model], family: str) -> None:
    model = model_of(family)
    edits = [add("resid_post.1", torch.ones(model.shape.d_model)), zero("z.0.1")]
    given = model.inputs(TEXTS)
    with model.hugging_face(*edits) as hf:
        found = hf.generate(**given, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    ours = model.generate(TEXTS, max_new_tokens=5, edits=edits)
    for row, one in zip(found[:, given["input_ids"].shape[1] :].tolist(), ours, strict=True):
        assert tuple(row[: len(one.ids)]) == one.ids or one.finish == "eos"
    with model.edited(*edits), model.hugging_face() as hf:
        logits = hf(**given).logits
        torch.testing.assert_close(logits[0], model.logits(TEXTS)[0], atol=1e-4, rtol=1e-4)
    plain = model.backend.plain(**given).logits
    torch.testing.assert_close(plain[0], model.logits(TEXTS)[0], atol=1e-4, rtol=1e-4)


def test_edits_of_chosen_positions_are_refused(llama: Model) -> None:
    for edit in (zero("mlp_out.0", "last_prompt"), zero("mlp_out.0", phase="prefill"), zero("pattern.0")):
        with pytest.raises(InputError, match=r"model\.generate"), llama.hugging_face(edit):
            pass


def test_nnsight_traces_the_same_weights(llama: Model) -> None:
    import nnsight

    traced = llama.nnsight()
    with traced.trace(**llama.inputs("the fox")):
        state = nnsight.save(traced.model.layers[1].output)
    state = state[0] if isinstance(state, tuple) else state
    torch.testing.assert_close(state, llama.run("the fox", "resid_post.1")["resid_post.1"])


def test_names_of_transformer_lens_read_and_edit(llama: Model) -> None:
    trace = llama.run("the fox", ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z"])
    assert torch.equal(trace["resid_post", 1], trace["blocks.1.hook_resid_post"])
    assert [str(s) for s in trace] == ["resid_post.1", "z.0"]
    edit = zero("blocks.0.attn.hook_z")
    assert not torch.equal(llama.run("the fox", edits=[edit]).logits, trace.logits)
