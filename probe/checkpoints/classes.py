"""Which class of transformers reads a folder whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probe import families
from probe.errors import InputError


def reader_of(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The auto class for a folder: a multimodal model is read as it lies, its text decoder looked at within it.

    Raises:
        InputError: a configuration that transformers cannot read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: transformers cannot load it: {error}") from error
    by_itself = config.model_type in CAUSAL or families.text_config(config) is config
    return AutoModelForCausalLM if by_itself else AutoModelForImageTextToText
