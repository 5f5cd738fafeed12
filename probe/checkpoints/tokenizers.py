"""The tokenizer of a checkpoint: the one that was saved, or none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.checkpoints.files import misread, read_json, weight_files
from probe.checkpoints.series import Checkpoint
from probe.ends import declare
from probe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = (
    "what is 3 plus 7 ? ans 10",
    "The answer: 12.5, isn't it?\n\tx = 2^10",
    " naïve café — 数学 🙂",
    "1234567 + 89",
)
"""Texts on which tokenizers are compared."""

LEGACY = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast", "MistralTokenizer")
"""Classes whose saved ids transformers 5 does not keep."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def read_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer saved beside the weights, checked against its own tokenizer.json."""
    from transformers import AutoTokenizer

    folder = checkpoint.tokenizer_folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (*misread(), ImportError) as error:
        weight_files(checkpoint.folder)  # a folder that is no checkpoint at all is told as that
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise InputError(
                f"{folder}: no tokenizer here ({', '.join(TOKENIZER_FILES)}). Copy these files from the model that "
                "training started from."
            ) from error
        raise InputError(f"{folder}: no tokenizer that transformers can load: {error}") from error
    if _is_legacy(folder) and _differing(tokenizer, folder) is not None:
        tokenizer = _as_saved(folder)
    check_tokenizer(tokenizer, folder)
    declare(tokenizer, folder)
    return tokenizer


def _is_legacy(folder: Path) -> bool:
    """True for Llama's and Mistral's tokenizers as transformers 4 saved them, which transformers 5 builds anew."""
    file = folder / "tokenizer_config.json"
    named = read_json(file).get("tokenizer_class") if file.is_file() else None
    return named in LEGACY and (folder / "tokenizer.json").is_file()


def _as_saved(folder: Path) -> Any:
    """The tokenizer of tokenizer.json itself, with the special tokens and the template of its configuration."""
    from transformers import PreTrainedTokenizerFast

    read: Any = PreTrainedTokenizerFast.from_pretrained
    tokenizer = read(folder, local_files_only=True)
    named = read_json(folder / "tokenizer_config.json")["tokenizer_class"]
    warnings.warn(
        f"{folder}: transformers 5 reads this {named} with other ids than training had; its tokenizer.json is used as "
        "it was saved",
        stacklevel=3,
    )
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> int:
    """Number of texts on which the tokenizer gives the ids of its own tokenizer.json.

    transformers rebuilds the tokenizer of some families (qwen2, gemma, gpt_neox, ...) with the
    family's own pre-tokenizer, whatever tokenizer.json says, and warns of nothing.

    Raises:
        InputError: a text with other ids (both are shown).
    """
    if (differing := _differing(tokenizer, folder)) is not None:
        text, got, want = differing
        raise InputError(
            f"{folder}: the tokenizer read back is not the one saved: {text[:60]!r} gives {len(got)} ids "
            f"{got[:8]} through {type(tokenizer).__name__}, {len(want)} ids {want[:8]} through tokenizer.json. "
            "transformers replaced its pre-tokenizer by that of the model family. Save the model in a family "
            "that keeps its tokenizer (llama, mistral, olmo2), or train with the family's own tokenizer; pass "
            "a tokenizer you trust with Model.wrap(model, tokenizer)"
        )
    saved = _saved(folder)
    return 0 if saved is None else len(_texts(saved))


def _saved(folder: Path) -> Any | None:
    """What tokenizer.json itself says, without padding and truncation; None where there is none."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    saved = Tokenizer.from_file(str(file))
    saved.no_padding()
    saved.no_truncation()
    return saved


def _differing(tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[str, list[int], list[int]] | None:
    """The first text on which the tokenizer and its tokenizer.json differ: the text, its ids and theirs."""
    saved = _saved(folder)
    if saved is None:
        return None
    for text in _texts(saved):
        want = list(saved.encode(text, add_special_tokens=False).ids)
        got = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if want != got:
            return text, got, want
    return None


def _texts(saved: Any) -> list[str]:
    """Fixed texts and texts made of the vocabulary's own pieces."""
    size = saved.get_vocab_size()
    rows = [[(17 * i + 31 * j + 5) % size for i in range(12)] for j in range(8)]
    return [*TEXTS, *(t for t in (saved.decode(row) for row in rows) if t.strip())]


class OneTokenizer:
    """The tokenizer of a series: every checkpoint gives the ids of the first (equal files are not read again)."""

    def __init__(self, *, trust_remote_code: bool = False) -> None:
        self._trusted = trust_remote_code
        self._first: Checkpoint | None = None
        self._held: Any = None
        self._known = set[str]()

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise InputError where the checkpoint's tokenizer gives other ids than that of the first one checked."""
        own = checkpoint.tokenizer_fingerprint()
        if self._first is not None and own not in self._known:
            if self._held is None:
                self._held = read_tokenizer(self._first, trust_remote_code=self._trusted)
            same_tokenizer(checkpoint, self._held, self._first.label, trust_remote_code=self._trusted)
        self._first = self._first or checkpoint
        self._known.add(own)


def same_tokenizer(source: Checkpoint, held: Any, label: str, *, trust_remote_code: bool = False) -> Any:
    """The checkpoint's own tokenizer (its template and end tokens with it), which must give the ids of the one held.

    Args:
        source: the checkpoint that is read.
        held: the tokenizer held.
        label: what the model held is called.
        trust_remote_code: run code shipped with the checkpoint.
    """
    other = read_tokenizer(source, trust_remote_code=trust_remote_code)
    one, two = held.get_vocab(), other.get_vocab()
    # A family's tokenizer class may add special tokens of its own (a pad, an end of text); that moves no id.
    extra = (one.keys() ^ two.keys()) - held.get_added_vocab().keys() - other.get_added_vocab().keys()
    if extra or any(one[t] != two[t] for t in one.keys() & two.keys()):
        raise InputError(f"{source.path}: another tokenizer (vocabulary) than {label}; load it on its own")
    for text in TEXTS:
        if other(text)["input_ids"] != held(text)["input_ids"]:
            raise InputError(f"{source.path}: tokenizer gives other ids than {label} for {text!r}")
    return other
