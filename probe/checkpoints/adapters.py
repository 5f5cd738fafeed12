"""PEFT adapters: put into their base as PEFT computes with them, every tensor of the file proven to have landed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from probe.checkpoints.files import read_json, weight_files
from probe.checkpoints.quantised import quantisation_of
from probe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_OF_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")


def attached(model: Any, folder: Path) -> Any:
    """The model with an adapter in it: merged into the weights, or, over packed weights, beside them (exactly so).

    Raises:
        InputError: an adapter for another model, one that changes prompts and not weights, or one whose tensors did
            not all reach the model.
    """
    config = read_json(folder / "adapter_config.json")
    _refuse_unmergeable(folder, config)
    tensors = _tensors(folder)
    packed = quantisation_of(model) is not None
    _resize(model, tensors, folder)
    before = {} if packed else {n: p.detach().clone() for n, p in model.named_parameters()}
    tuned = _loaded(model, folder)
    _check_landed(tuned, tensors, folder)
    if packed:
        return tuned.get_base_model()
    if not config.get("ensure_weight_tying"):
        _untie(tuned)
    out = tuned.merge_and_unload()
    changed = {n for n, p in out.named_parameters() if n not in before or not p.equal(before[n])}
    trained = any(bool(t.any()) for n, t in tensors.items() if "lora_A" not in n)
    if trained and not changed:
        raise InputError(f"{folder}: the adapter changed no weight of the base model; it did not land")
    return out


def _refuse_unmergeable(folder: Path, config: Mapping[str, object]) -> None:
    kind = str(config.get("peft_type"))
    if kind in _OF_PROMPTS:
        raise InputError(
            f"{folder}: a {kind} adapter puts learned vectors before every prompt and leaves the weights as they are; "
            "positions and sites of such a model are not those of its base, so it is not read here"
        )
    if config.get("alora_invocation_tokens"):
        raise InputError(
            f"{folder}: an activated LoRA (alora_invocation_tokens) changes weights only after certain tokens; it "
            "cannot be merged, so it is not read here"
        )


def _tensors(folder: Path) -> dict[str, Tensor]:
    file = weight_files(folder)[0]
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _resize(model: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    """Give the base as many token embeddings as the adapter was trained with, where its file says so."""
    have = model.get_input_embeddings().weight.shape[0]
    rows = {t.shape[0] for n, t in tensors.items() if _is_embedding(n) and n.endswith(".weight") and "lora" not in n}
    rows |= {t.shape[1] for n, t in tensors.items() if "lora_embedding_A" in n}
    if not rows or rows == {have}:
        return
    if len(rows) > 1:
        raise InputError(f"{folder}: token embeddings of {sorted(rows)} rows in one adapter")
    saved = {part for part in _EMBEDDINGS for n in tensors if f"{part}." in n and "lora" not in n}
    ends = 1 if model.config.tie_word_embeddings else 2
    if len(saved) < ends:
        raise InputError(
            f"{folder}: trained with {rows.pop()} token embeddings where the base has {have}, but the file does not "
            "hold the new rows of both ends; save with save_embedding_layers=True, or give the base that has them "
            "(--base)"
        )
    model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _is_embedding(name: str) -> bool:
    return any(f"{part}." in name for part in _EMBEDDINGS)


def _loaded(model: Any, folder: Path) -> Any:
    """The model with the adapter's layers inside. PEFT's warnings are advice; whether all landed is checked apart."""
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return PeftModel.from_pretrained(model, folder).eval()
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: the adapter does not fit {type(model).__name__}: {error}") from error


def _check_landed(tuned: object, tensors: dict[str, Tensor], folder: Path) -> None:
    """Raise unless the names in the file are those of the adapter in the model, and the values too."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        held: dict[str, Tensor] = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    absent = sorted(n for n in held if n not in tensors and not _is_embedding(n))
    extra = sorted(n for n in tensors if n not in held and not _is_embedding(n))
    other = sorted(n for n in held.keys() & tensors.keys() if not _equal(held[n], tensors[n]))
    for names, told in ((extra, "that no module takes"), (absent, "that the file lacks"), (other, "of other values")):
        if names:
            raise InputError(
                f"{folder}: the adapter does not fit this model: {len(names)} tensor(s) {told}, e.g. {names[:2]}"
            )


def _equal(held: Tensor, saved: Tensor) -> bool:
    return held.shape == saved.shape and bool((held.cpu() == saved.to(held.dtype).cpu()).all())


def _untie(tuned: Any) -> None:
    """Give the head its own values where embedding and head are one matrix and the adapter changes one of them.

    PEFT computes with the base's matrix at the other end; merging would write the change into both.
    """
    model = tuned.get_base_model()
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    weights = [_base_weight(end) for end in ends]
    wrapped = [end for end in ends if type(end).__module__.startswith("peft.")]
    if weights[0] is not weights[1] or not wrapped or any("TrainableTokens" in type(end).__name__ for end in wrapped):
        return
    owner = next(m for m in ends[1].modules() if getattr(m, "weight", None) is weights[1])
    owner.weight = nn.Parameter(weights[1].detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


def _base_weight(end: nn.Module) -> Any:
    base = end
    for name in ("original_module", "base_layer"):
        base = getattr(base, name, base)
    return getattr(base, "weight", None)
