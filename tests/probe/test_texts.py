"""Texts where batches go: the same ids, rows as given, tokens beside values; what is no text is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe import InputError, Item, Model, Prompts
from tests import tiny

TEXTS = ["what is 3 plus 7 ?", "the fox", "Ann has 12 figs . buys 5"]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[a] {% endif %}"
)


@pytest.fixture(scope="module")
def chatty() -> Model:
    tokenizer = tiny.tokenizer("llama")
    tokenizer.chat_template = TEMPLATE
    return Model.wrap(tiny.model("llama", vocab_size=len(tokenizer)), tokenizer)


def test_a_text_is_the_prompt_of_a_batch(llama: Model) -> None:
    (batch,) = llama.batches(Prompts((Item("0", TEXTS[0], " ans"),)))
    trace = llama.run(TEXTS[0], read="resid_post.1")
    n = trace["resid_post.1"].shape[1]
    assert torch.equal(trace.batch.ids[0], batch.ids[0, :n])
    want = llama.run(batch, ["resid_post.1"])
    torch.testing.assert_close(trace["resid_post.1"], want["resid_post.1"][:, :n])


def test_several_texts_come_in_their_order_each_as_alone(llama: Model) -> None:
    together = llama.run(TEXTS, read=["resid_post.2"])
    for row, text in enumerate(TEXTS):
        alone = llama.run(text, read=["resid_post.2"])
        n = alone.logits.shape[1]
        torch.testing.assert_close(together.logits[row, -n:], alone.logits[0], atol=1e-5, rtol=1e-4)
        assert together.tokens[row][-n:] == alone.tokens[0]
        assert set(together.tokens[row][:-n]) <= {""}
        assert "".join(alone.tokens[0]).endswith(text)


def test_a_kind_alone_is_all_its_sites_and_stacks(llama: Model) -> None:
    trace = llama.run("the fox", read="resid_post")
    assert [str(s) for s in trace] == [f"resid_post.{n}" for n in range(llama.shape.n_layers)]
    assert torch.equal(trace.stack("resid_post")[1], trace["resid_post", 1])
    assert torch.equal(trace["blocks.1.hook_resid_post"], trace["resid_post.1"])
    assert "resid_post.1" in trace and "resid_pre.1" not in trace
    with pytest.raises(InputError, match="kinds read: resid_post"):
        trace.stack("z")


def test_a_conversation_goes_through_the_template(chatty: Model) -> None:
    turns = [{"role": "user", "content": "what is 3"}]
    written = "[user] what is 3\n[a] "
    assert torch.equal(chatty.logits(turns), chatty.logits(written))
    assert torch.equal(chatty.logits([turns, turns])[1], chatty.logits(written)[0])
    assert torch.equal(chatty.logits("what is 3", template="chat"), chatty.logits(written))
    (one,) = chatty.generate(turns, max_new_tokens=4)
    assert one.ids == chatty.generate(written, max_new_tokens=4)[0].ids
    assert "".join(chatty.run(turns).tokens[0]) == written


def test_one_text_is_continued_as_one(llama: Model) -> None:
    found = llama.generate("the fox", max_new_tokens=5)
    assert [c.item.prompt for c in found] == ["the fox"]
    assert found[0].ids == llama.generate(["the fox", "Ann"], max_new_tokens=5)[0].ids
    assert found.texts == [found[0].text]


BAD: dict[str, tuple[Any, str]] = {
    "number": (3, "int was given; expected a text"),
    "empty": ("  ", "text 0 is empty"),
    "nothing": ([], "nothing was given"),
    "none": (None, "NoneType was given"),
    "mixed": (["a", [{"role": "user", "content": "b"}]], "texts and conversations in one call"),
    "dict": ([{"prompt": "a"}], "neither a text nor a conversation"),
    "bytes": (b"abc", "bytes was given"),
    "surrogate": ("a \ud800", "surrogate"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("call", ["run", "generate", "logits"])
def test_what_is_no_text_is_told(llama: Model, name: str, call: str) -> None:
    given, words = BAD[name]
    with pytest.raises(InputError, match=words):
        getattr(llama, call)(given)


def test_views_take_one_text(llama: Model) -> None:
    for call in (llama.lens, lambda t: llama.attention(t, layer=0), lambda t: llama.patch(t, t)):
        with pytest.raises(InputError, match="takes one text or conversation"):
            call(["a", "b"])


def test_a_text_beyond_the_context_is_told(llama: Model) -> None:
    with pytest.raises(InputError, match="longer than the context"):
        llama.run("fox " * 200)


def test_a_wrapped_model_takes_texts(model_of: Callable[..., Model]) -> None:
    hf = tiny.model("gpt2")
    model = Model.wrap(hf, tiny.tokenizer("gpt2"))
    ids = model.run("the fox").batch.ids
    torch.testing.assert_close(model.logits("the fox"), hf(ids).logits, atol=1e-4, rtol=1e-4)


def test_short_in_a_terminal_and_a_table_in_a_notebook(llama: Model) -> None:
    trace = llama.run("<b>fox</b>", read="resid_post")
    assert len(repr(llama)) < 300 and len(repr(trace)) < 400
    assert "llama" in repr(llama) and "resid_post.1" in repr(trace)
    for shown in (llama, trace, llama.generate("<b>fox", max_new_tokens=2), llama.lens("<b>fox")):
        assert "<b>fox" not in shown._repr_html_()


def test_an_edit_in_force_reaches_what_texts_give(llama: Model) -> None:
    plain = copy.deepcopy(llama.lens("the fox").top_probs)
    push = torch.ones(llama.shape.d_model)
    from probe import add

    with llama.edited(add("resid_post.0", push)):
        assert not torch.equal(llama.lens("the fox").top_probs, plain)
    assert torch.equal(llama.lens("the fox").top_probs, plain)
