"""Ids under real tokenizers: those of the joint text, and of the chat template as training writes it.

Skipped where the folders are absent: PROBE_WORLD (a folder with `tokenizers/NAME`), PROBE_TOKENIZERS (more, by ':').
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from probe.checkpoints import Checkpoint
from probe.errors import InputError
from probe.prompts import Chat, Item, Prompts
from probe.tokens import SPANS, Encoded, tokenize, tokenize_prompts

WORLD = Path(os.environ.get("PROBE_WORLD", Path(__file__).parents[3] / "shared" / "world"))
MORE = [Path(p) for p in os.environ.get("PROBE_TOKENIZERS", "").split(":") if p]
FOLDERS = [*sorted(WORLD.glob("tokenizers/*")), *MORE]
PAIRS = (
    ("The capital of France is", " Paris"), ("The capital of France is ", "Paris"), ("Q:\n", "4"), ("Q:", "\n4"),
    ("17", "25"), ("what is 1234", "5678 ?"), ("a\t", "\tb"), ("def f(x):\n    ", "return x"),
    ("x = ", "\\frac{1}{2}"), (" leading", " and more"), ("naïve café", " — ça va"), ("数学", "是有趣的"),
    ("नमस्ते", " दुनिया"), ("family: ", "👨‍👩‍👧"), ("line\r\n", "next\r\nline"), ("<b>", "bold</b>"),
    ("it's", "n't"), ("e", "\u0301clair"), ("two  ", "  spaces."), ("...", "...!"),
)  # fmt: skip


@cache
def read(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    from probe.checkpoints.tokenizers import read_tokenizer

    try:
        return read_tokenizer(Checkpoint(str(folder)))
    except InputError:  # a folder that only an older transformers reads as it was saved
        return PreTrainedTokenizerFast.from_pretrained(folder)


def items(pairs: Any = PAIRS) -> Prompts:
    return Prompts(tuple(Item(str(n), *pair) for n, pair in enumerate(pairs)))


def text_of(tokenizer: Any, encoded: Encoded, span: str) -> str:
    return tokenizer.decode([i for i, s in zip(encoded.ids, encoded.span, strict=True) if SPANS[s] == span])


pytestmark = pytest.mark.skipif(not FOLDERS, reason=f"no tokenizers at {WORLD}; set PROBE_WORLD or PROBE_TOKENIZERS")
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name if p.name != "models" else p.parts[-3])


@each
def test_ids_are_those_of_the_joint_text_with_bos_once(folder: Path) -> None:
    tokenizer = read(folder)
    lead = [tokenizer.bos_token_id] if "qwen" not in folder.name else []
    for got in tokenize(tokenizer, items(), max_length=10**6):
        text = got.item.prompt + got.item.answer
        assert list(got.ids) == lead + tokenizer(text, add_special_tokens=False)["input_ids"], text
        alone = lead + tokenizer(got.item.prompt, add_special_tokens=False)["input_ids"]
        shared = next((n for n, (a, b) in enumerate(zip(alone, got.ids, strict=False)) if a != b), len(alone))
        assert [SPANS[s] for s in got.span[shared:]] == ["answer"] * (len(got.ids) - shared)
        assert "answer" not in [SPANS[s] for s in got.span[:shared]]
        assert bool(got.straddle) == (shared < len(alone)), text


@each
def test_a_rendered_prompt_keeps_its_one_bos(folder: Path) -> None:
    tokenizer = read(folder)
    if tokenizer.bos_token is None:
        pytest.skip("no BOS")
    (got,) = tokenize_prompts(tokenizer, items([(f"{tokenizer.bos_token}hello", "x")]), max_length=99)
    assert got.ids.count(tokenizer.bos_token_id) == 1


TURNS = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
         {"role": "assistant", "content": "Hello."})  # fmt: skip


@each
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("before", [(), TURNS], ids=["one turn", "four turns"])
def test_chat_ids_are_the_templates(folder: Path, thinking: bool, before: tuple[dict[str, str], ...]) -> None:
    tokenizer = read(folder)
    if not tokenizer.chat_template:
        pytest.skip("no chat template")
    options = {"enable_thinking": thinking}
    of = Prompts(tuple(Item(i.id, i.prompt, i.answer, chat=Chat(before)) for i in items().items))
    how: dict[str, Any] = {"template": "chat", "template_options": options, "max_length": 10**6}
    for got, asked in zip(tokenize(tokenizer, of, **how), tokenize_prompts(tokenizer, of, **how), strict=True):
        turns = [*before, {"role": "user", "content": got.item.prompt}]
        opened = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, **options)
        assert list(asked.ids) == list(opened), got.item
        closed = tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": got.item.answer}], return_dict=False, **options
        )
        assert list(got.ids) == list(closed[: len(got.ids)]), got.item
        answer = text_of(tokenizer, got, "answer")
        assert answer.strip() == tokenizer.decode(
            tokenizer(got.item.answer.strip())["input_ids"], skip_special_tokens=True
        )
        rest = tokenizer.decode(list(closed[len(got.ids) :]))
        assert rest.strip() in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<｜end▁of▁sentence｜>"), rest
        assert got.item.prompt.strip() in text_of(tokenizer, got, "prompt") or "\u0301" in got.item.answer


def test_an_empty_thought_is_the_templates_and_no_answer(tmp_path: Path) -> None:
    folder = WORLD / "tokenizers" / "qwen3"
    if not folder.is_dir():
        pytest.skip("no Qwen3 tokenizer")
    tokenizer = read(folder)
    (got,) = tokenize(tokenizer, items([("What is 2+2?", "4")]), template="chat", max_length=99)
    assert text_of(tokenizer, got, "answer") == "4"
    assert text_of(tokenizer, got, "template").endswith("assistant\n<think>\n\n</think>\n\n")
    thought = "<think>\ntwo and two\n</think>\n\n4"
    (got,) = tokenize(tokenizer, items([("What is 2+2?", thought)]), template="chat", max_length=99)
    assert text_of(tokenizer, got, "answer") == thought
    (got,) = tokenize(tokenizer, items([("q", "4")]), template="chat", include_eos=True, max_length=99)
    assert text_of(tokenizer, got, "answer") == "4<|im_end|>"
