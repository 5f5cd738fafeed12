"""Rotary frequencies chosen by the longest item of a batch: an item's numbers are its own all the same."""

from __future__ import annotations

import pytest

from analyses import run
from probe import InputError, Item, Model, ProbeError, Prompts, families
from probe.backends import NAMES
from probe.batches import plan
from probe.tokens import tokenize
from tests import tiny

TURN = 16
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": TURN,
}
PROMPTS = Prompts(tuple(Item(f"q{i}", f"{i} plus 7 ?" + " how many" * (4 * i), f" ans {i}") for i in range(5)))


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    toks = tiny.tokenizer()
    return Model.wrap(tiny.model(vocab_size=len(toks), rope_parameters=LONG), toks, backend=request.param)


def test_batches_do_not_mix_both_sides_of_the_turn(model: Model) -> None:
    lengths = [b.mask.sum(-1).tolist() for b in model.batches(PROMPTS, batch_size=5)]
    assert len(lengths) == 2 and max(lengths[0]) <= TURN < min(lengths[1])
    one, many = (run("perplexity", model=model, prompts=PROMPTS, batch_size=n).table for n in (1, 5))
    assert (one["nll_nats"] - many["nll_nats"]).abs().max() < 2e-5
    encoded = tokenize(model.tokenizer, PROMPTS, max_length=64)
    with pytest.raises(InputError, match=r"'q\d' \(at most 16 tokens\) and 'q\d' .*longrope"):
        model.run(plan(encoded, 5)[0])


def test_generation_is_each_prompts_own(model: Model) -> None:
    alone, together = (model.generate(PROMPTS, max_new_tokens=8, batch_size=n) for n in (1, 5))
    assert [c.ids for c in alone] == [c.ids for c in together]


def test_a_dependence_that_is_not_known_is_found_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "frequency_turn", lambda _config: None)
    toks = tiny.tokenizer()
    with pytest.raises(ProbeError, match=r"proof .neighbours. .*longest text"):
        Model.wrap(tiny.model(vocab_size=len(toks), rope_parameters=LONG), toks)
