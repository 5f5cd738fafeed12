"""Plain measurements: reading responses, and NLL whose parts add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.lab import ablate, evaluate
from experiments.lab.recipe import Recipe
from experiments.lab.training import collate, encode, load
from experiments.lab.world import benchmark


@pytest.mark.parametrize(
    ("text", "answer", "direct"),
    [
        ("ans 7", 7, True),
        ("think so 3 + 4 = 7 ; ans 7", 7, False),
        ("ans 7 7", None, True),
        ("ans", None, True),
        ("ans ;", None, True),
        ("so 3 + 4 = 7 ; ans 7", None, False),
        ("think ans 3 ; ans 7", None, False),
        ("", None, False),
    ],
)
def test_responses_are_read_strictly(text: str, answer: int | None, direct: bool):
    found = evaluate.parse(text)
    assert (found.answer, found.direct) == (answer, direct)


@pytest.fixture(scope="module")
def setting(tiny_lab: Path, tiny_recipe: Recipe):
    model = load(tiny_lab / "base" / "checkpoint-30").eval()
    return model, list(benchmark(tiny_recipe.world, tiny_recipe.seed).leaked)


def test_the_parts_of_the_nll_add_up_to_the_models_own_loss(setting):
    model, items = setting
    for texts in ([p.direct for p in items], [p.rationale for p in items]):
        parts = evaluate.nll_parts(model, items, texts)
        rows = encode([(p.prompt, t) for p, t in zip(items, texts, strict=True)], response_only=False)
        for i, row in enumerate(rows):
            # The model's loss is a mean over all but the first token; parts leave out the end token.
            batch = collate([{"input_ids": row["input_ids"][:-1], "labels": row["labels"][:-1]}])
            with torch.no_grad():
                total = float(model(**batch).loss) * (len(row["input_ids"]) - 2)
            assert parts.prompt[i] + parts.mode[i] + parts.body[i] == pytest.approx(total, rel=1e-4)
            assert parts.n_prompt[i] + 1 + parts.n_body[i] == len(row["input_ids"]) - 2


def test_direct_answers_have_a_mode_and_a_number_and_no_style(setting):
    model, items = setting
    parts = evaluate.nll_parts(model, items, [p.direct for p in items])
    np.testing.assert_allclose(parts.body, parts.number)
    assert parts.n_style.sum() == 0


def test_greedy_does_not_depend_on_the_batch(setting):
    model, items = setting
    together = evaluate.greedy(model, items[:4])
    assert together == [evaluate.greedy(model, [p])[0] for p in items[:4]]


def test_the_lens_after_the_last_block_is_the_model(setting):
    model, items = setting
    lens = ablate.lens_top1(model, items)
    assert lens.shape == (model.config.num_hidden_layers, len(items))
    np.testing.assert_array_equal(lens[-1], ablate.remembered(model, items))


def test_scaling_an_mlp_by_one_changes_nothing_and_zero_removes_it(setting):
    model, items = setting
    ids, mask = evaluate.left_padded([items[0].prompt])

    def logits():
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=mask).logits

    plain = logits()
    with ablate.mlp_scaled(model, 1, 1.0):
        assert torch.equal(logits(), plain)
    with ablate.mlp_scaled(model, 1, 0.0):
        removed = logits()
    assert torch.equal(logits(), plain)
    down = model.model.layers[1].mlp.down_proj.weight
    kept = down.detach().clone()
    with torch.no_grad():
        down.zero_()
        torch.testing.assert_close(logits(), removed)
        down.copy_(kept)
    assert not torch.allclose(removed, plain)
