"""Number types of weights by name, the usual short names included."""

from __future__ import annotations

from probe.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")
NAMES = {n: n for n in DTYPES} | {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Names that are understood -> PyTorch's."""


def dtype_named(name: str) -> str:
    """PyTorch's name of a dtype.

    Raises:
        InputError: another name, or float64.
    """
    if name in ("float64", "fp64", "double"):
        raise InputError(
            f"dtype={name!r} is not offered: transformers computes norms and softmax in float32 whatever the weights "
            "are, so digits beyond float32's would not be right. Metrics are computed in float32 or better anyway"
        )
    if name not in NAMES:
        raise InputError(f"dtype={name!r}; expected one of {', '.join(NAMES)}")
    return NAMES[name]
