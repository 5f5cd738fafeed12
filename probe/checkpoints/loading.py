"""Reading checkpoints with transformers: whole weights, the tokenizer as saved, nothing run by surprise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from probe import devices
from probe.checkpoints.adapters import attached
from probe.checkpoints.classes import reader_of
from probe.checkpoints.files import has_weights, misread, pickle_files, weight_files
from probe.checkpoints.fit import check_loaded, refuse_other_heads
from probe.checkpoints.quantised import missing_package
from probe.checkpoints.series import Checkpoint
from probe.checkpoints.shards import state_of
from probe.checkpoints.streaming import STREAM, stream
from probe.dtypes import dtype_named
from probe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        object.__setattr__(self, "dtype", dtype_named(self.dtype))
        devices.check(self.device)


def read_model(checkpoint: Checkpoint, reading: Reading) -> Any:
    """The Hugging Face model of a checkpoint, in eval mode, an adapter merged into it.

    Raises:
        InputError: missing or truncated weights, a format that is not read, pickle weights not allowed, a model that
            needs remote code, a reward model or classifier, weights that do not fit the configuration (a missing key
            would be random numbers, one that nothing takes another model), an adapter that did not land.
    """
    folder = checkpoint.folder
    refuse_other_heads(checkpoint.config_folder)
    _refuse_pickle(checkpoint, reading)
    is_streamed = reading.device_map == STREAM
    placed: dict[str, object] = {}
    if reading.device_map is not None and not is_streamed:
        placed["device_map"] = reading.device_map
    model, info = _read(
        checkpoint,
        dtype=getattr(torch, reading.dtype),
        attn_implementation=reading.attn_implementation,
        trust_remote_code=reading.trust_remote_code,
        **placed,
    )
    check_loaded(folder, info)
    _refuse_offloaded_ends(folder, model)
    if checkpoint.adapter:
        model = attached(model, Path(checkpoint.adapter))
    if is_streamed:
        return stream(model.eval(), folder)
    return (model if placed else model.to(reading.device)).eval()


def _read(checkpoint: Checkpoint, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Model and report of loading, from a whole model's files or a trainer's shards."""
    trusted = bool(options["trust_remote_code"])
    if checkpoint.shards is None:
        read = reader_of(checkpoint.folder, trust_remote_code=trusted).from_pretrained
        return _quietly(checkpoint, lambda: read(checkpoint.folder, **_LOCALLY, **options))
    return _quietly(checkpoint, lambda: _from_shards(checkpoint, **options))


_LOCALLY: dict[str, Any] = {"local_files_only": True, "output_loading_info": True, "weights_only": True}


def _from_shards(checkpoint: Checkpoint, *, trust_remote_code: bool, **options: object) -> tuple[Any, dict[str, Any]]:
    """A model of the configuration, its parameters filled from shards as transformers fills them from a file."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder, shards = checkpoint.config_folder, checkpoint.shards
    assert shards is not None
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    state = state_of(shards, empty.state_dict())
    model, info = type(empty).from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, **options
    )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model, info


def offloaded(hf_model: PreTrainedModel) -> list[str]:
    """Parameters that a device map left on disk or in other memory: they come and go with their module's pass."""
    return [name for name, p in hf_model.named_parameters() if not devices.has_numbers(p)]


def _refuse_offloaded_ends(folder: Path, model: PreTrainedModel) -> None:
    away = set(offloaded(model))
    blocks = [n for n in away if ".layers." in n or ".h." in n]
    ends = sorted(away.difference(blocks))
    if ends:
        raise InputError(
            f"{folder}: the device map offloads {', '.join(ends[:3])}; only blocks can be: what is read through the "
            "lens needs the embedding, the final norm and the head on a device (give them one in the map)"
        )


