"""An SFT set as a log: the same tokens as a prompt file's, and nothing that was sampled is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probe import Prompts, Rollouts
from probe.errors import InputError
from probe.readers.answers import is_prompt_file
from probe.tokens import tokenize
from tests import tiny

ROWS = [
    {"id": "a", "prompt": "the quick ", "answer": "brown fox"},
    {"id": "b", "prompt": "what is", "answer": " 3 plus"},
]


def test_answers_have_the_ids_of_the_joint_text() -> None:
    prompts, tok = Prompts.of(ROWS), tiny.tokenizer()
    rows = Rollouts.of_prompts(prompts).tokenized(tok).data.to_table().to_pylist()
    for row, want in zip(rows, tokenize(tok, prompts, max_length=99), strict=True):
        assert (*row["prompt_token_ids"], *row["response_token_ids"]) == want.ids
        assert len(row["response_token_ids"]) == want.span.count(4)
        assert (row["prompt_id"], row["step"]) == (want.item.id, 0)
    assert "answers, not samples" in Rollouts.of_prompts(prompts).notes[0]
    with pytest.raises(InputError, match=r"no answer in item.* c"):
        Rollouts.of_prompts(Prompts.of([{"id": "c", "prompt": "q", "answer": ""}]))


def test_chats_go_through_the_template_with_its_options() -> None:
    tok = tiny.tokenizer()
    tok.chat_template = "{{ 'loud ' if loud }}{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    prompts = Prompts.of([{"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "ans"}]}])
    (plain,) = Rollouts.of_prompts(prompts).tokenized(tok).data.to_table().to_pylist()
    framing = {"bos": None, "template_options": {"loud": True}}
    (loud,) = Rollouts.of_prompts(prompts).tokenized(tok, framing).data.to_table().to_pylist()
    assert tok.decode(plain["prompt_token_ids"]) == "what</s>"
    assert tok.decode(loud["prompt_token_ids"]) == "loud what</s>"
    assert tok.decode(plain["response_token_ids"]) == "ans"


@pytest.mark.parametrize(
    ("row", "is_prompts"),
    [
        ({"prompt": "q", "answer": "a"}, True),
        ({"instruction": "q", "output": "a"}, True),
        ({"prompt": "q", "completion": "a", "step": None}, True),
        ({"prompt": "q", "completion": "a", "step": 1}, False),
        ({"prompt": "q", "completion": "a", "reward": 0.0}, False),
        ({"input": "q", "output": "a", "gts": "a", "score": 1}, False),
    ],
)
def test_what_was_rewarded_or_has_a_step_is_no_prompt_file(
    row: dict[str, Any], is_prompts: bool, tmp_path: Path
) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps(row) + "\n")
    assert is_prompt_file(tmp_path / "f.jsonl") == is_prompts
