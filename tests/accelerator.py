"""The device that tests marked `gpu` run on: `PROBE_TEST_DEVICE`, a pretended one by default."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import pytest

DEVICE = os.environ.get("PROBE_TEST_DEVICE", "sim:0")
IS_PRETENDED = DEVICE.startswith("sim")
if IS_PRETENDED:  # now: autograd counts devices once, at the first backward pass of the process
    from tests import pretend


def accelerator() -> AbstractContextManager[None]:
    """Within the block the device can be used."""
    return pretend.accelerator() if IS_PRETENDED else nullcontext()


def second_device() -> str:
    """Another device of the same kind; tests skip where there is none."""
    kind, _, _ = DEVICE.partition(":")
    if not IS_PRETENDED:
        import torch

        if torch.get_device_module(DEVICE).device_count() < 2:
            pytest.skip(f"one {kind} device here: nothing to spread a model over")
    return f"{kind}:1"


def devices_map() -> dict[str, str]:
    """A tiny llama of three blocks over two devices: the embedding and a block on one, all else on the other."""
    one, two = DEVICE, second_device()
    first = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.layers.0"), one)
    return first | dict.fromkeys(("model.layers.1", "model.layers.2", "model.norm", "lm_head"), two)
