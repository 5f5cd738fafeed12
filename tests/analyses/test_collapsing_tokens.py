"""Collapsing tokens: the score, an even and a concentrated fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.credit.collapsing_tokens import omega
from probe import InputError, Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def test_the_score_as_coded_and_as_named() -> None:
    new, old, entropy, advantage = (np.array([x]) for x in (np.log(0.3), np.log(0.2), 1.5, 2.0))
    want = 1.5 * 2.0 * 0.7 * (np.log(0.3) + 1.5)
    assert omega(new, old, entropy, advantage)[0] == pytest.approx(want)
    assert omega(new, old, entropy, advantage, squared=True)[0] == pytest.approx(want * 0.7)
    assert omega(np.array([0.0]), np.array([0.0]), entropy, advantage)[0] == pytest.approx(0, abs=1e-7)


def response(entropies: list[float], sample: int) -> dict[str, Any]:
    n = len(entropies)
    row = {"step": 1, "prompt_id": "q", "prompt_token_ids": [1], "response_token_ids": [sample] * n}
    return {**row, "advantage": 1.0, "old_logp": [np.log(0.5)] * n, "H": entropies, "logp_temperature": 1.0}


def test_an_even_fall_is_spread_evenly_and_one_token_can_hold_it_all() -> None:
    even = run("collapsing_tokens", rollouts=Rollouts.of([response([2.0] * 10, 0)]), fractions=(0.2, 1.0))
    assert even.data["collapsing"].item() == 1
    assert even.data["top_share"].values.ravel().tolist() == pytest.approx([0.2, 1.0])
    one = run("collapsing_tokens", rollouts=Rollouts.of([response([2.0] + [0.1] * 9, 0)]), fractions=(0.1,))
    assert one.data["collapsing"].item() == pytest.approx(0.1)
    assert one.data["top_share"].item() == 1
    assert one.table["rise"].iloc[0] > 0
    with pytest.raises(InputError, match="fractions"):
        run("collapsing_tokens", rollouts=Rollouts.of([response([2.0], 0)]), fractions=(2.0,))


def test_tokens_that_a_log_lacks_numbers_of_are_in_no_share() -> None:
    """Half of the tokens without H, one whole response without, and a ratio that is missing: not measured, not 0."""
    whole, gaps, none = response([2.0] * 4, 0), response([2.0, 2.0, None, None], 1), response([None] * 4, 2)
    found = run("collapsing_tokens", rollouts=Rollouts.of([whole, gaps, none]), fractions=(1.0,))
    assert found.data["collapsing"].item() == 1
    assert sorted(found.table["n_measured"]) == [0, 2, 4]
    assert np.isnan(found.table.query("n_measured == 0")["n_collapsing"].item())
    ratios = [{**whole, "new_logp": [np.log(0.5), None, None, None]}, gaps]
    found = run("collapsing_tokens", rollouts=Rollouts.of(ratios), fractions=(1.0,))
    assert sorted(found.table["n_measured"]) == [0, 1]
