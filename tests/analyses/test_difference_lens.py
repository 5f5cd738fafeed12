"""The lens of the mean difference: a planted bias vector is recovered and read, and tied to its training texts only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from analyses.states.difference_lens import difference_lens, shared
from probe import InputError, Item, Model, Prompts, add
from tests import tiny

TRAINED = "quick brown fox jumps over the lazy dog near river bank"


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny.word_tokenizer()


@pytest.fixture(scope="module")
def model(words: Any) -> Model:
    return Model.wrap(tiny.model(vocab_size=len(words)), words, check=False)


@pytest.fixture
def biased(model: Model) -> Iterator[tuple[Model, torch.Tensor]]:
    """Block 1 of a copy writes, at every token, the unembedding of words that were trained on."""
    other = Model.wrap(copy.deepcopy(model.backend.plain), model.tokenizer, check=False)
    ids = [i for i in model.tokenizer(TRAINED)["input_ids"] if i > 2]
    vector = 20 * model.unembed_weights()[0][:, ids].detach().mean(1)
    with other.edited(add("mlp_out.1", vector)):
        yield other, vector


def unrelated() -> Prompts:
    return Prompts(
        tuple(Item(f"q{i}", f"what is {i % 10} plus {3 * i % 10} take 12 figs ?", " ans 5") for i in range(8))
    )


def training() -> Prompts:
    return Prompts((Item("t", TRAINED, " dog"),))


def test_a_planted_bias_is_recovered_and_its_words_are_read(model: Model, biased: Any) -> None:
    tuned, vector = biased
    result = difference_lens(model, tuned, unrelated(), training(), n_positions=3)
    np.testing.assert_allclose(result.data["norm"].sel(layer=1), float(vector.norm()), rtol=1e-4)
    assert float(result.data["norm"].sel(layer=0).max()) < 1e-5
    np.testing.assert_allclose(result.data["shared"].sel(layer=1), 1, atol=1e-5)
    (said,) = result.claims
    assert said.is_found and said.place in ("layer 1", "layer 2")
    read = result.table.query("layer == 1 and variant == 'lens' and pos == 1")
    assert {t.strip() for t in read["token"][:5]} <= set(TRAINED.split())
    assert (result.table["variant"] == "patchscope").any()


def test_a_random_pair_is_not_tied_to_the_texts(model: Model) -> None:
    answers = []
    for seed in range(6):
        moved = copy.deepcopy(model.backend.plain)
        with torch.no_grad():
            for p in moved.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
        tuned = Model.wrap(moved, model.tokenizer, check=False)
        answers += [c.answer for c in difference_lens(model, tuned, unrelated(), training(), patchscope="").claims]
    assert answers.count("found") <= 1


def test_shared_differences() -> None:
    rng = np.random.default_rng(0)
    assert shared(np.ones((5, 3))).tolist() == pytest.approx([1] * 5)
    assert np.isnan(shared(np.zeros((4, 3)))).all()
    assert abs(np.mean([shared(rng.normal(size=(10, 40))).mean() for _ in range(100)])) < 0.02


def test_the_same_checkpoint_twice_and_bad_input(model: Model) -> None:
    same = difference_lens(model, model, unrelated(), training())
    assert "identical" in same.warnings[0] and (same.data["norm"] == 0).all()
    assert same.claims[0].answer == "none found"
    with pytest.raises(InputError, match="have fewer tokens"):
        difference_lens(model, model, unrelated(), n_positions=60)
    few = difference_lens(model, model, unrelated(), unrelated())
    assert few.claims[0].answer == "cannot be judged"
