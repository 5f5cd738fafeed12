"""Closed forms of the neighbouring memorisation metrics, and separations with known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from analyses.memory import _membership as membership
from probe.errors import InputError


def test_min_k_of_everything_is_the_mean_and_short_texts_are_not_nan():
    log_p = np.array([-1.0, -4.0, -2.0])
    assert membership.lowest_mean(log_p, 1.0) == pytest.approx(log_p.mean())
    assert membership.lowest_mean(log_p, 0.34) == -4.0
    assert membership.lowest_mean(log_p, 0.01) == -4.0  # 0 tokens by rounding: at least one
    assert math.isnan(membership.lowest_mean(np.array([]), 0.2))
    with pytest.raises(InputError):
        membership.lowest_mean(log_p, 0.0)


def test_min_k_plus_plus_is_standardised_over_the_models_distribution():
    p = np.array([0.7, 0.2, 0.1])
    log_p = np.log(p)
    mean = (p * log_p).sum()
    variance = (p * (log_p - mean) ** 2).sum()
    scores = membership.standardised(log_p, np.full(3, mean), np.full(3, variance))
    assert scores == pytest.approx([0.63309, -1.14861, -2.13442], abs=1e-5)
    assert (p * scores).sum() == pytest.approx(0, abs=1e-12)
    assert (p * scores**2).sum() == pytest.approx(1)
    one_hot = membership.standardised(np.zeros(1), np.zeros(1), np.zeros(1))
    assert one_hot[0] == 0.0


def test_extractability_of_a_copy_and_of_chance():
    copied = np.array([False, *[True] * 19])
    assert membership.extractable(copied, 8, 8) == 1.0
    assert math.isnan(membership.extractable(copied, 16, 8))
    broken = copied.copy()
    broken[12] = False
    assert membership.extractable(broken, 8, 8) == 0.0
    assert membership.extractable(broken, 13, 7) == 1.0


def test_exposure():
    assert membership.exposure(0.1, np.arange(1.0, 16.0)) == 4.0  # rank 1 of 16
    assert membership.exposure(8.5, np.arange(1.0, 16.0)) == pytest.approx(np.log2(16) - np.log2(9))
    assert membership.exposure(1.0, np.ones(15)) == 0.0  # a model that ranks nothing


def brute_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        brute_distance(a[1:], b) + 1, brute_distance(a, b[1:]) + 1, brute_distance(a[1:], b[1:]) + (a[0] != b[0])
    )


def test_edit_distance_against_its_recursion():
    words = ["", "a", "ab", "ba", "abc", "acb", "bcaa", "aabb"]
    for a, b in itertools.product(words, words):
        assert membership.edit_distance(a, b) == brute_distance(a, b)


def test_peakedness():
    assert membership.peakedness([0, 0], [40, 40, 40]) == 1.0
    assert membership.peakedness([2, 3], [40, 40, 40]) == 0.5
    assert math.isnan(membership.peakedness([], [40]))
    assert math.isnan(membership.peakedness([0], [0, 0])), "an empty greedy response and an empty sample"


def test_auroc_and_tpr_against_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    members = rng.random(300) < 0.5
    scores = np.round(rng.normal(members * 1.0, 1.0), 1)  # rounded: ties
    found = membership.separation(scores, members)
    assert float(found["auroc"].value) == pytest.approx(roc_auc_score(members, scores))
    assert found["auroc"].ci_low < found["auroc"].value < found["auroc"].ci_high
    limit = np.sort(scores[~members])[::-1][int(0.01 * (~members).sum())]
    assert float(found["tpr"].value) == pytest.approx((scores[members] > limit).mean())


def test_shuffled_labels_separate_nothing_and_a_perfect_score_everything():
    rng = np.random.default_rng(1)
    scores, members = rng.normal(size=200), np.arange(200) % 2 == 0
    null = membership.separation(scores, members)["auroc"]
    assert null.ci_low < 0.5 < null.ci_high
    perfect = membership.separation(members.astype(float), members)
    assert float(perfect["auroc"].value) == 1.0 and 0.9 < float(perfect["auroc"].ci_low) < 1.0
    assert float(perfect["tpr"].value) == 1.0
    assert math.isnan(float(membership.separation(scores, np.ones(200, bool))["auroc"].value))


@pytest.mark.parametrize(("n", "d"), [(6, 0.0), (8, 0.0), (16, 1.0), (16, 2.5), (60, 1.0)])
def test_intervals_of_an_auroc_cover(n: int, d: float):
    """A bootstrap of 5 + 5 texts covered .40 to .88."""
    truth, inside = float(norm.cdf(d / np.sqrt(2))), 0
    members = np.arange(2 * n) < n
    for seed in range(300):
        found = membership.separation(np.random.default_rng(seed).normal(members * d, 1.0), members)["auroc"]
        inside += bool(found.ci_low <= truth <= found.ci_high)
    assert inside >= 273  # .91


def test_true_positives_at_a_rate_that_few_non_members_can_show_have_a_lower_bound_of_zero():
    rng = np.random.default_rng(0)
    for n, is_known in ((60, False), (600, True)):
        members = np.arange(2 * n) < n
        found = membership.separation(rng.normal(members * 3.0, 1.0), members)["tpr"]
        assert (float(found.ci_low) > 0) == is_known and found.ci_low <= found.value <= found.ci_high


def test_a_split_by_style_is_seen_by_a_classifier_of_words():
    fair = ["Ann has figs", "Bob has pens", "Cat has keys", "Dan has cups"] * 10
    labels = np.arange(40) % 2 == 0
    shifted = [f"{t} posted in {2019 if m else 2026}" for t, m in zip(fair, labels, strict=True)]
    assert membership.shift_auroc(shifted, labels) > 0.95
    mixed = [f"{t} {i % 7}" for i, t in enumerate(np.repeat(fair[:4], 10))]
    assert membership.shift_auroc(mixed, np.arange(40) % 2 == 0) < 0.75
