"""The table of families: its column bf16 compares two passes, not one with itself."""

from __future__ import annotations

import copy

import torch

from benchmarks.families import pairs
from probe import Model
from tests import tiny, zoo


def test_bf16_is_that_of_transformers_and_not_of_float32() -> None:
    plain = zoo.model("llama")
    half = copy.deepcopy(plain).to(torch.bfloat16)
    model = Model.wrap(half, tiny.tokenizer(), check=False)
    assert all(abs(own - alone) <= 2e-2 for own, alone in pairs(model, half))
    assert all(abs(own - alone) > 1e-3 for own, alone in pairs(model, plain))
    with torch.no_grad():
        half.lm_head.weight *= 1.01  # the handle shares the memory: both see it
        half.lm_head = copy.deepcopy(half.lm_head)
        half.lm_head.weight *= 1.01  # the handle does not
    assert all(abs(own - alone) > 1e-3 for own, alone in pairs(model, half))
