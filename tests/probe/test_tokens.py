"""Ids, spans, padding and the batch plan."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import InputError
from probe.prompts import Item, Prompts
from probe.tokens import SPANS, Encoded, plan, tokenize
from tests import tiny

TOKENIZER = tiny.tokenizer()
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def one(prompt: str = "what is 3 plus", answer: str = " ans 10") -> Prompts:
    return Prompts((Item("i", prompt, answer),))


def names(encoded: Encoded) -> list[str]:
    return [SPANS[s] for s in encoded.span]


def test_concat_tokenises_apart() -> None:
    got = tokenize(TOKENIZER, one(), max_length=64)[0]
    parts = [TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in ("what is 3 plus", " ans 10")]
    assert list(got.ids) == parts[0] + parts[1]
    assert names(got) == ["prompt"] * len(parts[0]) + ["answer"] * len(parts[1])


def test_offsets_tokenises_jointly_and_marks_straddles() -> None:
    joint = TOKENIZER("how many are", add_special_tokens=False)["input_ids"]
    got = tokenize(TOKENIZER, one("how m", "any are"), boundary="offsets", max_length=64)[0]
    assert list(got.ids) == joint
    assert "straddle" in names(got)
    clean = tokenize(TOKENIZER, one("how", " many are"), boundary="offsets", max_length=64)[0]
    assert "straddle" not in names(clean)
    assert list(clean.ids) == joint


def test_space_that_a_token_holds_belongs_to_it() -> None:
    # The prompt ends in the space that the answer's first token swallows: one token of both.
    got = tokenize(TOKENIZER, one("the quick ", "brown fox"), boundary="offsets", max_length=64)[0]
    assert "straddle" in names(got)


def test_word_tokenizer_has_no_straddle_at_a_space() -> None:
    words = tiny.word_tokenizer()
    got = tokenize(words, one("what is 3 ", "ans 10"), boundary="offsets", max_length=64)[0]
    assert names(got) == ["prompt"] * 3 + ["answer"] * 2


def test_answer_swallowed_by_a_straddle_is_an_error() -> None:
    with pytest.raises(InputError, match="without a token of its own"):
        tokenize(TOKENIZER, one("how m", "any"), boundary="offsets", max_length=64)


def test_bos_and_eos() -> None:
    plain = tokenize(TOKENIZER, one(), max_length=64)[0]
    both = tokenize(TOKENIZER, one(), max_length=64, bos=True, include_eos=True)[0]
    assert both.ids == (TOKENIZER.bos_token_id, *plain.ids, TOKENIZER.eos_token_id)
    assert names(both)[0] == "template"
    assert names(both)[-1] == "answer"
    with pytest.raises(InputError, match="no BOS"):
        tokenize(tiny.word_tokenizer(), one("what is", "ans"), max_length=64, bos=True)


def test_bos_follows_the_tokenizer() -> None:
    from tokenizers import processors

    own = tiny.tokenizer()
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", own.bos_token_id)]
    )
    assert tokenize(own, one(), max_length=64)[0].ids[0] == own.bos_token_id
    assert tokenize(own, one(), max_length=64, bos=False)[0].ids[0] != own.bos_token_id


@pytest.mark.parametrize("boundary", ["concat", "offsets"])
def test_chat_template(boundary: str) -> None:
    own = tiny.tokenizer()
    own.chat_template = CHAT
    got = tokenize(own, one("what is 3 ?", "ans 10"), template="chat", boundary=boundary, max_length=99)[0]  # type: ignore[arg-type]
    text = own.decode(list(got.ids))
    assert text == "<|user|>\nwhat is 3 ?\n<|assistant|>\nans 10"
    words = {s: own.decode([i for i, n in zip(got.ids, names(got)) if n == s]) for s in ("prompt", "answer")}
    assert words["answer"] == "ans 10"
    assert words["prompt"].strip() == "what is 3 ?"


def test_chat_template_problems() -> None:
    with pytest.raises(InputError, match="no chat template"):
        tokenize(TOKENIZER, one(), template="chat", max_length=64)
    own = tiny.tokenizer()
    own.chat_template = "{{ messages[0].content | trim }}"
    with pytest.raises(InputError, match="changes the prompt"):
        tokenize(own, one("what "), template="chat", max_length=64)


def test_long_items_are_refused_by_id() -> None:
    items = Prompts((Item("short", "a", "b"), Item("long", "a " * 99, "b")))
    with pytest.raises(InputError, match=r"long \("):
        tokenize(TOKENIZER, items, max_length=20)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    size=st.integers(1, 5),
    padding=st.sampled_from(["left", "right"]),
)
def test_plan_holds_every_item_once(lengths: list[int], size: int, padding: str) -> None:
    encoded = [Encoded(Item(str(i), "p", "a"), tuple(range(5, 5 + n)), (2,) * n) for i, n in enumerate(lengths)]
    batches = plan(encoded, size, padding, pad_id=0)  # type: ignore[arg-type]
    assert sorted(i.id for b in batches for i in b.items) == sorted(str(i) for i in range(len(lengths)))
    order = [int(i.id) for b in batches for i in b.items]
    assert order == sorted(range(len(lengths)), key=lambda i: lengths[i])
    for b in batches:
        for row, item in enumerate(b.items):
            n = lengths[int(item.id)]
            start = int(b.offsets[row])
            assert b.ids[row][b.mask[row]].tolist() == list(range(5, 5 + n))
            assert b.mask[row, start : start + n].all()
            assert b.position_ids[row][b.mask[row]].tolist() == list(range(n))
            assert start == (0 if padding == "right" else b.ids.shape[1] - n)
            assert int(b.last_prompt[row]) == start + n - 1


def test_last_prompt_is_before_the_answer() -> None:
    encoded = tokenize(TOKENIZER, one(), max_length=64)
    longer = tokenize(TOKENIZER, one("what is 3 plus 7 ? ans"), max_length=64)
    batch = plan([*encoded, *longer], 2)[0]
    answer = SPANS.index("answer")
    for row in range(2):
        assert batch.span[row, int(batch.last_prompt[row]) + 1] == answer
    assert batch.to("cpu").items == batch.items
    assert batch.span.dtype == torch.int8


def test_plan_refuses_bad_sizes() -> None:
    with pytest.raises(InputError, match="batch_size"):
        plan([], 0)
    with pytest.raises(InputError, match="padding"):
        plan([], 1, "middle")  # type: ignore[arg-type]
