"""The word-level tokenizer of the lab, in a form that AutoTokenizer gives back unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.lab.world import vocabulary
from probe.errors import ProbeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build() -> PreTrainedTokenizerBase:
    """One token per word and per number; no BOS; left padding, as generation needs it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="<unk>"))
    # `Whitespace` also cuts between a word and a sign, so that "?" + "ans" is two tokens even without a blank.
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def assert_round_trip(folder: Path, texts: list[str]) -> None:
    """Refuse a folder whose AutoTokenizer does not give the ids of the tokenizer that was saved there."""
    from transformers import AutoTokenizer

    saved, read = build(), AutoTokenizer.from_pretrained(folder)
    for text in texts:
        if saved(text)["input_ids"] != read(text)["input_ids"]:
            raise ProbeError(f"{folder}: AutoTokenizer reads {text!r} differently from the tokenizer saved there")
