"""Weights that are not plain numbers (quantised, or with an adapter beside them): logits may be read, weights not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.checkpoints.files import stated

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel optimum",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed-tensors",
    "torchao": "torchao",
    "quanto": "optimum-quanto",
    "hqq": "hqq",
    "aqlm": "aqlm[cpu]",
    "eetq": "eetq",
    "fbgemm_fp8": "fbgemm-gpu",
    "fp_quant": "fp-quant",
    "auto-round": "auto-round",
    "higgs": "flute-kernel",
    "mxfp4": "kernels",
    "quark": "amd-quark",
    "sinq": "sinq",
    "spqr": "spqr_quant",
    "vptq": "vptq",
}
"""The packages that transformers needs for a method of quantisation."""


def missing_package(folder: Path, error: ImportError) -> str:
    """What to install where a checkpoint's quantisation (or its code) needs a package that is not there."""
    quantisation = stated(folder).get("quantization_config")
    method = str(quantisation.get("quant_method", "")) if isinstance(quantisation, dict) else ""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if method in PACKAGES:
        needed = f"pip install {PACKAGES[method]}"
        return f"{folder}: quantised with {method}, which needs: {needed} (transformers says: {reason})"
    return f"{folder}: transformers needs a package that is not installed: {reason}"


def quantisation_of(hf_model: PreTrainedModel) -> str | None:
    """The method by which weights of this model are packed; None where all of them are plain numbers.

    A checkpoint that transformers dequantises while it loads (fp8 blocks on a CPU) is plain.
    """
    packed = next((n for n, p in hf_model.named_parameters() if _is_packed(p)), None)
    packed = packed or next((n for n, m in hf_model.named_modules() if type(m).__name__ in _PACKED_MODULES), None)
    if packed is None:
        return None
    config = getattr(hf_model.config, "quantization_config", None)
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    bits = next((f"{n}-bit " for n in (4, 8) if getattr(config, f"load_in_{n}bit", False)), "")
    return f"{bits}{getattr(method, 'value', method) or type(hf_model).__name__} ({packed})"


def mixes_items(hf_model: PreTrainedModel) -> bool:
    """Whether an item's numbers depend on what else is in its batch.

    8-bit bitsandbytes (LLM.int8()) takes a column out of int8 wherever any token of the whole batch is large in it.
    """
    return any(
        type(m).__name__ == "Linear8bitLt" and float(getattr(getattr(m, "state", None), "threshold", 0.0) or 0.0) > 0
        for m in hf_model.modules()
    )


def held_otherwise(hf_model: PreTrainedModel) -> str | None:
    """Why the parameters of a model are not the weights it computes with; None where they are."""
    if packed := quantisation_of(hf_model):
        return f"quantised, {packed}: what lies in memory are packed bytes"
    inside = next((n for n, m in hf_model.named_modules() if type(m).__module__.startswith("peft.")), None)
    if inside is None:
        return None
    return f"apart: an adapter's layers stand beside those of its base (e.g. {inside}), not merged into them"


def _is_packed(parameter: Any) -> bool:
    named = type(parameter).__name__ in ("Params4bit", "Int8Params")
    return named or not parameter.is_floating_point() or parameter.element_size() == 1


_PACKED_MODULES = (
    "Linear4bit", "Linear8bitLt", "HQQLinear", "QLinear", "TorchQuantLinear", "WQLinear_GEMM", "CompressedLinear",
    "FP8Linear", "QuantizedLinear", "AqlmLinear", "Mxfp4GptOssExperts",
)  # fmt: skip
