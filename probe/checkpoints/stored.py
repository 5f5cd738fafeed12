"""Weights read tensor by tensor as they lie on disk: two checkpoints of 7B compare in the memory of two matrices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from probe import families
from probe.checkpoints.files import tensor_names, weight_files
from probe.checkpoints.loading import Reading, read_model
from probe.checkpoints.series import Checkpoint
from probe.checkpoints.shards import state_of
from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# Tables that old checkpoints carry among their weights and no training moves: causal masks, rotary frequencies.
TABLES = re.compile(r"(?:^|\.)(?:inv_freq|masked_bias|rotary_emb\.\w+|attn\.bias|attention\.bias)$")
PREFIXES = ("model.", "transformer.", "module.", "_orig_mod.")


class StoredWeights(Mapping[str, "Tensor"]):
    """The weights of a checkpoint by the names in its files, each read when it is asked for, in its stored type."""

    def __init__(self, checkpoint: Checkpoint, *, allow_pickle: bool = False) -> None:
        self.checkpoint = checkpoint
        self._held = _sources(checkpoint, allow_pickle)

    def __getitem__(self, name: str) -> Tensor:
        source = self._held[name]
        tensor = _from_file(source, name) if isinstance(source, Path) else source[...]
        if not tensor.is_floating_point():
            raise InputError(
                f"{self.checkpoint.label}: {name} is stored as {tensor.dtype}: packed weights are no matrix that can "
                "be compared; give the checkpoint in bfloat16, float16 or float32"
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def _sources(checkpoint: Checkpoint, allow_pickle: bool) -> dict[str, Any]:
    """Where each tensor lies: a safetensors file, or something that gives it on `[...]`."""
    if checkpoint.adapter:  # merged as PEFT merges, which takes the whole model
        model = read_model(checkpoint, Reading(allow_pickle=allow_pickle))
        return dict(model.named_parameters())
    shards = checkpoint.shards
    files = weight_files(checkpoint.folder) if shards is None else shards.files
    if shards is None and all(f.suffix == ".safetensors" for f in files):
        return {n: f for f in files for n in tensor_names(f) if not TABLES.search(n)}
    if not allow_pickle:
        raise InputError(
            f"{checkpoint.label}: its weights are pickles, which can run code; allow them (--allow-pickle)"
        )
    held = _pickled(files) if shards is None else state_of(shards, _parameters(checkpoint))
    return {n: t for n, t in held.items() if not TABLES.search(n)}


def _pickled(files: list[Path]) -> dict[str, object]:
    return {n: t for f in files for n, t in torch.load(f, weights_only=True, map_location="cpu", mmap=True).items()}


def _parameters(checkpoint: Checkpoint) -> list[str]:
    """Names of the parameters of the configuration's model, which is built without numbers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.config_folder, local_files_only=True)
    with torch.device("meta"):
        return list(AutoModelForCausalLM.from_config(config).state_dict())


def _from_file(file: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as handle:
        return handle.get_tensor(name)


def aligned(base: StoredWeights, tuned: StoredWeights) -> dict[str, str]:
    """Names of the weights of `base` and what `tuned` calls them (with or without a wrapper's prefix).

    A head that is stored on one side alone is left out where it is tied to the embedding on the other.

    Raises:
        InputError: weights that only one side has, or of other shapes.
    """
    heads = {n for n in set(base) ^ set(tuned) if n.split(".")[-2:-1] and n.split(".")[-2] in families.UNEMBEDDINGS}
    ours, theirs = set(base) - heads, set(tuned) - heads
    for add, drop in (("", ""), *((p, "") for p in PREFIXES), *(("", p) for p in PREFIXES)):
        named = {n: add + n.removeprefix(drop) for n in base if n in ours}
        if set(named.values()) == theirs:
            return named
    unlike = sorted(ours ^ theirs)
    raise InputError(
        f"{base.checkpoint.label} and {tuned.checkpoint.label} hold different weights, for example {unlike[:3]}: they "
        "must be two checkpoints of one model"
    )
