"""The path between two checkpoints: its ends are the checkpoints, between equal ones it is flat."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.core import analysis as registry
from analyses.core.result import Result
from probe import Model, Prompts
from tests import tiny
from tests.tiny import twelve_items


def example(folder) -> dict:
    """For the contract tests."""
    series = tiny.series(folder, steps=(0, 10))
    return {
        "base": Model.load(series / "checkpoint-0"),
        "tuned": Model.load(series / "checkpoint-10"),
        "prompts": twelve_items(),
        "weights": (0.0, 0.5, 1.0),
        "grade": "number",
        "max_new_tokens": 4,
    }


def analysed(*args, **options) -> Result:
    return registry.get("merge")(*args, **options)


def test_ends_are_the_checkpoints_own_perplexity(base: Model, tuned: Model, prompts: Prompts):
    result = analysed(base, tuned, prompts, weights=(0.0, 0.5, 1.0), generate=False)
    for weight, model in ((0.0, base), (1.0, tuned)):
        own = registry.get("perplexity")(model, prompts).data["nll_nats"].sel(variant="micro", mask="answer")
        ours = result.data["nll_nats"].sel(alpha=weight)
        np.testing.assert_allclose(ours.transpose(*own.dims).values, own.values, atol=1e-6)


def test_equal_checkpoints_give_a_flat_line_and_a_warning(base: Model, prompts: Prompts):
    result = analysed(base, base, prompts, weights=(0.0, 0.5, 1.0), generate=False)
    assert result.warnings
    assert float(result.data["nll_nats"].std("alpha").max()) == pytest.approx(0, abs=1e-7)


def test_an_average_is_kept_as_a_checkpoint(base: Model, tuned: Model, prompts: Prompts, tmp_path):
    analysed(base, tuned, prompts, weights=(0.0,), generate=False, out=str(tmp_path / "half"))
    half = Model.load(tmp_path / "half")
    name, tensor = next(iter(half.weights().items()))
    mean = (base.weights()[name] + tuned.weights()[name]) / 2
    np.testing.assert_allclose(tensor.detach().numpy(), mean.detach().numpy(), atol=1e-7)


def test_responses_are_graded_along_the_path(base: Model, tuned: Model, prompts: Prompts):
    result = analysed(base, tuned, prompts, weights=(0.0, 0.5), grade="number", samples=2, max_new_tokens=4)
    assert set(result.table["alpha"]) == {0.0, 0.5}
    assert {"correct", "modes"} <= set(result.table)
