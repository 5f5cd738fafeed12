"""BOS and EOS: what a tokenizer puts around every text, and what its configuration says it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]


def own_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """Ids that the tokenizer puts before and after every text."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    starts = [i for i in range(len(full)) if plain and full[i : i + len(plain)] == plain]
    return (tuple(full[: starts[0]]), tuple(full[starts[0] + len(plain) :])) if starts else ((), ())


def special(tokenizer: PreTrainedTokenizerBase, name: str) -> Ids:
    """The id of `bos` or `eos`.

    Raises:
        InputError: the tokenizer has none.
    """
    value = getattr(tokenizer, f"{name}_token_id")
    if value is None:
        raise InputError(f"this tokenizer has no {name.upper()} token; leave {name} off")
    return (int(value),)


def declare(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Let the tokenizer add what `tokenizer_config.json` declares (`add_bos_token`, `add_eos_token`).

    transformers 5 reads the declaration of some families no more (DeepSeek-V3's), so that a model which was trained
    with BOS would be read without. What the post-processor in `tokenizer.json` adds stays.
    """
    file = folder / "tokenizer_config.json"
    if not file.is_file() or not getattr(tokenizer, "is_fast", False):
        return
    declared: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    lead, tail = own_ends(tokenizer)
    bos = bool(lead) or bool(declared.get("add_bos_token") and tokenizer.bos_token is not None)
    eos = bool(tail) or bool(declared.get("add_eos_token") and tokenizer.eos_token is not None)
    if (bos, eos) != (bool(lead), bool(tail)):
        tokenizer.add_bos_token, tokenizer.add_eos_token = bos, eos
