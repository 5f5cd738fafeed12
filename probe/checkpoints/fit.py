"""Do weights and configuration fit: what is missing, what nothing takes, what is no language model at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import devices
from probe.checkpoints.files import config_of
from probe.checkpoints.quantised import held_otherwise
from probe.errors import InputError
from probe.shape import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

    from probe.checkpoints.series import Checkpoint

HARMLESS = re.compile(
    r"(?:^|\.)(?:v_head|value_head|mtp|mtp_block)\."  # heads for values and for tokens further ahead
    r"|rotary_emb\.(?:inv_freq|cos_cached|sin_cached)$|\.attn(?:ention)?\.(?:bias|masked_bias)$|position_ids$"  # tables
    r"|_extra_state$|\.[kv]_scale$|\.(?:k|v)_proj\.output_scale$"  # states of kernels
)
"""Tensors of a file that no module of the text decoder takes and that change none of its logits."""

WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    "pretrained_model.": "TRL's value head",
    "module.": "data-parallel training",
}
"""What wrappers of a model put into the names of its parameters."""

_GENERATES = re.compile(r"(?:ForCausalLM|LMHeadModel|ForConditionalGeneration|ForImageTextToText|ForPreTraining)")
_OTHER_HEAD = re.compile(r"For[A-Z]|Reward|Critic|ValueModel|Classif")


def refuse_other_heads(folder: Path) -> None:
    """Raise for a folder whose model gives scores or classes, not tokens (its head would be made up)."""
    named = config_of(folder).get("architectures") or []
    if not isinstance(named, list):
        raise InputError(f"{folder / 'config.json'}: architectures is {named!r:.60}; expected a list of names")
    wrong = [str(n) for n in named if _OTHER_HEAD.search(str(n)) and not _GENERATES.search(str(n))]
    wrong += [str(n) for n in named if re.search(r"Reward|Critic|ValueModel", str(n)) and str(n) not in wrong]
    if wrong:
        raise InputError(
            f"{folder}: {wrong[0]} is no language model: it gives scores or classes, and has no head over tokens. Give "
            "the policy's checkpoint (...ForCausalLM)"
        )


def check_loaded(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise unless every parameter came from the files and every tensor of the files went somewhere."""
    missing, taken_by_none = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        cure = _prefixed(folder, missing, taken_by_none)
        raise InputError(f"{folder}: {len(missing)} parameter(s) not in the weight files, e.g. {missing[:3]}{cure}")
    if info["mismatched_keys"]:
        raise InputError(f"{folder}: weights of another shape than the configuration: {info['mismatched_keys']}")
    lora = [k for k in taken_by_none if "lora_" in k]
    if lora:
        raise InputError(f"{folder}: adapter weights that no module takes, e.g. {lora[:2]}; merge or use adapter=")
    rest = [k for k in taken_by_none if not HARMLESS.search(k)]
    if rest:
        raise InputError(
            f"{folder}: {len(rest)} tensor(s) that no module of the configuration's model takes, e.g. {rest[:3]}: the "
            "configuration is of another model (fewer blocks, no biases, another head); copy the config.json that was "
            "saved with these weights"
        )


def _prefixed(folder: Path, missing: Sequence[str], found: Sequence[str]) -> str:
    """The cure where a wrapper's name stands in the names of the parameters."""
    for wrapper, by in WRAPPERS.items():
        bare = {name.replace(wrapper, "") for name in found if wrapper in name}
        if bare and bare >= set(missing):
            return (
                f". They are there under names with {wrapper!r}, which {by} puts in. Save the unwrapped model, or "
                f"rename with: {_renaming(folder, wrapper)}"
            )
    return ""


def _renaming(folder: Path, wrapper: str) -> str:
    return (
        'python -c "import shutil; from pathlib import Path as P; from safetensors.torch import load_file as l, '
        f"save_file as s; a, b = P('{folder}'), P(shutil.copytree('{folder}', '{folder}-renamed')); "
        f"[s({{k.replace('{wrapper}', ''): v for k, v in l(f).items()}}, b / f.name, {{'format': 'pt'}}) "
        "for f in a.glob('*.safetensors')]; "
        f"[(b / f.name).write_text(f.read_text().replace('{wrapper}', '')) for f in a.glob('*.index.json')]\""
    )


def differing(fresh: Any, held: Any) -> list[str]:
    """What a model just read has other than the one held, its weights apart: all of it decides numbers.

    Names of entries of the configuration, of buffers, or of the way weights are packed; none where the weights alone
    can move into the model held.
    """
    if type(fresh) is not type(held):
        return [type(fresh).__name__]
    if held_otherwise(fresh) or held_otherwise(held):
        return ["how weights are held"]
    one, two = _stated(fresh.config), _stated(held.config)
    names = [n for n in sorted(one.keys() | two.keys()) if one.get(n) != two.get(n)]
    return names + _differing_buffers(dict(fresh.named_buffers()), dict(held.named_buffers()))


def _stated(config: Any) -> dict[str, object]:
    """A configuration without what is written for information only."""
    return {k: v for k, v in config.to_dict().items() if k not in _FOR_INFORMATION}


_FOR_INFORMATION = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures")


def _differing_buffers(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> list[str]:
    if one.keys() != two.keys():
        return sorted(one.keys() ^ two.keys())
    return [n for n in one if one[n].shape != two[n].shape or not _same_values(one[n], two[n])]


def _same_values(one: Tensor, two: Tensor) -> bool:
    return not (devices.has_numbers(one) and devices.has_numbers(two)) or one.equal(two.to(one.device))


def check_same_model(source: Checkpoint, fresh: Any, held: Any, label: str) -> None:
    """Raise unless both are checkpoints of one model: the sizes of one family, context and vocabulary apart.

    A fine-tune may lengthen the context and add tokens; blocks, heads and widths stay.

    Args:
        source: the checkpoint that is read.
        fresh: its model.
        held: the model held.
        label: what the model held is called.
    """
    one, two = ModelShape.of(fresh.config), ModelShape.of(held.config)
    if replace(one, n_ctx=two.n_ctx, d_vocab=two.d_vocab) != two:
        if one.family != two.family or one.n_layers != two.n_layers:
            raise InputError(f"{source.path}: other parameters than {label}: it is {one}; the model held is {two}")
        raise InputError(f"{source.path}: {one}; the model held is {two}")


def check_same_shapes(source: Checkpoint, new: Mapping[str, Tensor], own: Mapping[str, Tensor], label: str) -> None:
    """Raise unless names and shapes of the parameters are those held.

    Args:
        source: the checkpoint that is read.
        new: name -> its parameter.
        own: name -> parameter held.
        label: what the model held is called.
    """
    other = [n for n in own.keys() | new.keys() if n not in own or n not in new]
    other += [n for n in own.keys() & new.keys() if own[n].shape != new[n].shape]
    if other:
        raise InputError(f"{source.path}: other parameters than {label}, e.g. {sorted(other)[:3]}")