def _refuse_pickle(checkpoint: Checkpoint, reading: Reading) -> None:
    """Raise for pickles without leave, and for a model and an adapter in one folder (which of them is meant?)."""
    folder, shards = checkpoint.folder, checkpoint.shards
    if shards is None:
        pickled = [f for f in weight_files(folder) if f in pickle_files(folder)]
        if (folder / "adapter_config.json").is_file() and has_weights(folder):
            raise InputError(
                f"{folder}: holds a whole model and an adapter (adapter_config.json), and transformers would read the "
                "adapter's base in the place of the model; move one of them into a folder of its own"
            )
    else:
        pickled = shards.files
    if checkpoint.adapter:
        pickled += [f for f in weight_files(Path(checkpoint.adapter)) if f.suffix == ".bin"]
    if pickled and not reading.allow_pickle:
        raise InputError(
            f"{pickled[0].parent}: only pickle weights ({pickled[0].name}), which can run code when read; pass "
            "--allow-pickle (allow_pickle=True) if you trust them (they are read with weights_only, which builds "
            f"tensors and plain values), or convert them to safetensors{f': {shards.merging}' if shards else ''}"
        )


def _quietly(checkpoint: Checkpoint, read: Callable[[], Any]) -> Any:

    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return read()
    except InputError:
        raise
    except ImportError as error:
        raise InputError(missing_package(checkpoint.config_folder, error)) from error
    except (*misread(), RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{checkpoint.path}: transformers cannot load it: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def eos_ids(hf_model: object, tokenizer: Any) -> frozenset[int]:
    """Ids that end a text, for the model or for its tokenizer."""
    given = [getattr(getattr(hf_model, n, None), "eos_token_id", None) for n in ("generation_config", "config")]
    listed = [i for value in given if value is not None for i in (value if isinstance(value, list) else [value])]
    if wrong := [i for i in listed if i is not None and not isinstance(i, int)]:
        raise InputError(f"eos_token_id is {wrong[0]!r:.60}; expected a token's number (config or generation_config)")
    return frozenset(int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None)


def sharing_copy(hf_model: PreTrainedModel) -> Any:
    """A copy of the module tree whose parameters and buffers are the very ones of `hf_model` (no memory).

    A wrapper rewrites the tree it is given; the copy stays plain and follows every change of the weights.
    """
    tensors = (*hf_model.parameters(), *hf_model.buffers())
    return copy.deepcopy(hf_model, memo={id(t): t for t in tensors})


def unwrapped(hf_model: PreTrainedModel) -> Any:
    """The language model inside what a training loop holds: compiled, data-parallel, with an adapter or a value head.

    Raises:
        InputError: a model whose parameters lie on other ranks, or one without a head over tokens.
    """
    for _ in range(8):
        inner = _inside(hf_model)
        if inner is None:
            break
        hf_model = inner
    named = type(hf_model).__name__
    if not callable(getattr(hf_model, "get_output_embeddings", None)) or hf_model.get_output_embeddings() is None:
        raise InputError(
            f"{named}: no language model with a head over tokens; give the ...ForCausalLM (of a multimodal model the "
            "whole one, not its language_model)"
        )
    return hf_model


def _inside(hf_model: Any) -> Any:
    """What a wrapper wraps; None where it is none."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    if isinstance(hf_model, FullyShardedDataParallel):
        raise InputError("an FSDP model holds only a part of the weights on each rank; save it and load the checkpoint")
    if hasattr(hf_model, "_orig_mod"):
        return hf_model._orig_mod
    if isinstance(hf_model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return hf_model.module
    if hasattr(hf_model, "peft_config") and callable(getattr(hf_model, "get_base_model", None)):
        if getattr(hf_model, "active_peft_config", None) and hf_model.active_peft_config.is_prompt_learning:
            raise InputError(
                "prompt or prefix tuning puts learned vectors before the prompt; wrap the base model instead"
            )
        return hf_model.get_base_model()
    return getattr(hf_model, "pretrained_model", None) if hasattr(hf_model, "v_head") else None


def own_copy(hf_model: PreTrainedModel) -> Any:
    """A copy of the module tree in eval mode with eager attention, with parameters of its own that share
    the memory of `hf_model`'s: values written there show here, parameters re-pointed here do not show there."""
    memo: dict[int, Any] = {id(b): b for b in hf_model.buffers()}
    memo |= {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in hf_model.parameters()}
    out = copy.deepcopy(hf_model, memo=memo).eval()
    # accelerate's mixed precision puts a forward of its own over the model's: it would compute in bf16 whatever
    # the weights are.
    if "_original_forward" in out.__dict__:
        del out.forward, out._original_forward
    out.set_attn_implementation("eager")
    return out
