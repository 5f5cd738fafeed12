"""Diversity of planted responses: identical ones, all different ones, and a collapse over steps."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analyses.core import analysis as registry
from analyses.core.result import Result
from probe.errors import InputError


def responses(answers: list[list[str]], step: int | None = None) -> Result:
    rows = [
        {
            "item": f"q{i}", "group": "g", "answer_kind": "given", "decoding": "sampled", "sample": s,
            "text": f"so it is {a}", "answer": a, "status": "correct" if a == "1" else "wrong",
            "correct": float(a == "1"),
        }
        for i, of in enumerate(answers)
        for s, a in enumerate(of)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return Result.of(table if step is None else table.assign(step=step))


def series(*per_step: list[list[str]]) -> Result:
    return Result.of(pd.concat([responses(a, step=10 * s).table for s, a in enumerate(per_step)]))


def example(folder) -> dict:
    """For the contract tests."""
    return {"evaluate": series([["1", "2", "3"], ["1", "1", "2"]], [["1", "1", "1"], ["1", "1", "1"]])}


def analysed(result: Result) -> Result:
    return registry.get("diversity")(result)


def test_planted_diversity():
    table = analysed(responses([["1"] * 4, ["1", "2", "3", "4"]])).table.set_index("item")
    assert table.loc["q0", ["semantic_entropy_nats", "modes", "self_bleu", "pass_slope"]].tolist() == [0, 1, 1, 0]
    assert table.loc["q1", "semantic_entropy_nats"] == pytest.approx(math.log(4))
    assert table.loc["q1", "modes"] == pytest.approx(4)
    assert table.loc["q1", "pass_slope"] == pytest.approx(1 - 1 / 4)


def test_a_collapse_is_a_paired_fall_and_identical_steps_change_nothing():
    many, one = [["1", "2", "3", "4"], ["1", "2", "3", "3"], ["1", "2", "2", "2"]] * 2, [["1"] * 4] * 6
    data = analysed(series(many, one, many)).data.sel(group="g", answer_kind="given")
    assert float(data["modes_change"].sel(step=10)) == pytest.approx(1 - (4 + 8 / 3 + 1.6) / 3)
    assert float(data["modes_change"].sel(step=20)) == 0.0
    assert float(data["modes_change_ci_high"].sel(step=10)) < 0
    assert float(np.abs(data["self_bleu_change"].sel(step=0))) == 0.0


def test_one_sample_is_refused():
    with pytest.raises(InputError, match="at least 2 sampled"):
        analysed(responses([["1"]]))
