"""Work grows linearly: forward passes, rows through blocks and matrix operations, counted exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analyses import Store, get, sweep
from probe import Checkpoint, Item, Model, Prompts
from tests import tiny

BATCH = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "perplexity": {},
    "cross_patching": {"draws": 5, "sites": ("resid_post",), "positions": "last_prompt"},
}


@dataclass
class Count:
    """What ran: passes through the whole stack, rows through any of its blocks, matrix operations."""

    passes: int = 0
    block_rows: int = 0
    flops: int = 0

    def minus(self, other: Count) -> tuple[int, ...]:
        return tuple(a - b for a, b in zip(astuple(self), astuple(other), strict=True))


@contextmanager
def counted() -> Iterator[Count]:
    """Counts of everything torch runs in here, whoever asked for it."""
    count = Count()

    def before(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        kind = type(module).__name__
        if kind == "LlamaModel":
            count.passes += 1
        elif kind == "LlamaDecoderLayer":
            count.block_rows += given[0].shape[:-1].numel()

    hook = torch.nn.modules.module.register_module_forward_pre_hook(before)
    try:
        with FlopCounterMode(display=False) as operations:
            yield count
    finally:
        hook.remove()
    count.flops = operations.get_total_flops()


def prompts(n: int) -> Prompts:
    """Items of one length, so that every batch is alike."""
    return Prompts(tuple(Item(f"q{i:03d}", "what is 3 plus 7 ?", "think 3 + 7 ; ans 10") for i in range(n)))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    folder = tiny.series(tmp_path_factory.mktemp("scaling"), (0, 1, 2, 3, 4), num_hidden_layers=2)
    return [Checkpoint.of(folder / f"checkpoint-{step}") for step in range(5)]


@pytest.mark.parametrize("name", OPTIONS)
def test_items(series: list[Checkpoint], name: str) -> None:
    """Each further batch adds the same work, to the operation; what comes once (gates) does not grow."""
    slots = [i.name for i in get(name).inputs if i.kind == "Model"]
    found: dict[int, Count] = {}
    for times in (1, 2, 4):
        # Loaded anew each time: what is proved of a model at its first use then comes once in every count.
        models = {slot: Model.load(c, check=False) for slot, c in zip(slots, series, strict=False)}
        with counted() as found[times]:
            get(name)(**models, prompts=prompts(times * BATCH), batch_size=BATCH, **OPTIONS[name])
    each = found[2].minus(found[1])
    assert min(each) > 0
    assert found[4].minus(found[2]) == tuple(2 * n for n in each)
    if name == "perplexity":  # nothing comes once: proportional
        assert astuple(found[1]) == each


@pytest.mark.parametrize("name", OPTIONS)
def test_checkpoints(series: list[Checkpoint], tmp_path: Path, name: str) -> None:
    """Each further checkpoint of a sweep adds the same work, the proofs of its model included."""
    found: dict[int, Count] = {}
    for members in (2, 3, 5):
        given = {"checkpoints": series[:members], "prompts": prompts(BATCH), "store": Store(tmp_path / str(members))}
        with counted() as found[members]:
            sweep(name, **given, batch_size=BATCH, **OPTIONS[name])
    each = found[3].minus(found[2])
    assert min(each) > 0
    assert found[5].minus(found[3]) == tuple(2 * n for n in each)
