"""One point of the forgetting law: KL and loss by their definitions, (0, 0) for a checkpoint against itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import run
from probe import Model, Prompts
from tests import tiny


def example(folder: Path) -> dict[str, Any]:
    made = tiny.series(folder, steps=(0, 10))
    pair = {"base": str(made / "checkpoint-0"), "tuned": str(made / "checkpoint-10")}
    items = tiny.twelve_items().items
    return {**pair, "prompts": Prompts(items[:5]), "old": Prompts(items[5:9])}


def test_values_are_the_definitions_written_out(base: Model, tuned: Model, prompts: Prompts) -> None:
    table = run("forgetting", base=base, tuned=tuned, prompts=prompts, old=prompts.limit(4)).table
    item = prompts.items[2]
    (batch,) = base.batches(Prompts((item,)), batch_size=1)
    answer = [k for k in range(1, batch.ids.shape[1]) if int(batch.span[0, k]) == int(batch.span[0, -1])]
    logits: list[Any] = [m.run(batch, logits="all").logits for m in (base, tuned)]
    p, q = (z[0].double().softmax(-1) for z in logits)
    rows, targets = [k - 1 for k in answer], batch.ids[0, answer]
    kl = torch.nn.functional.kl_div(q[rows].log(), p[rows], reduction="none").sum(-1).mean()
    lost = torch.log(p[rows, targets] / q[rows, targets]).mean()
    own = table.query("item == @item.id and variant == 'new'")
    assert own["kl_nats"].item() == pytest.approx(float(kl), rel=1e-4)
    assert own["forgotten_nats"].item() == pytest.approx(float(lost), rel=1e-4)
    assert table.groupby("variant")["item"].nunique().to_dict() == {"new": 12, "old": 4}


def test_a_checkpoint_against_itself_is_the_origin(base: Model, prompts: Prompts) -> None:
    result = run("forgetting", base=base, tuned=base, prompts=prompts, old=prompts)
    assert (result.table[["kl_nats", "forgotten_nats"]] == 0).all(axis=None)
    assert "identical" in result.warnings[0]
