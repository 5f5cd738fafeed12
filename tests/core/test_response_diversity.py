"""Closed forms of the diversity measures, BLEU against NLTK."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analyses.answers._response_diversity import distinct_n, frequencies, modes, self_bleu, semantic_entropy_nats


def test_one_cluster_and_g_equal_clusters():
    one = frequencies(["7", "7", "7"])
    assert semantic_entropy_nats(one) == 0.0
    assert modes(one) == 1.0
    for g in (2, 5):
        equal = frequencies([str(i) for i in range(g)] * 3)
        assert semantic_entropy_nats(equal) == pytest.approx(math.log(g))
        assert modes(equal) == pytest.approx(g)
    assert math.isnan(modes(frequencies([])))
    assert math.isnan(semantic_entropy_nats(frequencies([])))


@pytest.mark.parametrize(
    ("eps", "by_entropy", "by_squares"),
    [(0.75, 4.0, 4.0), (0.3, 2.5611, 1.9231), (0.1, 1.5449, 1.2295), (0.01, 1.0693, 1.0203), (1e-4, 1.0011, 1.0002)],
)
def test_both_counts_of_modes_in_the_toy_of_m_rationales(eps: float, by_entropy: float, by_squares: float):
    f = np.array([1 - eps, eps / 3, eps / 3, eps / 3])
    assert np.exp(semantic_entropy_nats(f)) == pytest.approx(by_entropy, abs=5e-5)
    assert modes(f) == pytest.approx(by_squares, abs=5e-5)


def test_averaging_two_concentrated_models_in_probability_gives_two_modes():
    a, b = np.full(4, 1e-9 / 3), np.full(4, 1e-9 / 3)
    a[0], b[1] = 1 - 1e-9, 1 - 1e-9
    both = (a + b) / 2
    assert modes(both) == pytest.approx(2, abs=1e-6)
    assert np.exp(semantic_entropy_nats(both)) == pytest.approx(2, abs=1e-6)


def test_distinct_n():
    assert distinct_n([["a", "b"], ["a", "b"]], 1) == 0.5
    assert distinct_n([["a", "b"], ["c", "d"]], 2) == 1.0
    assert math.isnan(distinct_n([["a"]], 2))


def test_self_bleu_at_its_ends_and_against_nltk():
    same = [["a", "b", "c", "d", "e"]] * 3
    assert self_bleu(same) == 1.0
    assert self_bleu([["a", "b"], ["c", "d"]]) == 0.0
    assert math.isnan(self_bleu([["a"]]))
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    rng = np.random.default_rng(0)
    texts = [list(rng.choice(list("ab"), size=14)) for _ in range(4)]
    expected = np.mean([bleu.sentence_bleu([t for j, t in enumerate(texts) if j != i], x) for i, x in enumerate(texts)])
    assert self_bleu(texts) == pytest.approx(expected)
