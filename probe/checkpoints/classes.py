"""Which class of transformers reads a folder whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probe import families
from probe.errors import InputError


def reader_of(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The auto class for a folder: a multimodal model is read as it lies, its text decoder looked at within it.

    Where transformers has a class for the text alone, too (Llama 4), the folder's `architectures` say which it holds.

    Raises:
        InputError: a configuration that transformers cannot read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as WHOLE

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: transformers cannot load it: {error}") from error
    if WHOLE.get(config.model_type) in (config.architectures or ()):
        return AutoModelForImageTextToText
    by_itself = config.model_type in CAUSAL or families.text_config(config) is config
    return AutoModelForCausalLM if by_itself else AutoModelForImageTextToText
