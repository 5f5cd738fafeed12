"""Several temperatures: the printed shared budget, dealt nulls by enumeration, planted exclusives, votes."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers.temperatures import certainty, shared_pass
from analyses.core.claim import FOUND
from analyses.core.reading.votes import pass_at_k
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def sampled(rates: dict[float, np.ndarray], n: int, seed: int) -> Result:
    parts = [graded.drawn(p, n, 100 * seed + k, temperature=t) for k, (t, p) in enumerate(rates.items())]
    return Result.of(pd.concat(parts, ignore_index=True))


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": sampled({0.5: np.linspace(0, 1, 9), 1.0: np.linspace(1, 0, 9)}, 4, 0)}


def answer(result: Result) -> str:
    (one,) = result.claims
    return one.answer


def test_the_printed_shared_budget_and_one_temperature() -> None:
    assert shared_pass([16, 16], [2, 5], 8) == pytest.approx(0.900275, abs=5e-7)
    assert shared_pass([16], [3], 4) == pytest.approx(pass_at_k(16, 3, 4))
    assert shared_pass([4, 4], [1, 0], 1) == 0.25, "an odd one goes to the lowest temperature"


def test_the_dealt_null_by_enumeration() -> None:
    """2 right of 3 + 2 samples: both fall to the first in 3 of 10 deals, to the second in 1."""
    rows = pd.concat(
        [graded.answered([["1", "1", "2"]], temperature=0.5), graded.answered([["2", "2"]], temperature=1)]
    )
    table = get("temperatures")(Result.of(rows)).table.set_index("temperature")
    deals = [set(d) for d in combinations(range(5), 2)]
    assert table.loc[0.5, "exclusive_null"] == pytest.approx(sum(d <= {0, 1, 2} for d in deals) / 10) == 0.3
    assert table.loc[1.0, "exclusive_null"] == pytest.approx(0.1)
    assert table["exclusive"].tolist() == [1, 0]


def test_planted_exclusives_are_found_and_one_rate_for_all_is_not() -> None:
    low = np.repeat([0.8, 0.0], 20)
    assert answer(get("temperatures")(sampled({0.2: low, 1.0: low[::-1]}, 8, 0))) == FOUND
    rates = np.random.default_rng(0).beta(0.3, 1.0, 40)
    said = [answer(get("temperatures")(sampled({0.2: rates, 1.0: rates}, 8, s))) for s in range(1, 9)]
    assert said.count(FOUND) <= 1


@pytest.mark.verify
def test_one_rate_for_all_over_200_seeds() -> None:
    rates = np.random.default_rng(0).beta(0.3, 1.0, 40)
    said = [answer(get("temperatures")(sampled({0.2: rates, 1.0: rates}, 8, s))) for s in range(200)]
    assert said.count(FOUND) <= 14


def test_certain_temperatures_have_more_say() -> None:
    sure = graded.answered([["1", "1", "1"]], temperature=0.2)
    unsure = graded.answered([["2", "2", "2", "2", "3", "4", "5", "6"]], temperature=1.5)
    row = get("temperatures")(Result.of(pd.concat([sure, unsure]))).table.iloc[0]
    assert row["vote"] == 0 and row["weighted_vote"] == 1
    assert certainty(Counter("aaaa")) == 1 and certainty(Counter("abcd")) == pytest.approx(0, abs=1e-12)


def test_one_temperature_is_refused() -> None:
    with pytest.raises(InputError, match="several temperatures"):
        get("temperatures")(sampled({0.5: np.array([0.5])}, 4, 0))
    with pytest.raises(InputError, match="k=9"):
        get("temperatures")(sampled({0.5: np.array([0.5]), 1.0: np.array([0.5])}, 4, 0), k=9)
