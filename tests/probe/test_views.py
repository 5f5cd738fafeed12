"""Views of one text against their definitions written out: lens, attention, patching, two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from probe import InputError, Model, compare, patch
from tests import tiny

TEXT, CLEAN, CORRUPT = "what is 3 plus 7 ?", "Ann has 12 figs", "Ann has 12 fox"


def test_the_lens_is_the_models_own_head_on_every_state(llama: Model) -> None:
    lens = llama.lens(TEXT, top_k=3)
    trace = llama.run(TEXT, read=["resid_pre.0", "resid_post.0", "resid_post.2"])
    by_site = {"resid_pre.0": 0, "resid_post.0": 1, "resid_post.2": 3}
    for site, row in by_site.items():
        want = llama.unembed(trace[site])[0].softmax(-1)
        top = want.topk(3)
        torch.testing.assert_close(lens.top_probs[row], top.values, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(lens.entropy_nats[row], torch.special.entr(want).sum(-1), atol=1e-4, rtol=1e-4)
    final = trace.logits[0].log_softmax(-1)
    ids = trace.batch.ids[0]
    assert torch.equal(lens.top_ids[-1, :, 0], final.argmax(-1))
    assert float(lens.next_logprob[-1, 0]) == pytest.approx(float(final[0, ids[1]]), abs=1e-4)
    assert math.isnan(lens.next_logprob[-1, -1])
    frame = lens.frame()
    assert len(frame) == 4 * len(ids) * 3 and "".join(lens.tokens).endswith(TEXT)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_attention_is_the_pattern(model_of: Callable[..., Model], family: str) -> None:
    model = model_of(family)
    seen = model.attention(TEXT, layer=1, heads=[0, 3])
    want = model.run(TEXT, read=["pattern.1"])["pattern.1"][0, [0, 3]]
    assert torch.equal(seen.pattern, want) and seen.names == ["L1H0", "L1H3"]
    torch.testing.assert_close(seen.pattern.sum(-1), torch.ones(2, len(seen.tokens)))
    assert len(seen.frame()) == seen.pattern.numel()
    with pytest.raises(InputError, match="does not exist"):
        model.attention(TEXT, layer=9)
    with pytest.raises(InputError, match="4 heads"):
        model.attention(TEXT, layer=1, heads=[7])


def test_a_patched_cell_is_a_run_with_the_clean_value(llama: Model) -> None:
    answers = (" ans", " the")
    found = llama.patch(CLEAN, CORRUPT, sites=["resid_post", "z"], answers=answers)
    source = llama.run(CLEAN, read=["resid_post.1", "z.2"])
    ids = [llama.tokenizer(CLEAN + a, add_special_tokens=False)["input_ids"][-1] for a in answers]

    def difference(*edits: object) -> float:
        last = llama.run(CORRUPT, edits=edits).logits[0, -1]
        return float(last[ids[0]] - last[ids[1]])

    n = len(found.tokens)
    edits = {("resid_post", 1, n - 1): patch("resid_post.1", source["resid_post.1"], [n - 1])}
    edits["z", 2, 3] = patch("z.2.3", source["z.2"][:, :, 3])
    for (kind, layer, place), edit in edits.items():
        want = (difference(edit) - found.corrupt) / (found.clean - found.corrupt)
        assert float(found[kind][layer, place]) == pytest.approx(want, abs=1e-4)
    assert float(found["resid_post"][-1, -1]) == pytest.approx(1, abs=1e-4)  # the last state is the answer
    assert found["resid_post"][:, 0].abs().max() < 1e-4  # nothing differs yet
    assert len(found.frame()) == found["resid_post"].numel() + found["z"].numel()
    assert found.top(1)[0][2] == pytest.approx(
        float(torch.cat([x.flatten() for x in found.effects.values()]).abs().max())
    )


def test_pairs_that_cannot_be_patched_are_told(llama: Model) -> None:
    with pytest.raises(InputError, match="expected two texts of equal length"):
        llama.patch(CLEAN, CLEAN + " and more")
    with pytest.raises(InputError, match="nothing to give back"):
        llama.patch(CLEAN, CLEAN, answers=(" ans", " the"))
    with pytest.raises(InputError, match="both begin with the token"):
        llama.patch(CLEAN, CORRUPT, answers=(" ans", " ans"))
    with pytest.raises(InputError, match="is no kind of site"):
        llama.patch(CLEAN, CORRUPT, sites="logits")
    with pytest.raises(InputError, match=r"expected two texts, \(right, wrong\)"):
        llama.patch(CLEAN, CORRUPT, answers=" ans")


def test_two_checkpoints_differ_where_their_distributions_do(folder_of: Callable[..., Path], llama: Model) -> None:
    other = Model.load(folder_of("llama", 1))
    same, apart = compare(llama, llama, TEXT), compare(llama, other, TEXT)
    assert float(same.kl_nats.abs().max()) == 0
    p, q = (m.logits(TEXT)[0].log_softmax(-1) for m in (other, llama))
    torch.testing.assert_close(apart.kl_nats[-1], (p.exp() * (p - q)).sum(-1), atol=1e-5, rtol=1e-3)
    pos, _, before, after, most = apart.top(1)[0]
    assert most == float(apart.kl_nats[-1].max())
    assert (before, after) == (apart.base.top_tokens[-1][pos][0], apart.tuned.top_tokens[-1][pos][0])
    assert len(apart.frame()) == apart.kl_nats.numel()


def test_checkpoints_of_other_tokens_are_not_compared(llama: Model) -> None:
    words = tiny.word_tokenizer()
    other = Model.wrap(tiny.model("llama", vocab_size=len(words)), words)
    with pytest.raises(InputError, match="other token ids"):
        compare(llama, other, "the quick fox")


def test_pictures_hold_every_token_once_escaped(llama: Model) -> None:
    views = [llama.lens("a <i> b"), llama.attention("a <i> b", layer=0), compare(llama, llama, "a <i> b")]
    for view in views:
        html = view._repr_html_()
        assert "<i>" not in html and "<script" not in html
        assert len(repr(view)) < 2000
