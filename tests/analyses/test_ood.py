"""Planted losses outside the training distribution, and runs without any."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses.core import analysis as registry
from analyses.core.result import Result
from probe.errors import InputError


def sweep(accuracy: dict[str, tuple[float, ...]], n: int = 100, seed: int = 0) -> Result:
    rng = np.random.default_rng(seed)
    rows = []
    for group, values in accuracy.items():
        ease = rng.random(n)
        for number, chance in enumerate(values):
            for i in range(n):
                right = ease[i] < chance
                rows.append(
                    {
                        "item": f"{group}{i}", "group": group, "answer_kind": "given", "step": number * 10,
                        "decoding": "greedy", "sample": 0,
                        "status": "correct" if right else "wrong", "correct": float(right),
                    }
                )  # fmt: skip
    return Result.of(pd.DataFrame(rows))


def example(folder) -> dict:
    """For the contract tests."""
    return {"evaluate": sweep({"gsm8k": (0.6, 0.8), "svamp": (0.7, 0.5)}, n=20), "inside": ("gsm8k",)}


def analysed(*args, **options) -> Result:
    return registry.get("ood")(*args, **options)


def test_a_planted_loss_outside_has_an_interval_below_0():
    result = analysed(sweep({"gsm8k": (0.6, 0.8), "svamp": (0.7, 0.5), "asdiv": (0.7, 0.6)}), inside=("gsm8k",))
    at = result.data.sel(step=10)
    assert float(at["outside_change"]) == pytest.approx(-0.15, abs=0.05)
    assert float(at["ood_gap_ci_high"]) < 0
    assert float(at["inside_change"]) > 0.1
    assert float(result.data["ood_gap"].sel(step=0)) == 0.0


def test_no_loss_is_not_found():
    at = analysed(sweep({"gsm8k": (0.6, 0.7), "svamp": (0.7, 0.8)}), inside=("gsm8k",)).data.sel(step=10)
    assert float(at["ood_gap_ci_low"]) < 0 < float(at["ood_gap_ci_high"])


def test_another_reference_step():
    result = analysed(sweep({"a": (0.2, 0.8, 0.8), "b": (0.2, 0.8, 0.5)}), inside=("a",), reference=10)
    assert float(result.data["outside_change"].sel(step=10)) == 0.0
    assert float(result.data["outside_change"].sel(step=20)) < -0.2
    with pytest.raises(InputError, match="not measured"):
        analysed(sweep({"a": (0.2, 0.8), "b": (0.2, 0.8)}), reference=5)


def test_bad_input():
    one = sweep({"a": (0.5,)})
    with pytest.raises(InputError, match="at least 2"):
        analysed(one)
    with pytest.raises(InputError, match="no groups"):
        analysed(sweep({"a": (0.5, 0.6)}), inside=("x",))
    assert any("no gap" in w for w in analysed(sweep({"a": (0.5, 0.6)})).warnings)


def test_published_gains_stand_beside_runs_on_the_same_benchmark_only():
    from analyses.answers.ood import figures

    named = figures(analysed(sweep({"math": (0.5, 0.7), "svamp": (0.6, 0.6)}, n=20), inside=("math",)))
    assert any("published" in str(t.name) for t in named["gain"].data)
    other = figures(analysed(sweep({"a": (0.5, 0.7), "b": (0.6, 0.6)}, n=20), inside=("a",)))
    assert not any("published" in str(t.name) for t in other["gain"].data)
