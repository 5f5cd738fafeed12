"""Many arms in one stream say what one generation per arm says."""

from __future__ import annotations

import pytest
import torch

from analyses.steering._arms import scale_keys
from analyses.steering._steered_generation import steered_completions
from probe import Item, Model, Prompts
from tests import tiny

FACTORS = torch.ones(4, 48)
FACTORS[1, :24], FACTORS[2], FACTORS[3, 5:40] = 0.0, 0.3, -2.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(tiny.save(tmp_path_factory.mktemp("m")), check=False)


PROMPTS = Prompts(tuple(Item(f"q{i}", f"what is {i} plus 7 ?" + " how many" * i, "x") for i in range(5)))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_arm_equals_a_generation_of_its_own(model: Model, batch_size: int) -> None:
    found = steered_completions(model, PROMPTS, 1, FACTORS, max_new_tokens=8, batch_size=batch_size)
    for arm, factors in enumerate(FACTORS):
        mask = factors[None] != 1
        edits = [scale_keys(1, float(factors[mask[0]][0]), mask)] if bool(mask.any()) else []
        alone = model.generate(PROMPTS, edits=edits, max_new_tokens=8)
        assert [c.ids for c in found[arm]] == [c.ids for c in alone]
    assert len({found[arm][0].ids for arm in range(4)}) > 1, "the arms do differ"


def test_steering_generated_tokens_only_leaves_the_first_one_alone(model: Model) -> None:
    found = steered_completions(model, PROMPTS, 1, FACTORS, max_new_tokens=8, steer_at="generated")
    plain = model.generate(PROMPTS, max_new_tokens=8)
    assert [c.ids for c in found[0]] == [c.ids for c in plain]
    assert all(found[arm][n].ids[0] == plain[n].ids[0] for arm in range(4) for n in range(5))
    assert any(found[2][n].ids != plain[n].ids for n in range(5))
    # By hand: greedy, the whole text run again at each step, keys scaled on generated tokens alone.
    ids = list(model.tokenizer(PROMPTS.items[0].prompt)["input_ids"])
    start = len(ids)
    for _ in range(8):
        text = torch.tensor([ids])
        mask = torch.zeros_like(text, dtype=torch.bool)
        mask[0, start:] = True
        ids.append(_next(model, text, mask))
    assert tuple(ids[start:]) == found[2][0].ids


def _next(model: Model, ids: torch.Tensor, steered: torch.Tensor) -> int:
    from probe.interventions import Edit
    from probe.prompts import SPANS, TokenBatch
    from probe.sites import Site

    span = torch.full_like(ids, SPANS.index("prompt"), dtype=torch.int8)
    batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool), span, PROMPTS.items[:1])
    edit = Edit(Site("mlp_post", 1), lambda x: x * 0.3, steered)
    logits = model.run(batch, edits=[edit]).logits
    assert logits is not None
    return int(logits[0, -1].argmax())
