"""Gradient conflict: per-sample gradients are torch.func's, closed forms, contradictory items found, nulls not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from analyses.core import reading
from analyses.core.claim import sentence
from analyses.weights import _item_gradients
from analyses.weights._conflict_claims import claims
from analyses.weights.gradient_conflict import _aggregates, cancellation, cosines, gradient_conflict, opposed
from probe import InputError, Item, Model, Prompts
from tests import tiny


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny.word_tokenizer()


@pytest.fixture(scope="module")
def model(words: Any) -> Model:
    return Model.wrap(tiny.model(vocab_size=len(words)), words, check=False)


def items(*texts: tuple[str, str], group: str = "a") -> list[Item]:
    return [Item(f"{group}{i}", p, a, group=group) for i, (p, a) in enumerate(texts)]


def test_per_sample_gradients_are_those_of_torch_func(model: Model) -> None:
    prompts = Prompts(tuple(items(("what is 3", " ans 4"), ("what is 7", " ans 2"))))
    leaves = _item_gradients.Leaves(model, ("all",), ())
    found, order = _item_gradients.of_prompts(model, prompts, leaves, 0, 0, iter, "none")
    (batch,) = model.batches(prompts, batch_size=2)
    module = model.backend.plain
    weights = {n: p.detach() for n, p in module.named_parameters()}

    def loss(values: Any, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(module, values, (ids[None],)).logits[0]
        answer = slice(3, 5)  # "ans 4": the last two of five tokens
        return -logits[2:4].log_softmax(-1).gather(-1, ids[answer, None]).mean()

    want = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, batch.ids)
    own = {id(p): n for n, p in module.named_parameters()}
    for row, item in enumerate(batch.items):
        flat = torch.cat([want[own[id(w)]][row].flatten() for w, _ in leaves.slots])
        np.testing.assert_allclose(found.values[[i.id for i in order].index(item.id)], flat, atol=1e-5)


def test_contradictory_answers_of_a_uniform_model(words: Any) -> None:
    """cos = -1 / (V - 1) for two answers of one prompt, 1 and no cancellation for the same answer."""
    uniform = tiny.model(vocab_size=len(words))
    with torch.no_grad():
        uniform.lm_head.weight.zero_()
    model = Model.wrap(uniform, words, check=False)
    same = items(("what is 3", " 4"), ("what is 3", " 7"), ("what is 3", " 4"), ("what is 3", " 4"))
    result = gradient_conflict(model, Prompts(tuple(same)), parts=("unembed",))
    rows = result.table.set_index("item")
    v = len(words)
    assert rows.loc["a1", "cosine"] == pytest.approx(-1 / (v - 1), abs=1e-6)
    assert rows.loc["a0", "most_against"] == "a1" and rows.loc["a0", "least_cosine"] == pytest.approx(-1 / (v - 1))
    logits = np.eye(10) - 0.1  # V = 10, straight from one-hots
    assert cosines(logits[:2] @ logits[:2].T)[0, 1] == pytest.approx(-1 / 9)
    only = np.array([[1.0, -1.0], [-1.0, 1.0]])  # mass on both alone
    assert cosines(only @ only.T)[0, 1] == pytest.approx(-1)
    assert cancellation(only @ only.T) == pytest.approx(1)
    assert cancellation(np.ones((3, 3))) == pytest.approx(0)
    assert cancellation(np.eye(16)) == pytest.approx(1 - 1 / 4)
    assert opposed(np.array([-0.1, 0.0, 0.2, np.nan])).tolist()[:3] == [1, 0.5, 0]


def test_spill_is_the_change_that_a_step_makes(model: Model) -> None:
    import copy

    a = items(("what is 3", " ans 4"), ("what is 7", " ans 2"), ("how many are left", " ans 5"))
    b = items(("the quick brown fox", " jumps"), ("what is 5", " ans 9"), group="b")
    found = gradient_conflict(model, Prompts(tuple(a + b)), draws=10)
    stepped = Model.wrap(copy.deepcopy(model.backend.plain), model.tokenizer, check=False)
    losses = [
        _item_gradients.answer_loss(reading, stepped, x) for x in stepped.batches(Prompts(tuple(a)), batch_size=1)
    ]
    total = torch.stack(losses).sum()
    weights = list({id(w): w for w in stepped.weights().values()}.values())
    g = torch.autograd.grad(total, weights)
    size = sum(x.square().sum().item() for x in g) ** 0.5
    before = _nll(stepped, b[0])
    with torch.no_grad():
        for w, x in zip(weights, g, strict=True):
            w.sub_(1e-3 * x / size)
    want = (_nll(stepped, b[0]) - before) / 1e-3
    got = found.table.query("item == 'b0' and trained_on == 'a'")["spill"].item()
    assert got == pytest.approx(want, rel=0.03)


def _nll(model: Model, item: Item) -> float:
    (batch,) = model.batches(Prompts((item,)), batch_size=1)
    return _item_gradients.answer_loss(reading, model, batch).item()


def test_a_sketch_keeps_cosines_within_its_error(model: Model) -> None:
    prompts = tiny.twelve_items().limit(6)
    whole, sketched = (gradient_conflict(model, prompts, sketch=k, draws=4) for k in (0, 2048))
    off = (whole.table["cosine"] - sketched.table["cosine"]).to_numpy()
    assert float(whole.data["cosine_error"]) == 0 and float(sketched.data["cosine_error"]) == pytest.approx(2048**-0.5)
    assert np.abs(off).max() < 4 * 2048**-0.5 and "sketched to 2048" in sketched.warnings[0]


def made(rng: np.random.Generator, shared: float, between: float, n: int = 20, d: int = 200) -> Any:
    """Gradients of two groups: noise, a direction that a group shares (or half of it opposes), and one between them."""
    u, v = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    g = rng.normal(size=(2 * n, d)) / d**0.5
    sign = np.where(np.arange(2 * n) < n, 1.0, -1.0)
    g += between * sign[:, None] * v + shared * np.where(np.arange(2 * n) % 2, 1.0, -1.0)[:, None] * u
    return _aggregates(g @ g.T, np.arange(2 * n), np.where(np.arange(2 * n) < n, "a", "b").astype(object), 100, 0)


def test_independent_gradients_are_none_found_and_opposed_groups_are() -> None:
    rng = np.random.default_rng(0)
    answers = [[c.answer for c in claims(made(rng, 0, 0))] for _ in range(20)]
    assert sum(a == "found" for row in answers for a in row) <= 3
    harmful = claims(made(rng, 0, 1.0))
    assert [c.kind for c in harmful if c.is_found] == ["spill"]
    assert sentence(harmful[1]).startswith(("A step on a harms b: +", "A step on b harms a: +"))
    few = claims(made(rng, 0, 1.0, n=6))
    assert {c.answer for c in few} == {"cannot be judged"}


def test_bad_input_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="at least 4"):
        gradient_conflict(model, tiny.twelve_items().limit(3))
    with pytest.raises(InputError, match="parts="):
        gradient_conflict(model, tiny.twelve_items(), parts=("nonsense",))
