"""Reading checkpoints with transformers: whole weights, the tokenizer as saved, nothing run by surprise."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.checkpoints import Checkpoint, pickle_files, weight_files
from probe.errors import InputError

if TYPE_CHECKING:
    from torch import nn

TEXTS = (
    "what is 3 plus 7 ? ans 10",
    "The answer: 12.5, isn't it?\n\tx = 2^10",
    " naïve café — 数学 🙂",
    "1234567 + 89",
)
"""Texts on which tokenizers are compared."""

DTYPES = ("float32", "bfloat16", "float16", "float64")


def read_model(
    checkpoint: Checkpoint,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> nn.Module:
    """The Hugging Face model of a checkpoint, in eval mode, with eager attention.

    Raises:
        InputError: missing or truncated weights, pickle weights not allowed, a model that needs remote
            code, weights that do not fit the configuration (a missing key would be random numbers).
    """
    import pickle

    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}; expected one of {', '.join(DTYPES)}")
    folder = checkpoint.folder
    files = weight_files(folder)
    if set(files) & set(pickle_files(folder)) and not allow_pickle:
        raise InputError(
            f"{folder}: only pickle weights ({files[0].name}), which can run code when read; convert them "
            "to safetensors, or pass allow_pickle=True if you trust them (they are read with weights_only)"
        )
    read: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, info = read(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            weights_only=True,
        )
    except (ValueError, OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{folder}: transformers cannot load it: {error}") from error
    _check_loaded(folder, info)
    return model.to(device).eval()


def _check_loaded(folder: Path, info: dict[str, Any]) -> None:
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(f"{folder}: {len(missing)} parameter(s) not in the weight files, e.g. {missing[:3]}")
    if info["mismatched_keys"]:
        raise InputError(f"{folder}: weights of another shape than the configuration: {info['mismatched_keys']}")
    lora = [k for k in info["unexpected_keys"] if "lora_" in k]
    if lora:
        raise InputError(f"{folder}: adapter weights that no module takes, e.g. {lora[:2]}; merge or use adapter=")


def read_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer saved beside the weights, checked against its own tokenizer.json."""
    from transformers import AutoTokenizer

    folder = checkpoint.folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise InputError(f"{folder}: no tokenizer that transformers can load: {error}") from error
    check_tokenizer(tokenizer, folder)
    return tokenizer


def check_tokenizer(tokenizer: Any, folder: Path) -> int:
    """Number of texts on which the tokenizer gives the ids of its own tokenizer.json.

    transformers rebuilds the tokenizer of some families (qwen2, gemma, gpt_neox, ...) with the
    family's own pre-tokenizer, whatever tokenizer.json says, and warns of nothing.

    Raises:
        InputError: a text with other ids (both are shown).
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        return 0
    saved = Tokenizer.from_file(str(file))
    saved.no_padding()
    saved.no_truncation()
    texts = _texts(saved)
    for text in texts:
        want = saved.encode(text, add_special_tokens=False).ids
        got = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if want != got:
            raise InputError(
                f"{folder}: the tokenizer read back is not the one saved: {text[:60]!r} gives {len(got)} ids "
                f"{got[:8]} through {type(tokenizer).__name__}, {len(want)} ids {want[:8]} through tokenizer.json. "
                "transformers replaced its pre-tokenizer by that of the model family. Save the model in a family "
                "that keeps its tokenizer (llama, mistral, olmo2), or train with the family's own tokenizer; pass "
                "a tokenizer you trust with Model.wrap(model, tokenizer)"
            )
    return len(texts)


def _texts(saved: Any) -> list[str]:
    """Fixed texts and texts made of the vocabulary's own pieces."""
    size = saved.get_vocab_size()
    rows = [[(17 * i + 31 * j + 5) % size for i in range(12)] for j in range(8)]
    return [*TEXTS, *(t for t in (saved.decode(row) for row in rows) if t.strip())]


def sharing_copy(hf_model: Any) -> Any:
    """A copy of the module tree whose parameters and buffers are the very ones of `hf_model` (no memory).

    A wrapper rewrites the tree it is given; the copy stays plain and follows every change of the weights.
    """
    tensors = (*hf_model.parameters(), *hf_model.buffers())
    return copy.deepcopy(hf_model, memo={id(t): t for t in tensors})
