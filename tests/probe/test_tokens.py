"""Ids, spans, padding and the batch plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.ends import declare, own_ends
from probe.errors import InputError
from probe.prompts import Chat, Item, Prompts
from probe.tokens import SPANS, Encoded, plan, tokenised, tokenize, tokenize_prompts
from tests import tiny

TOKENIZER = tiny.tokenizer()
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


PAIRS = (("the quick", " brown fox"), ("the quick ", "brown fox"))


def one(prompt: str = "what is 3 plus", answer: str = " ans 10") -> Prompts:
    return Prompts((Item("i", prompt, answer),))


def names(encoded: Encoded) -> list[str]:
    return [SPANS[s] for s in encoded.span]


def test_the_default_scores_the_ids_of_the_joint_text() -> None:
    joint = tuple(TOKENIZER("the quick brown fox", add_special_tokens=False)["input_ids"])
    clean, swallowed = (tokenize(TOKENIZER, one(*p), max_length=64)[0] for p in PAIRS)
    assert clean.ids == swallowed.ids == joint
    answer = len(TOKENIZER(" brown fox", add_special_tokens=False)["input_ids"])
    assert (names(clean).count("answer"), clean.straddle) == (answer, 0)
    # The space belongs to the answer's first token: it counts as answer and is marked.
    assert (names(swallowed).count("answer"), swallowed.straddle) == (answer, 1)


def test_a_token_before_the_straddling_one_is_answer_where_the_ids_part() -> None:
    """The rule of TRL: what the prompt alone shares with the whole is prompt, all after it is answer."""
    alone, joint = (TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in ("how m", "how many"))
    part = next((n for n, (a, b) in enumerate(zip(alone, joint, strict=False)) if a != b), len(alone))
    got = tokenize(TOKENIZER, one("how m", "any"), max_length=64)[0]
    assert names(got) == ["prompt"] * part + ["answer"] * (len(joint) - part)


def test_an_answer_that_leaves_no_token_is_refused_by_id() -> None:
    from tokenizers import normalizers

    own = tiny.tokenizer()
    own.backend_tokenizer.normalizer = normalizers.Replace("q", "")
    with pytest.raises(InputError, match=r"without a token.* i "):
        tokenize(own, one("what", "q"), max_length=64)
    with pytest.raises(InputError, match=r"an empty answer in item.* i:"):
        tokenize(own, one("what", ""), max_length=64)


def test_what_was_met_is_told_by_item() -> None:
    items = Prompts(tuple(Item(str(n), *pair) for n, pair in enumerate(PAIRS)))
    with tokenised() as joint:
        tokenize(TOKENIZER, items, max_length=64)
    with tokenised() as apart:
        tokenize(TOKENIZER, items, boundary="concat", max_length=64)
    assert joint == {("0", "given"): frozenset(), ("1", "given"): {"straddle"}}
    assert apart == {("0", "given"): frozenset(), ("1", "given"): {"other_ids"}}


def test_concat_tokenises_apart() -> None:
    got = tokenize(TOKENIZER, one(), boundary="concat", max_length=64)[0]
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


def test_a_text_that_begins_with_bos_gets_no_second_one() -> None:
    bos = TOKENIZER.bos_token_id
    for text in ("what is", "<s>what is"):
        whole = tokenize(TOKENIZER, one(text), max_length=64, bos=True)[0]
        alone = tokenize_prompts(TOKENIZER, one(text), max_length=64, bos=True)[0]
        assert whole.ids.count(bos) == alone.ids.count(bos) == 1
        assert names(whole)[0] == names(alone)[0] == "template"
        assert names(whole)[1] == "prompt"


def test_declared_ends_are_added_once(tmp_path: Path) -> None:
    own = tiny.tokenizer()
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"add_bos_token": True, "add_eos_token": True}))
    for _ in range(2):
        declare(own, tmp_path)
        assert own_ends(own) == ((own.bos_token_id,), (own.eos_token_id,))
    whole = tokenize(own, one(), max_length=64)[0]
    assert (whole.ids[0], whole.ids[-1]) == (own.bos_token_id, own.eos_token_id)
    assert names(whole)[-1] == "answer"
    assert tokenize(own, one("what", " ans</s>"), max_length=64)[0].ids.count(own.eos_token_id) == 1
    assert tokenize(own, one(), include_eos=True, max_length=64)[0].ids.count(own.eos_token_id) == 1
    assert own.eos_token_id not in tokenize_prompts(own, one(), max_length=64)[0].ids


@pytest.mark.parametrize("boundary", ["joint", "concat", "offsets"])
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
    own.chat_template = "{{ messages[0].content | upper }}: {{ messages[-1].content }}"
    with pytest.raises(InputError, match=r"item i.*rewrites the prompt"):
        tokenize(own, one("what "), template="chat", max_length=64)
    own.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(InputError, match=r"item i.*refuses turns of user"):
        tokenize(own, one("what "), template="chat", max_length=64)
    own.chat_template = "{{ messages[0].content }}"
    with pytest.raises(InputError, match=r"item i.*leaves nothing of its answer"):
        tokenize(own, one("what", "ans"), template="chat", max_length=64)
    talk = replace(one().items[0], chat=Chat(({"role": "system", "content": "s"},)))
    with pytest.raises(InputError, match=r"item i is a conversation of 2 turns"):
        tokenize(own, Prompts((talk,)), max_length=64)


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
