"""One word, one token; and AutoTokenizer gives back what was saved."""

from __future__ import annotations

from pathlib import Path

from experiments.lab import tokenizer as words
from experiments.lab import world as w


def test_every_word_is_one_token_and_nothing_is_unknown(full_recipe):
    tokenizer = words.build()
    bench = w.benchmark(full_recipe.world, 0)
    for problem, text in w.pretraining_stream(full_recipe.world, bench, 0, 300):
        for part in (problem.prompt, text):
            ids = tokenizer(part)["input_ids"]
            assert len(ids) == len(part.split())
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == part


def test_the_boundary_needs_no_blank():
    tokenizer = words.build()
    joined = tokenizer("how many ?ans 7")["input_ids"]
    assert joined == tokenizer("how many ?")["input_ids"] + tokenizer("ans 7")["input_ids"]


def test_saved_checkpoints_keep_their_tokenizer(tiny_lab: Path):
    text = "Ann has 12 figs . buys 5 . how many ? think so 12 + 5 = 17 ; ans 17 <eos>"
    for folder in sorted(tiny_lab.glob("*/checkpoint-*")):
        words.assert_round_trip(folder, [text])
