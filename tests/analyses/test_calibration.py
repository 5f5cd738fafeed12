"""Calibration errors in closed form; confidences against a direct computation on the ids that were drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analyses.answers.calibration import answer_tokens, calibration_error, equal_mass, squared_error
from analyses.core import analysis as registry
from analyses.core.reading.kept_responses import Response
from analyses.core.stats import subsample_interval, subsamples
from probe import Model, Prompts
from probe.errors import InputError
from tests import tiny
from tests.tiny import twelve_items


def example(folder) -> dict:
    """For the contract tests."""
    return {
        "model": Model.load(tiny.save(folder / "model", words=True)),
        "prompts": twelve_items(),
        "grade": "number",
        "max_new_tokens": 8,
    }


def test_confidence_equal_to_bin_accuracy_has_no_error():
    correct = np.tile([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0], 10)
    confidence = np.tile([0.25] * 4 + [0.75] * 4, 10)
    assert calibration_error(confidence, correct, 2) == pytest.approx(0.0)
    assert calibration_error(np.full(80, 1.0), correct, 5) == pytest.approx(0.5)
    assert math.isnan(calibration_error(np.array([]), np.array([]), 5))


def test_items_of_one_confidence_share_a_bin_in_any_order():
    rng = np.random.default_rng(0)
    confidence, correct = np.repeat([0.5, 0.9, 1.0], [40, 40, 48]), (rng.random(128) < 0.7) * 1.0
    found = [calibration_error(confidence[o], correct[o], 10) for o in (rng.permutation(128) for _ in range(20))]
    assert np.ptp(found) < 1e-12


def test_the_squared_error_is_unbiased_and_its_interval_covers():
    """Calibrated answers: ece is .1 of nothing, its unbiased square 0; shifted by .2, .04."""
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.2):
        found, held = [], []
        for seed in range(200):
            confidence = 0.2 + 0.6 * rng.random(128)
            gap = (rng.random(128) < confidence - shift) - confidence
            bin_of = equal_mass(confidence, 8)
            some = subsamples(128, 60, seed, bin_of)
            drawn = np.asarray([squared_error(gap[w], bin_of[w]) for w in (np.ones(128, bool), *some)])
            low, high = subsample_interval(drawn[:, None], some)[:, 0]
            found.append(drawn[0])
            held.append(low <= shift**2 <= high)
        assert np.mean(found) == pytest.approx(shift**2, abs=0.004)
        assert np.mean(held) >= 0.9


def test_bins_have_equal_mass():
    confidence = np.concatenate([np.full(90, 0.5), np.linspace(0.9, 1.0, 10)])
    correct = np.concatenate([np.tile([1.0, 0.0], 45), np.ones(10)])
    assert calibration_error(confidence, correct, 10) == pytest.approx(0.1 * (1 - 0.95), abs=1e-9)


def test_confidence_is_of_the_drawn_ids(tmp_path):
    import torch

    model = Model.load(tiny.save(tmp_path, words=True))
    prompts = twelve_items()
    for kind in ("response", "answer"):
        table = registry.get("calibration")(
            model, prompts, confidence=kind, grade="number", max_new_tokens=8
        ).table.set_index("item")
        for drawn in model.generate(prompts, max_new_tokens=8)[:6]:
            item = drawn.item.id
            ids = torch.tensor([[*model.tokenizer(drawn.item.prompt)["input_ids"], *drawn.ids]])
            batch = next(b for b in model.batches(Prompts((drawn.item,)), batch_size=1))
            from dataclasses import replace

            whole = replace(batch, ids=ids, mask=torch.ones_like(ids, dtype=torch.bool), span=torch.full_like(ids, 2))
            log_p = torch.log_softmax(model.run(whole).logits[0].double(), -1)
            n = len(drawn.ids)
            own = log_p[-n - 1 : -1].gather(-1, torch.tensor(drawn.ids)[:, None])[:, 0].numpy()
            if kind == "response":
                expected = np.exp(own.mean())
            else:
                at = answer_tokens(model.tokenizer, Response(drawn.text, drawn.ids, False), None)
                expected = np.exp(own[at].sum()) if at is not None else np.nan
            assert table.loc[item, "confidence"] == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_where_the_answer_stands():
    toks = tiny.word_tokenizer()
    ids = tuple(toks("think 12 + 5 = 17 ; ans 14", add_special_tokens=False)["input_ids"])
    response = Response(toks.decode(ids), ids, False)
    assert answer_tokens(toks, response, None) == slice(len(ids) - 1, len(ids))
    assert answer_tokens(toks, response, r"= (\d+)") == slice(5, 6)
    assert answer_tokens(toks, response, r"(banana)") is None


def test_bad_bins(base: Model, prompts: Prompts):
    with pytest.raises(InputError, match="bins"):
        registry.get("calibration")(base, prompts, bins=0)
