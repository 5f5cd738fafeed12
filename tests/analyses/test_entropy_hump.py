"""The hump of accuracy over entropy: a parabola recovered, a planted hump found, a straight fall not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers.entropy_hump import quadratic
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded

HEATS = (0.2, 0.6, 1.0, 1.4, 1.8)


def heated(rates: tuple[float, ...], n_items: int, seed: int, n: int = 8) -> Result:
    """Samples that spread over more and more wrong answers, right at the temperature's rate."""
    rng, parts = np.random.default_rng(seed), []
    for level, (heat, rate) in enumerate(zip(HEATS, rates, strict=False)):
        wrong = lambda level=level: str(rng.integers(2, 3 + 3 * level))  # noqa: E731
        said = [["1" if x < rate else wrong() for x in rng.random(n)] for _ in range(n_items)]
        parts.append(graded.answered(said, temperature=heat))
    return Result.of(pd.concat(parts, ignore_index=True))


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": heated((0.3, 0.6, 0.7, 0.5, 0.2), 9, 0, 4)}


def answer(result: Result) -> str:
    (one,) = result.claims
    return one.answer


def test_weights_recover_a_parabola() -> None:
    h = np.array([0.1, 0.5, 0.8, 1.5, 1.9])
    x = h - h.mean()
    np.testing.assert_allclose(quadratic(h) @ (0.7 + 0.2 * x - 0.5 * x**2), [0.7, 0.2, -0.5], atol=1e-12)
    with pytest.raises(InputError, match="hardly differ"):
        quadratic(np.zeros(4))


def test_the_mean_of_items_curvatures_is_that_of_the_fit() -> None:
    result = get("entropy_hump")(heated((0.3, 0.6, 0.7, 0.5, 0.2), 12, 1))
    table = result.table
    means = table.groupby("temperature")[["entropy_nats", "right"]].mean()
    c = np.polyfit(means["entropy_nats"], means["right"], 2)[0]
    assert float(result.data["curvature"].item()) == pytest.approx(c)


def test_a_hump_is_found_and_a_straight_fall_is_not() -> None:
    assert answer(get("entropy_hump")(heated((0.2, 0.5, 0.7, 0.5, 0.1), 40, 0))) == FOUND
    said = [answer(get("entropy_hump")(heated((0.5, 0.5, 0.5, 0.5, 0.5), 24, s))) for s in range(6)]
    assert said.count(FOUND) <= 1 and NONE in said
    assert answer(get("entropy_hump")(heated((0.2, 0.5, 0.7, 0.5, 0.1), 4, 0))) == UNJUDGED


@pytest.mark.verify
def test_flat_accuracy_over_100_seeds() -> None:
    said = [answer(get("entropy_hump")(heated((0.5, 0.5, 0.5, 0.5, 0.5), 24, s))) for s in range(100)]
    assert said.count(FOUND) <= 10


def test_what_is_missing_is_told() -> None:
    with pytest.raises(InputError, match="column `temperature`"):
        get("entropy_hump")(Result.of(graded.answered([["1", "2"]])))
    with pytest.raises(InputError, match="at least 4"):
        get("entropy_hump")(heated((0.5, 0.5, 0.5), 4, 0))
