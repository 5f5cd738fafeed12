"""Whether two checkpoints' states are alike: turned ones are, independent ones are not, one state decides."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from analyses.core.stats import subsamples
from analyses.states import similarity as module


def answer(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> str:
    kept = subsamples(len(x[0]), 100, 0, least=4)
    drawn = [module.compared(a, b, kept) for a, b in zip(x, y, strict=True)]
    return module._alike(module._curves(drawn, kept), "there").answer


def test_independent_states_are_not_alike_and_turned_ones_are() -> None:
    rng = np.random.default_rng(5)
    x = list(rng.normal(size=(2, 40, 12)))
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    turned = [of @ turn + 0.3 * rng.normal(size=of.shape) for of in x]
    assert answer(x, turned) == "found"
    assert [answer(x, list(rng.normal(size=(2, 40, 12)))) for _ in range(6)].count("found") <= 1
    assert answer(x, [turned[0], rng.normal(size=(40, 12))]) == "none found", "one state that differs is enough"
    assert answer([of[:5] for of in x], [of[:5] for of in turned]) == "cannot be judged"


@pytest.mark.verify
def test_independent_states_over_100_seeds() -> None:
    drawn = (np.random.default_rng(s).normal(size=(2, 1, 32, 16)) for s in range(100))
    assert [answer(list(x), list(y)) for x, y in drawn].count("found") <= 10
