"""What a model is, as one hash: weights, tokenizer, number format, backend and kind of device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from probe import devices

if TYPE_CHECKING:
    from torch import Tensor

    from probe.handle import Handle


def fingerprint(model: Handle, hasher: Callable[[], Any] = hashlib.sha256) -> str:
    """Hex hash of weights, tokenizer, dtype, backend and kind of device."""
    if model.checkpoint is not None and model.backend.is_remote:
        own = ["remote", model.checkpoint.path, str(model.checkpoint.revision)]
    elif model.checkpoint is not None:
        own = [model.checkpoint.fingerprint(), model.checkpoint.tokenizer_fingerprint()]
    else:
        own = [weights_hash(model.backend.parameters()), repr(sorted(model.tokenizer.get_vocab().items()))]
    if (device := devices.kind(model.device)) != "cpu":
        own.append(device)  # another kind of device rounds otherwise, and a near tie is another text
    digest = hasher()
    digest.update("|".join([*own, str(model.dtype), model.backend_name, *model.framing.identity()]).encode())
    return str(digest.hexdigest())[:32]


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Hex hash of the values of all parameters."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
