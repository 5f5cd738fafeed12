"""Reading checkpoints with transformers: whole weights, the tokenizer as saved, nothing run by surprise."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import devices
from probe.checkpoints.files import pickle_files, weight_files
from probe.checkpoints.series import Checkpoint
from probe.ends import declare
from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = (
    "what is 3 plus 7 ? ans 10",
    "The answer: 12.5, isn't it?\n\tx = 2^10",
    " naïve café — 数学 🙂",
    "1234567 + 89",
)
"""Texts on which tokenizers are compared."""

DTYPES = ("float32", "bfloat16", "float16", "float64")


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Reading:
    """How weights are read; a swap reads the next checkpoint in the same way."""

    dtype: str = "float32"
    device: str = "cpu"
    attn_implementation: str = "eager"
    device_map: str | Mapping[str, str | int] | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"dtype={self.dtype!r}; expected one of {', '.join(DTYPES)}")
        devices.check(self.device)


def read_model(checkpoint: Checkpoint, reading: Reading) -> Any:
    """The Hugging Face model of a checkpoint, in eval mode, an adapter merged into it.

    Raises:
        InputError: missing or truncated weights, pickle weights not allowed, a model that needs remote
            code, weights that do not fit the configuration (a missing key would be random numbers), an
            adapter that did not land.
    """
    import torch

    folder = checkpoint.folder
    _refuse_pickle(folder, reading)
    placed: dict[str, Any] = {} if reading.device_map is None else {"device_map": reading.device_map}
    model, info = _from_pretrained(
        folder,
        dtype=getattr(torch, reading.dtype),
        attn_implementation=reading.attn_implementation,
        trust_remote_code=reading.trust_remote_code,
        **placed,
    )
    _check_loaded(folder, info)
    _refuse_offloaded_ends(folder, model)
    if checkpoint.adapter:
        _refuse_pickle(Path(checkpoint.adapter), reading)
        model = merged(model, Path(checkpoint.adapter))
    return (model if placed else model.to(reading.device)).eval()


def offloaded(hf_model: Any) -> list[str]:
    """Parameters that a device map left on disk or in other memory: they come and go with their module's pass."""
    return [name for name, p in hf_model.named_parameters() if p.device.type == "meta"]


def _refuse_offloaded_ends(folder: Path, model: Any) -> None:
    away = set(offloaded(model))
    blocks = [n for n in away if ".layers." in n or ".h." in n]
    ends = sorted(away.difference(blocks))
    if ends:
        raise InputError(
            f"{folder}: the device map offloads {', '.join(ends[:3])}; only blocks can be: what is read through the "
            "lens needs the embedding, the final norm and the head on a device (give them one in the map)"
        )


def _refuse_pickle(folder: Path, reading: Reading) -> None:
    pickled = set(weight_files(folder)) & set(pickle_files(folder))
    if pickled and not reading.allow_pickle:
        raise InputError(
            f"{folder}: only pickle weights ({min(pickled).name}), which can run code when read; convert them "
            "to safetensors, or pass allow_pickle=True if you trust them (they are read with weights_only)"
        )


def _from_pretrained(folder: Path, **options: Any) -> Any:
    import pickle

    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    read: Any = AutoModelForCausalLM.from_pretrained
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return read(folder, local_files_only=True, output_loading_info=True, weights_only=True, **options)
    except (ValueError, OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{folder}: transformers cannot load it: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def merged(model: Any, adapter: Path) -> Any:
    """The model with a PEFT adapter merged in, every targeted weight proven to have changed.

    Raises:
        InputError: an adapter for another model, or one whose tensors did not reach the weights.
    """
    from peft import PeftModel
    from safetensors.torch import load_file

    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file) if file.is_file() else None
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PEFT only warns of keys that no module takes
            out = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (ValueError, RuntimeError, KeyError, UserWarning) as error:
        raise InputError(f"{adapter}: the adapter does not fit {type(model).__name__}: {error}") from error
    changed = {n for n, p in out.named_parameters() if n not in before or not p.equal(before[n])}
    trained = tensors is None or any(bool(t.any()) for n, t in tensors.items() if "lora_A" not in n)
    if trained and not changed:
        raise InputError(f"{adapter}: the adapter changed no weight of the base model; it did not land")
    return out


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

    folder = checkpoint.tokenizer_folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, ImportError) as error:
        weight_files(checkpoint.folder)  # a folder that is no checkpoint at all is told as that
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise InputError(
                f"{folder}: no tokenizer here ({', '.join(TOKENIZER_FILES)}). Copy these files from the model that "
                "training started from."
            ) from error
        raise InputError(f"{folder}: no tokenizer that transformers can load: {error}") from error
    check_tokenizer(tokenizer, folder)
    declare(tokenizer, folder)
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


def check_same_tokenizer(source: Checkpoint, held: Any, label: str) -> None:
    """Raise unless the checkpoint's tokenizer gives the ids of the one held."""
    other = read_tokenizer(source)
    one, two = held.get_vocab(), other.get_vocab()
    # A family's tokenizer class may add special tokens of its own (a pad, an end of text); that moves no id.
    extra = (one.keys() ^ two.keys()) - held.get_added_vocab().keys() - other.get_added_vocab().keys()
    if extra or any(one[t] != two[t] for t in one.keys() & two.keys()):
        raise InputError(f"{source.path}: another tokenizer (vocabulary) than {label}; load it on its own")
    for text in TEXTS:
        if other(text)["input_ids"] != held(text)["input_ids"]:
            raise InputError(f"{source.path}: tokenizer gives other ids than {label} for {text!r}")


def check_same_shapes(source: Checkpoint, new: Mapping[str, Tensor], own: Mapping[str, Tensor], label: str) -> None:
    """Raise unless names and shapes of the parameters are those held."""
    other = [n for n in own.keys() | new.keys() if n not in own or n not in new]
    other += [n for n in own.keys() & new.keys() if own[n].shape != new[n].shape]
    if other:
        raise InputError(f"{source.path}: other parameters than {label}, e.g. {sorted(other)[:3]}")


def eos_ids(hf_model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a text, for the model or for its tokenizer."""
    given = [getattr(getattr(hf_model, n, None), "eos_token_id", None) for n in ("generation_config", "config")]
    listed = [i for value in given if value is not None for i in (value if isinstance(value, list) else [value])]
    return frozenset(int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None)


def sharing_copy(hf_model: Any) -> Any:
    """A copy of the module tree whose parameters and buffers are the very ones of `hf_model` (no memory).

    A wrapper rewrites the tree it is given; the copy stays plain and follows every change of the weights.
    """
    tensors = (*hf_model.parameters(), *hf_model.buffers())
    return copy.deepcopy(hf_model, memo={id(t): t for t in tensors})


def own_copy(hf_model: Any) -> Any:
    """A copy of the module tree in eval mode with eager attention, with parameters of its own that share
    the memory of `hf_model`'s: values written there show here, parameters re-pointed here do not show there."""
    from torch import nn

    memo: dict[int, Any] = {id(b): b for b in hf_model.buffers()}
    memo |= {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in hf_model.parameters()}
    out = copy.deepcopy(hf_model, memo=memo).eval()
    out.set_attn_implementation("eager")
    return out
