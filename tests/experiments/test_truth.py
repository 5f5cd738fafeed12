"""The truth scripts: intervals that are right where the answer is known, and a committed file that is whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from experiments.lab import entropy_truth, intervals, table
from experiments.lab.training import load
from experiments.lab.truth import TRUTH


def test_intervals_of_known_data():
    assert intervals.interval([1.0, 1, 1]) == (1.0, [1.0, 1.0])
    _, (low, high) = intervals.interval(np.random.default_rng(0).normal(2, 1, 400))
    assert low < 2 < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    ratio, ci = intervals.ratio_interval(np.array([2.0, 4]), np.array([1.0, 2]))
    assert (ratio, ci) == (2.0, [2.0, 2.0])


def test_group_gap_is_antisymmetric_and_covers_zero_for_equal_groups():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=200), rng.normal(size=100)
    value, (low, high) = intervals.group_gap(x, y)
    assert low < 0 < high
    assert intervals.group_gap(y, x)[0] == pytest.approx(-value)
    assert intervals.group_gap(x + 3, y)[1][0] > 2


def test_correlation_of_a_line_and_of_noise():
    x = np.linspace(0, 1, 30)
    assert intervals.correlation(x, 2 * x)[0] == 1
    _, (low, high) = intervals.correlation(x, np.random.default_rng(0).normal(size=30))
    assert low < 0 < high


def test_recorded_entropy_equals_the_plain_scripts(tiny_lab: Path):
    run = tiny_lab / "grpo-format"
    rollouts = pq.read_table(run / "rollouts").to_pandas()
    rows = entropy_truth.rollout_in_use(rollouts, 6)
    assert set(rows.step) == {4}
    with torch.no_grad():
        plain = float(
            entropy_truth.mean_entropy(load(run / "window" / "checkpoint-4").eval(), entropy_truth.batch_of(rows))
        )
    assert plain == pytest.approx(np.concatenate(rows.H.to_list()).mean(), abs=1e-4)


def test_the_gradient_predicts_a_small_step(tiny_lab: Path):
    run = tiny_lab / "grpo-format"
    rollouts = pq.read_table(run / "rollouts").to_pandas()
    batch = entropy_truth.batch_of(rollouts[rollouts.step == 0])
    model = load(run / "checkpoint-0").eval()
    entropy = entropy_truth.mean_entropy(model, batch)
    entropy.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    square = float(sum((g**2).sum() for g in gradients))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-3 * parameter.grad
        moved = float(entropy_truth.mean_entropy(model, batch) - entropy)
    assert moved == pytest.approx(1e-3 * square, rel=0.05)


def test_the_committed_truth_is_whole():
    truth = json.loads(TRUTH.read_text())
    assert sorted(truth["seeds"]) == ["0", "1", "2"]
    for entry in truth["seeds"].values():
        assert entry["planted_block"] == 3
        assert set(entry["findings"]) == set(truth["rules"]) == set(intervals.RULES)
        for finding in entry["findings"].values():
            assert isinstance(finding["holds"], bool)
            low, high = finding["ci"]
            assert low <= finding["value"] <= high
            assert finding["n"] > 0
    assert len({entry["recipe"] for entry in truth["seeds"].values()}) == 3


def test_the_readme_says_what_truth_json_says():
    assert table.tables() in table.README.read_text()
    assert {name for _, _, name in table.LINES} == set(intervals.RULES)
