"""A ratio of sums means the same whichever sign its two parts share."""

from __future__ import annotations

import numpy as np

from analyses.core import stats


def test_an_interval_of_negative_sums_is_that_of_positive_ones() -> None:
    rng = np.random.default_rng(0)
    gap = rng.gamma(4.0, size=(40, 3))
    effect = gap * [0.2, 0.8, -0.4] + rng.normal(scale=0.3, size=(40, 3))
    one, other = stats.ratio_of_sums(effect, gap), stats.ratio_of_sums(-effect, -gap)
    for name in ("value", "ci_low", "ci_high"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)
    assert (other.ci_low < other.value).all() and (other.value < other.ci_high).all()
